/* Attention over sequences of different lengths on an NVIDIA GPU: the plain C entry.
 *
 * The definition is plugins/ops/varlen_attention/op.py. Arrays are fp16 in device memory; `*_stride` are elements
 * from one token to the next, so that packed projections need no copy. The entry only launches: it
 * allocates nothing and does not wait. It returns 0, 1 when a size is out of range, or 1000 plus the CUDA
 * error of the launch.
 */
#ifndef EDGEC_VARLEN_CUDA_H
#define EDGEC_VARLEN_CUDA_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t sequences;    /* cu_seqlens has one more */
    int64_t heads, depth; /* query (tokens, heads, depth); depth a multiple of 8, at most 128 */
    int64_t max_length;   /* at least the longest sequence's length */
    int64_t query_stride, key_stride, value_stride, output_stride; /* multiples of 8 */
    float scale; /* of the logits; 0 for 1 / sqrt(depth) */
} edgec_cuda_varlen_shape;

int edgec_cuda_varlen_attention(const edgec_cuda_varlen_shape* shape, const void* query, const void* key,
                                const void* value, const int32_t* cu_seqlens, void* output, void* stream);

#ifdef __cplusplus
}
#endif
#endif
