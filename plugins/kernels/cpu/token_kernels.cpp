// Picks the instruction set of the token kernels at run time, and holds what needs none.

#include "token_kernels.h"

#include <string.h>

#define DECLARE(isa)                                                                                        \
    int64_t edgec_token_workspace_##isa(const edgec_token_shape*);                                          \
    int edgec_token_merge_##isa(const edgec_token_shape*, const void*, const void*, const float*, void*,    \
                                float*, int32_t*, void*, edgec_parallel, int64_t);                          \
    int edgec_token_merge_energy_##isa(const edgec_token_shape*, float, const void*, const void*,           \
                                       const float*, void*, float*, int32_t*, void*, edgec_parallel,        \
                                       int64_t);                                                            \
    int edgec_token_prune_##isa(const edgec_token_shape*, int, const void*, const float*, const void*,      \
                                const float*, void*, float*, int32_t*, void*, edgec_parallel, int64_t);

extern "C" {
DECLARE(avx512)
DECLARE(avx2)
DECLARE(baseline)
}

namespace {

enum class Isa { avx512, avx2, baseline };

Isa detect() {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return Isa::avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::avx2;
    return Isa::baseline;
}

const Isa ISA = detect();

}  // namespace

#define DISPATCH(name, ...)                                              \
    switch (ISA) {                                                       \
        case Isa::avx512: return edgec_##name##_avx512(__VA_ARGS__);     \
        case Isa::avx2: return edgec_##name##_avx2(__VA_ARGS__);         \
        default: return edgec_##name##_baseline(__VA_ARGS__);            \
    }

extern "C" {

int64_t edgec_token_workspace(const edgec_token_shape* shape) { DISPATCH(token_workspace, shape) }

int edgec_token_merge(const edgec_token_shape* shape, const void* tokens, const void* metric,
                      const float* sizes, void* merged, float* merged_sizes, int32_t* assignment,
                      void* workspace, edgec_parallel parallel, int64_t threads) {
    DISPATCH(token_merge, shape, tokens, metric, sizes, merged, merged_sizes, assignment, workspace, parallel,
             threads)
}

int edgec_token_merge_energy(const edgec_token_shape* shape, float margin, const void* tokens,
                             const void* metric, const float* sizes, void* merged, float* merged_sizes,
                             int32_t* assignment, void* workspace, edgec_parallel parallel,
                             int64_t threads) {
    DISPATCH(token_merge_energy, shape, margin, tokens, metric, sizes, merged, merged_sizes, assignment,
             workspace, parallel, threads)
}

int edgec_token_prune(const edgec_token_shape* shape, int merge, const void* tokens, const float* score,
                      const void* metric, const float* sizes, void* merged, float* merged_sizes,
                      int32_t* assignment, void* workspace, edgec_parallel parallel, int64_t threads) {
    DISPATCH(token_prune, shape, merge, tokens, score, metric, sizes, merged, merged_sizes, assignment,
             workspace, parallel, threads)
}

int edgec_token_restore(int64_t batch, int64_t kept, int64_t length, int64_t channels, const float* tokens,
                        const int32_t* assignment, float* restored) {
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t n = 0; n < length; ++n) {
            const int64_t m = assignment[b * length + n];
            if (m < 0 || m >= kept) return 1;
            memcpy(restored + (b * length + n) * channels, tokens + (b * kept + m) * channels,
                   static_cast<size_t>(channels) * sizeof(float));
        }
    return 0;
}

const char* edgec_token_instructions(void) {
    return ISA == Isa::avx512 ? "avx512" : ISA == Isa::avx2 ? "avx2" : "baseline";
}

}  // extern "C"
