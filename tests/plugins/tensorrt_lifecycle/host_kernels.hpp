// CUDA kernels' entries on the host, over the kernels for processors: what a plugin passes them is what is computed
// with. They use all of the workspace that they ask for.
#include "cpu/kernel.h"
#include "cuda/kernel.h"

#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

namespace host {

struct Freed {
    void operator()(void *data) const { std::free(data); }
};

// Kept until the thread asks again, as a kernel may count on.
inline void *scratch(int64_t bytes) {
    static thread_local std::unique_ptr<void, Freed> room;
    room.reset(std::aligned_alloc(64, static_cast<std::size_t>((bytes + 127) / 64 * 64)));
    return room.get();
}

inline int64_t count(const edgec_tensor &tensor) {
    int64_t product = 1;
    for (int64_t axis = 0; axis < tensor.rank; ++axis) product *= tensor.sizes[axis];
    return product;
}

inline int64_t workspace(const edgec_cuda_call &call) { return 4 * count(call.inputs[0]) + 20; }

// As many tensors as `given`, those of fp16 widened; `made` holds the numbers.
inline std::vector<edgec_tensor> widened(const edgec_tensor *given, std::size_t number,
                                         std::vector<std::vector<float>> &made) {
    std::vector<edgec_tensor> found(given, given + number);
    for (edgec_tensor &tensor : found) {
        if (tensor.type != EDGEC_FLOAT16) continue;
        const auto *const from = static_cast<const _Float16 *>(tensor.data);
        made.emplace_back(from, from + count(tensor));
        tensor.data = made.back().data();
        tensor.type = EDGEC_FLOAT32;
    }
    return found;
}

inline int run(const edgec_cuda_call &call, std::size_t inputs, std::size_t outputs, bool room, edgec_cpu_entry kernel) {
    if (room) std::memset(call.workspace, 0x5A, static_cast<std::size_t>(workspace(call)));
    std::vector<std::vector<float>> numbers;
    numbers.reserve(inputs + outputs);
    const auto given = widened(call.inputs, inputs, numbers);
    const auto made = widened(call.outputs, outputs, numbers);
    const edgec_cpu_call wide{given.data(), made.data(), call.attributes, call.attribute_count, nullptr, scratch, 1};
    const int status = kernel(&wide);
    for (std::size_t place = 0; place < outputs && status == EDGEC_DONE; ++place) {
        if (call.outputs[place].type != EDGEC_FLOAT16) continue;
        const auto *const from = static_cast<const float *>(made[place].data);
        for (int64_t index = 0; index < count(made[place]); ++index)
            static_cast<_Float16 *>(call.outputs[place].data)[index] = static_cast<_Float16>(from[index]);
    }
    return status;
}

}  // namespace host
