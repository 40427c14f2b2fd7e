// Picks the instruction set of the attention kernel at run time, and moves rows.

#include "varlen_kernels.h"

#include <math.h>
#include <string.h>

#define DECLARE(isa)                                                                                          \
    void edgec_varlen_attention_##isa(const edgec_varlen_shape*, const void*, const void*, const void*,       \
                                      const int32_t*, const int32_t*, void*, edgec_parallel, edgec_scratch);

extern "C" {
DECLARE(avx512)
DECLARE(avx2)
DECLARE(baseline)

void edgec_varlen_attention(const edgec_varlen_shape* shape, const void* query, const void* key,
                            const void* value, const int32_t* ends, const int32_t* places, void* output,
                            edgec_parallel parallel, edgec_scratch scratch) {
    edgec_varlen_shape given = *shape;
    if (!(given.scale > 0.0f)) given.scale = 1.0f / sqrtf(static_cast<float>(given.depth));
    const char* set = edgec_token_instructions();
    const auto entry = strcmp(set, "avx512") == 0 ? edgec_varlen_attention_avx512
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
