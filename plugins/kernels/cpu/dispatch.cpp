// Picks a kernel's variant at run time.

#include "dispatch.h"

#include <cpuid.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

// Whether the processor has AMX's bf16 tiles and the system lends them: Linux asks a process to ask
// (Documentation/arch/x86/xstate.rst).
bool may_use_tiles() {
    constexpr unsigned AMX_BF16 = 1u << 22, AMX_TILE = 1u << 24;
    constexpr long ASK_FOR_STATE = 0x1023, TILE_DATA = 18;
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & AMX_BF16) == 0 || (d & AMX_TILE) == 0) return false;
    return syscall(SYS_arch_prctl, ASK_FOR_STATE, TILE_DATA) == 0;
}

struct Processor {
    bool avx512, avx2, amx;

    Processor() {
        __builtin_cpu_init();
        avx512 = has_avx512();
        avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
        amx = avx512 && may_use_tiles();
    }
};

const Processor& processor() {
    static const Processor found;
    return found;
}

}  // namespace

extern "C" {

int edgec_runs(const char* instructions) {
    if (strcmp(instructions, "avx512") == 0) return processor().avx512 ? 1 : 0;
    if (strcmp(instructions, "avx2") == 0) return processor().avx2 ? 1 : 0;
    if (strcmp(instructions, "amx") == 0) return processor().amx ? 1 : 0;
    return strcmp(instructions, "baseline") == 0 ? 1 : 0;
}

int edgec_dispatch(const edgec_variant* variants, int64_t count, const edgec_cpu_call* call) {
    for (int64_t place = 0; place < count; ++place) {
        if (edgec_runs(variants[place].instructions) == 0) continue;
        const int status = variants[place].entry(call);
        if (status != EDGEC_NOT_MINE) return status;
    }
    return EDGEC_REFUSED;
}

}  // extern "C"
