/* Token reduction on an NVIDIA GPU: the plain C entries.
 *
 * The definitions of the ops are plugins/ops/token_merge/op.py, token_prune/op.py and token_restore/op.py; all
 * arrays are dense, row-major, in device memory, in the shapes given there. Tokens, metric and merged tokens
 * are fp16 or fp32 (`half` says which); sizes and scores are fp32 always, so that a size is exact.
 * The entries only launch: they allocate nothing and do not wait. They return 0, 1 when a size is out of
 * range, or 1000 plus the CUDA error of a launch.
 */
#ifndef EDGEC_TOKEN_CUDA_H
#define EDGEC_TOKEN_CUDA_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t batch, length, channels; /* tokens (batch, length, channels) */
    int64_t heads, depth;            /* metric (batch, heads, length, depth) */
    int64_t r;                       /* tokens to take away */
    int64_t guarded;                 /* leading tokens that stay as they are */
} edgec_cuda_token_shape;

/* Bytes of device memory, aligned to 256, that a call needs besides its arrays. */
int64_t edgec_cuda_token_workspace(const edgec_cuda_token_shape* shape);

int edgec_cuda_token_merge(const edgec_cuda_token_shape* shape, int half, const void* tokens,
                           const void* metric, const float* sizes, void* merged, float* merged_sizes,
                           int32_t* assignment, void* workspace, void* stream);

int edgec_cuda_token_merge_energy(const edgec_cuda_token_shape* shape, int half, float margin,
                                  const void* tokens, const void* metric, const float* sizes, void* merged,
                                  float* merged_sizes, int32_t* assignment, void* workspace, void* stream);

int edgec_cuda_token_prune(const edgec_cuda_token_shape* shape, int half, int merge, const void* tokens,
                           const float* score, const void* metric, const float* sizes, void* merged,
                           float* merged_sizes, int32_t* assignment, void* workspace, void* stream);

int edgec_cuda_token_restore(int64_t batch, int64_t kept, int64_t length, int64_t channels, int half,
                             const void* tokens, const int32_t* assignment, void* restored, void* stream);

#ifdef __cplusplus
}
#endif
#endif
