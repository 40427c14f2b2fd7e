// SizeBias: the logarithm of the tokens' sizes, a row for each head.

#include <math.h>
#include <string.h>

#include "kernel.h"

EDGEC_CPU_KERNEL(SizeBias) {
    const edgec_tensor& given = call->inputs[0];
    const int64_t batch = given.sizes[0], length = given.sizes[1], heads = attribute(*call, "heads").integer;
    const float floor = static_cast<float>(attribute(*call, "floor").number);
    const float* sizes = static_cast<const float*>(given.data);
    float* bias = static_cast<float*>(call->outputs[0].data);
    if (length == 0) return EDGEC_DONE;  // however many heads have a row of it
    for (int64_t sample = 0; sample < batch; ++sample, sizes += length, bias += heads * length) {
        for (int64_t n = 0; n < length; ++n) bias[n] = logf(sizes[n] < floor ? floor : sizes[n]);
        for (int64_t head = 1; head < heads; ++head)
            memcpy(bias + head * length, bias, static_cast<size_t>(length) * sizeof(float));
    }
    return EDGEC_DONE;
}
