// TokenRestore: copies, each token's from the reduced token that it went into.

#include <string.h>

#include "kernel.h"

EDGEC_CPU_KERNEL(TokenRestore) {
    const edgec_tensor &given = call->inputs[0], &places = call->inputs[1];
    const int64_t batch = given.sizes[0], kept = given.sizes[1], channels = given.sizes[2], length = places.sizes[1];
    const float* tokens = static_cast<const float*>(given.data);
    const int32_t* assignment = static_cast<const int32_t*>(places.data);
    float* restored = static_cast<float*>(call->outputs[0].data);
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t n = 0; n < length; ++n) {
            const int64_t m = assignment[b * length + n];
            if (m < 0 || m >= kept) return EDGEC_REFUSED;
            memcpy(restored + (b * length + n) * channels, tokens + (b * kept + m) * channels,
                   static_cast<size_t>(channels) * sizeof(float));
        }
    return EDGEC_DONE;
}
