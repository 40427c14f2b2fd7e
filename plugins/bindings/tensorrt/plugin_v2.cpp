// IPluginV2DynamicExt, for TensorRT 8, which knows no IPluginV3.

#include "creator.hpp"

#if NV_TENSORRT_MAJOR < 10

#include <cstring>
#include <limits>

namespace edgec {
namespace {

using namespace nvinfer1;

class PluginV2 final : public IPluginV2DynamicExt {
public:
    explicit PluginV2(Node node, std::string space) : node_(std::move(node)), space_(std::move(space)) {}

    IPluginV2DynamicExt* clone() const noexcept override {
        return guarded<IPluginV2DynamicExt*>(node_.who(), nullptr,
                                             [this] { return std::make_unique<PluginV2>(node_, space_).release(); });
    }
    void destroy() noexcept override { delete this; }
    int32_t initialize() noexcept override { return 0; }
    void terminate() noexcept override {}

    AsciiChar const* getPluginType() const noexcept override { return node_.op().name(); }
    AsciiChar const* getPluginVersion() const noexcept override { return VERSION; }
    AsciiChar const* getPluginNamespace() const noexcept override { return space_.c_str(); }
    void setPluginNamespace(AsciiChar const* space) noexcept override {
        guarded(node_.who(), 0, [&] { return space_ = text_of(space), 0; });
    }

    int32_t getNbOutputs() const noexcept override { return static_cast<int32_t>(node_.op().outputs().size()); }

    DataType getOutputDataType(int32_t index, DataType const* given, int32_t) const noexcept override {
        // The interface knows no failure here; of a wrong input no combination of formats is taken.
        return guarded(node_.who(), DataType::kFLOAT, [&] { return node_.op().output_type(index, given[0]); });
    }

    DimsExprs getOutputDimensions(int32_t index, DimsExprs const* inputs, int32_t,
                                  IExprBuilder& builder) noexcept override {
        DimsExprs failed{};
        failed.nbDims = -1;
        return guarded(node_.who(), failed,
                       [&] { return node_.op().output_shape(index, inputs, node_.attributes(), builder); });
    }

    bool supportsFormatCombination(int32_t place, PluginTensorDesc const* tensors, int32_t, int32_t) noexcept override {
        return node_.op().takes(place, tensors[place].type, tensors[place].format, tensors[0].type);
    }

    void configurePlugin(DynamicPluginTensorDesc const* in, int32_t, DynamicPluginTensorDesc const*,
                         int32_t) noexcept override {
        // It cannot fail here: this says early what `enqueue` would refuse. The smallest sizes of the profile.
        guarded(node_.who(), 0, [&] {
            const auto smallest = [](const DynamicPluginTensorDesc& one) { return one.min; };
            node_.op().check(node_.op().shapes_of(in, smallest), node_.attributes());
            return 0;
        });
    }

    std::size_t getWorkspaceSize(PluginTensorDesc const* inputs, int32_t, PluginTensorDesc const*,
                                 int32_t) const noexcept override {
        // Of an error: more than there is, so that the builder stops instead of running without.
        return guarded(node_.who(), std::numeric_limits<std::size_t>::max(), [&] {
            const auto dims = [](const PluginTensorDesc& one) { return one.dims; };
            return node_.workspace(node_.op().shapes_of(inputs, dims));
        });
    }

    int32_t enqueue(PluginTensorDesc const* given, PluginTensorDesc const*, void const* const* inputs,
                    void* const* outputs, void* workspace, cudaStream_t stream) noexcept override {
        return guarded(node_.who(), 1, [&] {
            node_.enqueue(given, inputs, outputs, workspace, stream);
            return 0;
        });
    }

    std::size_t getSerializationSize() const noexcept override {
        return guarded<std::size_t>(node_.who(), 0, [this] { return node_.attributes().bytes().size(); });
    }

    void serialize(void* buffer) const noexcept override {
        guarded(node_.who(), 0, [&] {
            const std::string bytes = node_.attributes().bytes();
            std::memcpy(buffer, bytes.data(), bytes.size());
            return 0;
        });
    }

private:
    Node node_;
    std::string space_;
};

class CreatorV2 final : public IPluginCreator {
public:
    explicit CreatorV2(const Op& op) : op_(op), names_(op), space_(NAMESPACE) {}

    IPluginV2DynamicExt* createPlugin(AsciiChar const* layer, PluginFieldCollection const* fields) noexcept override {
        return guarded<IPluginV2DynamicExt*>(op_.name(), nullptr,
                                   [&] { return make(layer, Attributes(op_.attributes(), fields)).release(); });
    }

    IPluginV2DynamicExt* deserializePlugin(AsciiChar const* layer, void const* data,
                                           std::size_t length) noexcept override {
        return guarded<IPluginV2DynamicExt*>(op_.name(), nullptr,
                                   [&] { return make(layer, Attributes(op_.attributes(), data, length)).release(); });
    }

    PluginFieldCollection const* getFieldNames() noexcept override { return names_.collection(); }
    AsciiChar const* getPluginName() const noexcept override { return op_.name(); }
    AsciiChar const* getPluginVersion() const noexcept override { return VERSION; }
    AsciiChar const* getPluginNamespace() const noexcept override { return space_.c_str(); }
    void setPluginNamespace(AsciiChar const* space) noexcept override {
        guarded(op_.name(), 0, [&] { return space_ = text_of(space), 0; });
    }

private:
    std::unique_ptr<PluginV2> make(AsciiChar const* layer, Attributes attributes) const {
        return std::make_unique<PluginV2>(Node(op_, text_of(layer), std::move(attributes)), space_);
    }

    const Op& op_;
    FieldNames names_;
    std::string space_;
};

}  // namespace

std::unique_ptr<Creator> make_creator(const Op& op) { return std::make_unique<CreatorV2>(op); }

}  // namespace edgec

#endif
