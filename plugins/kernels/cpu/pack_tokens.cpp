// PackTokens and UnpackTokens: rows that are visible, one after the other and back at their places.

#include <string.h>

#include "kernel.h"

namespace {

int64_t bytes_of(const edgec_tensor& tensor) { return tensor.type == EDGEC_FLOAT32 ? 4 : 2; }

// How many of `count` rows are visible.
int64_t visible_rows(const char* visible, int64_t count) {
    int64_t found = 0;
    for (int64_t row = 0; row < count; ++row) found += visible[row] != 0;
    return found;
}

int64_t rows_of(const edgec_tensor& visible) { return visible.sizes[0] * visible.sizes[1]; }

}  // namespace

EDGEC_CPU_OPEN_SIZE(PackTokens) {
    return visible_rows(static_cast<const char*>(call->inputs[1].data), rows_of(call->inputs[1]));
}

EDGEC_CPU_KERNEL(PackTokens) {
    const edgec_tensor &tokens = call->inputs[0], &mask = call->inputs[1];
    const int64_t batch = mask.sizes[0], length = mask.sizes[1], bytes = tokens.sizes[2] * bytes_of(tokens);
    const char* visible = static_cast<const char*>(mask.data);
    const char* from = static_cast<const char*>(tokens.data);
    char* to = static_cast<char*>(call->outputs[0].data);
    int32_t* ends = static_cast<int32_t*>(call->outputs[1].data);
    int64_t count = 0;
    ends[0] = 0;
    for (int64_t sample = 0; sample < batch; ++sample) {
        for (int64_t row = sample * length; row < (sample + 1) * length; ++row)
            if (visible[row]) memcpy(to + count++ * bytes, from + row * bytes, static_cast<size_t>(bytes));
        ends[sample + 1] = static_cast<int32_t>(count);
    }
    return EDGEC_DONE;
}

EDGEC_CPU_KERNEL(UnpackTokens) {
    const edgec_tensor &packed = call->inputs[0], &mask = call->inputs[1];
    const int64_t rows = rows_of(mask), bytes = packed.sizes[2] * bytes_of(packed);
    const char* visible = static_cast<const char*>(mask.data);
    const char* from = static_cast<const char*>(packed.data);
    char* to = static_cast<char*>(call->outputs[0].data);
    if (visible_rows(visible, rows) != packed.sizes[1]) return EDGEC_REFUSED;
    int64_t count = 0;
    for (int64_t row = 0; row < rows; ++row) {
        if (visible[row])
            memcpy(to + row * bytes, from + count++ * bytes, static_cast<size_t>(bytes));
        else
            memset(to + row * bytes, 0, static_cast<size_t>(bytes));
    }
    return EDGEC_DONE;
}
