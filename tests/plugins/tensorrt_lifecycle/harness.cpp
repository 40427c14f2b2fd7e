// Drives the plugins of a library as TensorRT does, for Python's ctypes. Load it with RTLD_GLOBAL, then the library.
#include "memory.hpp"
#include "registry.hpp"

#if NV_TENSORRT_MAJOR >= 10
#include "lifecycle_v3.hpp"
#else
#include "lifecycle_v2.hpp"
#endif

#include <new>

using namespace nvinfer1;

namespace {

harness::Log &log_() {
    static harness::Log log;
    return log;
}
harness::Registry &registry() {
    static harness::Registry registry;
    return registry;
}

std::string said;

}  // namespace

extern "C" {

IPluginRegistry *getPluginRegistry() noexcept { return &registry(); }
ILogger *getLogger() noexcept { return &log_(); }

struct Field {
    const char *name;
    int32_t is_float, whole;
    float real;
};

struct Tensor {
    int32_t rank, type, format;
    int64_t size[8], largest[8];
    void *data;
};

// Everything logged since the last call.
const char *harness_said() { return (said = log_().take()).c_str(); }

const char *harness_creators() { return (said = registry().list()).c_str(); }

// What the ONNX parser does with a node: finds the creator, hands over the attributes that it names. NULL: log.
harness::Plugin *harness_create(const char *op, const char *space, const char *layer, const Field *given,
                                int32_t count) {
    try {
        auto *const creator = static_cast<harness::Creator *>(registry().find(op, "1", space));
        if (creator == nullptr) throw std::runtime_error("Plugin not found");
        const PluginFieldCollection *const names = creator->getFieldNames();
        std::vector<PluginField> fields;
        for (int32_t place = 0; place < names->nbFields; ++place)
            for (int32_t index = 0; index < count; ++index)
                if (std::string(names->fields[place].name) == given[index].name) {
                    const bool real = given[index].is_float != 0;
                    fields.emplace_back(given[index].name,
                                        real ? static_cast<const void *>(&given[index].real) : &given[index].whole,
                                        real ? PluginFieldType::kFLOAT32 : PluginFieldType::kINT32, 1);
                }
        return new harness::Plugin(*creator, layer, {static_cast<int32_t>(fields.size()), fields.data()});
    } catch (const std::exception &error) {
        log_().log(ILogger::Severity::kERROR, error.what());
        return nullptr;
    }
}

void harness_delete(harness::Plugin *plugin) { delete plugin; }

int32_t harness_outputs(harness::Plugin *plugin) { return plugin->outputs(); }

}  // extern "C"

namespace {

DynamicPluginTensorDesc described(const Tensor &tensor) {
    DynamicPluginTensorDesc made{};
    made.desc.type = static_cast<DataType>(tensor.type);
    made.desc.format = static_cast<TensorFormat>(tensor.format);
    made.desc.scale = 1.0f;
    made.desc.dims.nbDims = tensor.rank;
    for (int32_t axis = 0; axis < tensor.rank; ++axis)
        made.desc.dims.d[axis] = static_cast<harness::Number>(tensor.size[axis]);
    made.min = made.max = made.desc.dims;
    for (int32_t axis = 0; axis < tensor.rank; ++axis)
        made.max.d[axis] = static_cast<harness::Number>(tensor.largest[axis]);
    return made;
}

std::vector<DynamicPluginTensorDesc> described(const Tensor *tensors, int32_t count) {
    std::vector<DynamicPluginTensorDesc> made;
    for (int32_t place = 0; place < count; ++place) made.push_back(described(tensors[place]));
    return made;
}

// An engine's network is built with open dimensions where a profile has a range.
std::vector<DynamicPluginTensorDesc> opened(std::vector<DynamicPluginTensorDesc> tensors) {
    for (auto &one : tensors)
        for (int32_t axis = 0; axis < one.desc.dims.nbDims; ++axis)
            if (one.min.d[axis] != one.max.d[axis]) one.desc.dims.d[axis] = -1;
    return tensors;
}

std::size_t bytes_of(const Tensor &tensor) {
    std::size_t made = static_cast<DataType>(tensor.type) == DataType::kHALF ? 2 : 4;
    for (int32_t axis = 0; axis < tensor.rank; ++axis) made *= static_cast<std::size_t>(tensor.size[axis]);
    return made;
}

template <typename Body>
int32_t told(Body &&body) {
    try {
        body();
        return 0;
    } catch (const std::exception &error) {
        log_().log(ILogger::Severity::kERROR, error.what());
        return 1;
    }
}

}  // namespace

extern "C" {

// Types and sizes of the outputs; 1: log.
int32_t harness_infer(harness::Plugin *plugin, const Tensor *inputs, int32_t count, Tensor *outputs) {
    return told([&] {
        harness::Builder builder;
        std::vector<DataType> types;
        std::vector<DimsExprs> shapes;
        for (int32_t place = 0; place < count; ++place) {
            types.push_back(static_cast<DataType>(inputs[place].type));
            DimsExprs shape{};
            shape.nbDims = inputs[place].rank;
            for (int32_t axis = 0; axis < shape.nbDims; ++axis)
                shape.d[axis] = builder.keep(static_cast<harness::Number>(inputs[place].size[axis]));
            shapes.push_back(shape);
        }
        const auto made = static_cast<std::size_t>(plugin->outputs());
        std::vector<DataType> out_types(made);
        std::vector<DimsExprs> out_shapes(made);
        plugin->infer(types.data(), shapes.data(), count, out_types.data(), out_shapes.data(), builder);
        for (std::size_t index = 0; index < made; ++index) {
            outputs[index] = Tensor{out_shapes[index].nbDims, static_cast<int32_t>(out_types[index]), 0, {}, {}, nullptr};
            for (int32_t axis = 0; axis < outputs[index].rank; ++axis)
                outputs[index].size[axis] = outputs[index].largest[axis] = out_shapes[index].d[axis]->getConstantValue();
        }
    });
}

// Whether the tensor at `place` may be as described; those behind it are not to be looked at.
int32_t harness_supports(harness::Plugin *plugin, int32_t place, const Tensor *tensors, int32_t inputs,
                         int32_t outputs) {
    auto made = described(tensors, inputs + outputs);
    for (std::size_t later = static_cast<std::size_t>(place) + 1; later < made.size(); ++later) {
        made[later].desc.type = static_cast<DataType>(-7);
        made[later].desc.format = static_cast<TensorFormat>(-7);
    }
    return plugin->supports(place, made.data(), inputs, outputs);
}

int64_t harness_workspace(harness::Plugin *plugin, const Tensor *inputs, int32_t count) {
    return static_cast<int64_t>(plugin->workspace(described(inputs, count).data(), count, nullptr, 0));
}

// Build, save, load and run; outputs as `harness_infer` gave them, with room to copy to. 1: log.
int32_t harness_run(harness::Plugin *plugin, const Tensor *inputs, int32_t count, const Tensor *outputs, int32_t made) {
    return told([&] {
        const auto in = described(inputs, count), out = described(outputs, made);
        plugin->configure(opened(in).data(), count, opened(out).data(), made);
        const std::size_t needed = plugin->workspace(opened(in).data(), count, opened(out).data(), made);
        if (needed > (std::size_t(1) << 36)) throw std::runtime_error("more workspace than there is memory");
        plugin->reload();
        std::vector<PluginTensorDesc> in_now, out_now;
        for (const auto &one : in) in_now.push_back(one.desc);
        for (const auto &one : out) out_now.push_back(one.desc);
        std::vector<std::unique_ptr<harness::Memory>> blocks;
        std::vector<const void *> data;
        std::vector<void *> results;
        for (int32_t place = 0; place < count; ++place) {
            blocks.push_back(std::make_unique<harness::Memory>(bytes_of(inputs[place])));
            blocks.back()->fill(inputs[place].data);
            data.push_back(blocks.back()->data());
        }
        for (int32_t place = 0; place < made; ++place) {
            blocks.push_back(std::make_unique<harness::Memory>(bytes_of(outputs[place])));
            results.push_back(blocks.back()->data());
        }
        const harness::Memory workspace(needed);
        cudaStream_t stream = nullptr;
#ifdef HARNESS_CUDA
        if (cudaStreamCreate(&stream) != cudaSuccess) throw std::runtime_error("no CUDA stream");
#endif
        plugin->enqueue(in_now.data(), count, out_now.data(), made, data.data(), results.data(),
                        needed == 0 ? nullptr : workspace.data(), stream);
#ifdef HARNESS_CUDA
        const cudaError_t ran = cudaStreamSynchronize(stream);
        cudaStreamDestroy(stream);
        if (ran != cudaSuccess) throw std::runtime_error(cudaGetErrorString(ran));
#endif
        bool whole = workspace.fetch(nullptr);
        for (int32_t place = 0; place < made; ++place)
            whole = blocks[static_cast<std::size_t>(count + place)]->fetch(outputs[place].data) && whole;
        if (!whole) throw std::runtime_error("it wrote behind its outputs or its workspace");
    });
}

}  // extern "C"
