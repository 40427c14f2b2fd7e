// What TensorRT 10 and newer do with a plugin, from the parser to a running engine.
#pragma once

#include "expressions.hpp"

#include <memory>
#include <stdexcept>
#include <string>

namespace harness {

using namespace nvinfer1;
using Creator = IPluginCreatorV3One;

class Plugin {
public:
    Plugin(Creator &creator, const char *layer, const PluginFieldCollection &fields)
        : creator_(creator), layer_(layer) {
        std::unique_ptr<IPluginV3> parsed(creator.createPlugin(layer, &fields, TensorRTPhase::kBUILD));
        if (parsed == nullptr) throw std::runtime_error("createPlugin gave nothing");
        plugin_.reset(parsed->clone());  // a network keeps a clone, and the parser deletes its own
        expect_names();
    }

    int32_t outputs() { return build().getNbOutputs(); }

    void infer(const DataType *types, const DimsExprs *shapes, int32_t count, DataType *out_types, DimsExprs *out_shapes,
               IExprBuilder &builder) {
        require(build().getOutputDataTypes(out_types, outputs(), types, count), "getOutputDataTypes");
        require(build().getOutputShapes(shapes, count, nullptr, 0, out_shapes, outputs(), builder), "getOutputShapes");
    }

    bool supports(int32_t place, const DynamicPluginTensorDesc *tensors, int32_t inputs, int32_t outputs) {
        return build().supportsFormatCombination(place, tensors, inputs, outputs);
    }

    void configure(const DynamicPluginTensorDesc *in, int32_t inputs, const DynamicPluginTensorDesc *out,
                   int32_t outputs) {
        require(build().configurePlugin(in, inputs, out, outputs), "configurePlugin");
    }

    std::size_t workspace(const DynamicPluginTensorDesc *in, int32_t inputs, const DynamicPluginTensorDesc *out,
                          int32_t outputs) {
        return build().getWorkspaceSize(in, inputs, out, outputs);
    }

    // Into an engine and out of it again, then into an execution context.
    void reload() {
        const PluginFieldCollection *const kept = runtime().getFieldsToSerialize();
        if (kept == nullptr) throw std::runtime_error("getFieldsToSerialize gave nothing");
        std::vector<std::string> bytes;
        std::vector<PluginField> fields;
        for (int32_t place = 0; place < kept->nbFields; ++place) {
            const PluginField &field = kept->fields[place];
            bytes.emplace_back(static_cast<const char *>(field.data), 4u * static_cast<std::size_t>(field.length));
        }
        for (int32_t place = 0; place < kept->nbFields; ++place) {
            const PluginField &field = kept->fields[place];
            fields.emplace_back(field.name, bytes[static_cast<std::size_t>(place)].data(), field.type, field.length);
        }
        const PluginFieldCollection stored{static_cast<int32_t>(fields.size()), fields.data()};
        plugin_.reset();
        std::unique_ptr<IPluginV3> read(creator_.createPlugin(layer_.c_str(), &stored, TensorRTPhase::kRUNTIME));
        if (read == nullptr) throw std::runtime_error("createPlugin gave nothing at run time");
        plugin_ = std::move(read);
        plugin_.reset(runtime().attachToContext(nullptr));
        if (plugin_ == nullptr) throw std::runtime_error("attachToContext gave nothing");
    }

    void enqueue(const PluginTensorDesc *in, int32_t inputs, const PluginTensorDesc *out, int32_t outputs,
                 const void *const *data, void *const *results, void *workspace, cudaStream_t stream) {
        require(runtime().setTactic(0), "setTactic");
        require(runtime().onShapeChange(in, inputs, out, outputs), "onShapeChange");
        require(runtime().enqueue(in, out, data, results, workspace, stream), "enqueue");
    }

private:
    static void require(int32_t status, const char *step) {
        if (status != 0) throw std::runtime_error(std::string(step) + " returned " + std::to_string(status));
    }
    template <typename Interface>
    Interface &as(PluginCapabilityType type) {
        return *static_cast<Interface *>(plugin_->getCapabilityInterface(type));
    }
    IPluginV3OneBuild &build() { return as<IPluginV3OneBuild>(PluginCapabilityType::kBUILD); }
    IPluginV3OneRuntime &runtime() { return as<IPluginV3OneRuntime>(PluginCapabilityType::kRUNTIME); }
    void expect_names() {
        // An engine finds the creator again by what the plugin says.
        auto &core = as<IPluginV3OneCore>(PluginCapabilityType::kCORE);
        if (std::string(core.getPluginName()) != creator_.getPluginName() ||
            std::string(core.getPluginVersion()) != creator_.getPluginVersion() ||
            std::string(core.getPluginNamespace()) != creator_.getPluginNamespace())
            throw std::runtime_error("the plugin and its creator have different names");
    }

    Creator &creator_;
    std::string layer_;
    std::unique_ptr<IPluginV3> plugin_;
};

}  // namespace harness
