// What TensorRT 8 does with a plugin, from the parser to a running engine.
#pragma once

#include "expressions.hpp"

#include <memory>
#include <stdexcept>
#include <string>

namespace harness {

using namespace nvinfer1;
using Creator = IPluginCreator;

class Plugin {
public:
    Plugin(Creator &creator, const char *layer, const PluginFieldCollection &fields)
        : creator_(creator), layer_(layer) {
        Owned parsed(dynamic(creator.createPlugin(layer, &fields)));
        if (parsed == nullptr) throw std::runtime_error("createPlugin gave nothing");
        plugin_.reset(parsed->clone());  // a network keeps a clone, and the parser deletes its own
        expect_names();
    }

    int32_t outputs() { return plugin_->getNbOutputs(); }

    void infer(const DataType *types, const DimsExprs *shapes, int32_t count, DataType *out_types, DimsExprs *out_shapes,
               IExprBuilder &builder) {
        for (int32_t index = 0; index < outputs(); ++index) {
            out_types[index] = plugin_->getOutputDataType(index, types, count);
            out_shapes[index] = plugin_->getOutputDimensions(index, shapes, count, builder);
            if (out_shapes[index].nbDims < 0) throw std::runtime_error("getOutputDimensions gave nothing");
        }
    }

    bool supports(int32_t place, const DynamicPluginTensorDesc *tensors, int32_t inputs, int32_t outputs) {
        const auto plain = plain_of(tensors, inputs + outputs);
        return plugin_->supportsFormatCombination(place, plain.data(), inputs, outputs);
    }

    void configure(const DynamicPluginTensorDesc *in, int32_t inputs, const DynamicPluginTensorDesc *out,
                   int32_t outputs) {
        plugin_->configurePlugin(in, inputs, out, outputs);
        if (plugin_->initialize() != 0) throw std::runtime_error("initialize failed");
    }

    std::size_t workspace(const DynamicPluginTensorDesc *in, int32_t inputs, const DynamicPluginTensorDesc *out,
                          int32_t outputs) {
        auto largest = plain_of(in, inputs);
        for (int32_t place = 0; place < inputs; ++place) largest[static_cast<std::size_t>(place)].dims = in[place].max;
        return plugin_->getWorkspaceSize(largest.data(), inputs, plain_of(out, outputs).data(), outputs);
    }

    // Into an engine and out of it again, then into an execution context.
    void reload() {
        std::string bytes(plugin_->getSerializationSize(), '\0');
        const std::string space = plugin_->getPluginNamespace();
        plugin_->serialize(&bytes[0]);
        plugin_->terminate();
        plugin_.reset();
        Owned read(dynamic(creator_.deserializePlugin(layer_.c_str(), bytes.data(), bytes.size())));
        if (read == nullptr) throw std::runtime_error("deserializePlugin gave nothing");
        read->setPluginNamespace(space.c_str());
        read->initialize();
        plugin_.reset(read->clone());
        plugin_->attachToContext(nullptr, nullptr, nullptr);
        read->terminate();
    }

    void enqueue(const PluginTensorDesc *in, int32_t inputs, const PluginTensorDesc *out, int32_t outputs,
                 const void *const *data, void *const *results, void *workspace, cudaStream_t stream) {
        std::vector<DynamicPluginTensorDesc> now;
        for (int32_t place = 0; place < inputs; ++place)
            now.push_back({in[place], in[place].dims, in[place].dims});
        for (int32_t place = 0; place < outputs; ++place)
            now.push_back({out[place], out[place].dims, out[place].dims});
        plugin_->configurePlugin(now.data(), inputs, now.data() + inputs, outputs);
        const int32_t status = plugin_->enqueue(in, out, data, results, workspace, stream);
        if (status != 0) throw std::runtime_error("enqueue returned " + std::to_string(status));
    }

private:
    struct Destroy {
        void operator()(IPluginV2DynamicExt *plugin) const { plugin->destroy(); }
    };
    using Owned = std::unique_ptr<IPluginV2DynamicExt, Destroy>;

    template <typename Base>
    static IPluginV2DynamicExt *dynamic(Base *plugin) {
        return static_cast<IPluginV2DynamicExt *>(plugin);
    }
    static std::vector<PluginTensorDesc> plain_of(const DynamicPluginTensorDesc *tensors, int32_t count) {
        std::vector<PluginTensorDesc> made;
        for (int32_t place = 0; place < count; ++place) made.push_back(tensors[place].desc);
        return made;
    }
    void expect_names() {
        // An engine finds the creator again by what the plugin says.
        if (std::string(plugin_->getPluginType()) != creator_.getPluginName() ||
            std::string(plugin_->getPluginVersion()) != creator_.getPluginVersion() ||
            std::string(plugin_->getPluginNamespace()) != creator_.getPluginNamespace())
            throw std::runtime_error("the plugin and its creator have different names");
    }

    Creator &creator_;
    std::string layer_;
    Owned plugin_;
};

}  // namespace harness
