// Picks the instruction set of the attention kernel at run time, and moves rows.

#include "varlen_kernels.h"

#include <cpuid.h>
#include <math.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DECLARE(isa)                                                                                          \
    void edgec_varlen_attention_##isa(const edgec_varlen_shape*, const void*, const void*, const void*,       \
                                      const int32_t*, const int32_t*, void*, edgec_parallel, edgec_scratch);

extern "C" {
DECLARE(avx512)
DECLARE(avx2)
DECLARE(baseline)
DECLARE(amx)
}

namespace {

// Whether the processor has AMX's bf16 tiles and the system lends them: Linux asks a process to ask
// (Documentation/arch/x86/xstate.rst).
bool may_use_tiles() {
    constexpr unsigned AMX_BF16 = 1u << 22, AMX_TILE = 1u << 24;
    constexpr long ASK_FOR_STATE = 0x1023, TILE_DATA = 18;
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & AMX_BF16) == 0 || (d & AMX_TILE) == 0) return false;
    return syscall(SYS_arch_prctl, ASK_FOR_STATE, TILE_DATA) == 0;
}

}  // namespace

extern "C" {

int edgec_varlen_tiles(void) {
    static const bool may = strcmp(edgec_token_instructions(), "avx512") == 0 && may_use_tiles();
    return may ? 1 : 0;
}

void edgec_varlen_attention(const edgec_varlen_shape* shape, const void* query, const void* key,
                            const void* value, const int32_t* ends, const int32_t* places, void* output,
                            edgec_parallel parallel, edgec_scratch scratch) {
    edgec_varlen_shape given = *shape;
    if (!(given.scale > 0.0f)) given.scale = 1.0f / sqrtf(static_cast<float>(given.depth));
    const char* set = edgec_token_instructions();
    const auto entry = given.half && edgec_varlen_tiles() ? edgec_varlen_attention_amx
                       : strcmp(set, "avx512") == 0        ? edgec_varlen_attention_avx512
                       : strcmp(set, "avx2") == 0 ? edgec_varlen_attention_avx2
                                                  : edgec_varlen_attention_baseline;
    entry(&given, query, key, value, ends, places, output, parallel, scratch);
}

int64_t edgec_pack_rows(int64_t rows, int64_t bytes, const char* visible, const char* from, char* to) {
    int64_t count = 0;
    for (int64_t row = 0; row < rows; ++row)
        if (visible[row]) memcpy(to + count++ * bytes, from + row * bytes, static_cast<size_t>(bytes));
    return count;
}

int64_t edgec_unpack_rows(int64_t rows, int64_t bytes, const char* visible, const char* from, char* to) {
    int64_t count = 0;
    for (int64_t row = 0; row < rows; ++row) {
        if (visible[row])
            memcpy(to + row * bytes, from + count++ * bytes, static_cast<size_t>(bytes));
        else
            memset(to + row * bytes, 0, static_cast<size_t>(bytes));
    }
    return count;
}

}  // extern "C"
