/* Token reduction on a CPU: the plain C entries.
 *
 * The definitions of the ops are plugins/ops/token_merge/op.py, token_prune/op.py and token_restore/op.py; all
 * arrays are dense, row-major float32 in the shapes given there; tokens, metric and merged are bf16 where the
 * shape says half, and everything is computed in float32 all the same. The entries allocate nothing: the caller
 * brings `edgec_token_workspace` bytes, aligned to 64. They return 0, or 1 when a size is out of range.
 */
#ifndef EDGEC_TOKEN_KERNELS_H
#define EDGEC_TOKEN_KERNELS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Runs task(index, data) for index 0 … count - 1, in any order and on any threads, and returns when all
 * are done. NULL in its place runs them one after the other on the calling thread. */
typedef void (*edgec_task)(int64_t index, void* data);
typedef void (*edgec_parallel)(int64_t count, edgec_task task, void* data);

typedef struct {
    int64_t batch, length, channels; /* tokens (batch, length, channels) */
    int64_t heads, depth;            /* metric (batch, heads, length, depth) */
    int64_t r;                       /* tokens to take away */
    int64_t guarded;                 /* leading tokens that stay as they are */
    int64_t half;                    /* 1: tokens, metric and merged are bf16 */
} edgec_token_shape;

int64_t edgec_token_workspace(const edgec_token_shape* shape);

int edgec_token_merge(const edgec_token_shape* shape, const void* tokens, const void* metric,
                      const float* sizes, void* merged, float* merged_sizes, int32_t* assignment,
                      void* workspace, edgec_parallel parallel, int64_t threads);

int edgec_token_merge_energy(const edgec_token_shape* shape, float margin, const void* tokens,
                             const void* metric, const float* sizes, void* merged, float* merged_sizes,
                             int32_t* assignment, void* workspace, edgec_parallel parallel,
                             int64_t threads);

int edgec_token_prune(const edgec_token_shape* shape, int merge, const void* tokens, const float* score,
                      const void* metric, const float* sizes, void* merged, float* merged_sizes,
                      int32_t* assignment, void* workspace, edgec_parallel parallel, int64_t threads);

/* tokens (batch, kept, channels), assignment (batch, length), restored (batch, length, channels). */
int edgec_token_restore(int64_t batch, int64_t kept, int64_t length, int64_t channels, const float* tokens,
                        const int32_t* assignment, float* restored);

/* The instruction set in use: "avx512", "avx2" or "baseline". */
const char* edgec_token_instructions(void);

#ifdef __cplusplus
}
#endif
#endif
