/* Batches without padding on a CPU: the plain C entries.
 *
 * The definitions are plugins/ops/varlen_attention/op.py and plugins/ops/pack_tokens/op.py. Arrays are dense and
 * row-major; float32, or bf16 where the shape says half: everything is computed in float32 all the same, but
 * that weights are rounded to bf16 where AMX makes the products.
 */
#ifndef EDGEC_VARLEN_KERNELS_H
#define EDGEC_VARLEN_KERNELS_H

#include <stdint.h>

#include "token_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Memory of the calling thread, aligned to 64, that stays until the thread asks again. */
typedef void* (*edgec_scratch)(int64_t bytes);

typedef struct {
    int64_t sequences, heads, depth; /* query (tokens, heads, depth); ends has sequences + 1 entries */
    float scale;                     /* of the logits; 0 for 1 / sqrt(depth) */
    int64_t half;                    /* 1: bf16 */
    int64_t window;                  /* with places: tokens whose places differ by more do not see each other */
} edgec_varlen_shape;

/* `places` (tokens) rises within each sequence; NULL where every token of a sequence sees all of it. */
void edgec_varlen_attention(const edgec_varlen_shape* shape, const void* query, const void* key,
                            const void* value, const int32_t* ends, const int32_t* places, void* output,
                            edgec_parallel parallel, edgec_scratch scratch);

/* 1 where bf16 attention runs by AMX's tiles on this machine. */
int edgec_varlen_tiles(void);

/* Rows of `channels` elements of `size` bytes: those that are visible (rows bytes, 0 or not) one after the
 * other, or back at their places with zeros between. They return how many are visible. */
int64_t edgec_pack_rows(int64_t rows, int64_t bytes, const char* visible, const char* from, char* to);
int64_t edgec_unpack_rows(int64_t rows, int64_t bytes, const char* visible, const char* from, char* to);

#ifdef __cplusplus
}
#endif
#endif
