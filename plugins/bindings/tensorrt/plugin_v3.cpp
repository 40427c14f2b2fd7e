// IPluginV3, for TensorRT 10 and newer.

#include "creator.hpp"

#if NV_TENSORRT_MAJOR >= 10

#include <limits>

namespace edgec {
namespace {

using namespace nvinfer1;

constexpr int32_t OK = 0, FAILED = 1;

class PluginV3 final : public IPluginV3,
                       public IPluginV3OneCore,
                       public IPluginV3OneBuild,
                       public IPluginV3OneRuntime {
public:
    explicit PluginV3(Node node) : node_(std::move(node)), timing_id_(node_.attributes().text()) {}

    IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override {
        switch (type) {
            case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
            case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
            case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
        }
        return nullptr;
    }

    IPluginV3* clone() noexcept override {
        return guarded<IPluginV3*>(node_.who(), nullptr,
                                   [this] { return std::make_unique<PluginV3>(node_).release(); });
    }

    AsciiChar const* getPluginName() const noexcept override { return node_.op().name(); }
    AsciiChar const* getPluginVersion() const noexcept override { return VERSION; }
    AsciiChar const* getPluginNamespace() const noexcept override { return NAMESPACE; }

    int32_t getNbOutputs() const noexcept override { return static_cast<int32_t>(node_.op().outputs().size()); }

    int32_t getOutputDataTypes(DataType* types, int32_t count, DataType const* given, int32_t) const noexcept override {
        return guarded(node_.who(), FAILED, [&] {
            for (int32_t index = 0; index < count; ++index) types[index] = node_.op().output_type(index, given[0]);
            return OK;
        });
    }

    int32_t getOutputShapes(DimsExprs const* inputs, int32_t, DimsExprs const*, int32_t, DimsExprs* outputs,
                            int32_t count, IExprBuilder& builder) noexcept override {
        return guarded(node_.who(), FAILED, [&] {
            for (int32_t index = 0; index < count; ++index)
                outputs[index] = node_.op().output_shape(index, inputs, node_.attributes(), builder);
            return OK;
        });
    }

    bool supportsFormatCombination(int32_t place, DynamicPluginTensorDesc const* tensors, int32_t,
                                   int32_t) noexcept override {
        const PluginTensorDesc& asked = tensors[place].desc;
        return node_.op().takes(place, asked.type, asked.format, tensors[0].desc.type);
    }

    int32_t configurePlugin(DynamicPluginTensorDesc const* in, int32_t, DynamicPluginTensorDesc const*,
                            int32_t) noexcept override {
        return guarded(node_.who(), FAILED, [&] {
            // The smallest sizes of the profile: r must leave tokens there too.
            const auto smallest = [](const DynamicPluginTensorDesc& one) { return one.min; };
            node_.op().check(node_.op().shapes_of(in, smallest), node_.attributes());
            return OK;
        });
    }

    std::size_t getWorkspaceSize(DynamicPluginTensorDesc const* inputs, int32_t, DynamicPluginTensorDesc const*,
                                 int32_t) const noexcept override {
        // Of an error: more than there is, so that the builder stops instead of running without.
        return guarded(node_.who(), std::numeric_limits<std::size_t>::max(), [&] {
            const auto largest = [](const DynamicPluginTensorDesc& one) { return one.max; };
            return node_.workspace(node_.op().shapes_of(inputs, largest));
        });
    }

    // Attributes change the time, so they are part of what a kept timing is found by.
    char const* getTimingCacheID() noexcept override { return timing_id_.c_str(); }

    int32_t onShapeChange(PluginTensorDesc const* in, int32_t, PluginTensorDesc const*, int32_t) noexcept override {
        return guarded(node_.who(), FAILED, [&] {
            const auto dims = [](const PluginTensorDesc& one) { return one.dims; };
            node_.op().check(node_.op().shapes_of(in, dims), node_.attributes());
            return OK;
        });
    }

    int32_t enqueue(PluginTensorDesc const* given, PluginTensorDesc const*, void const* const* inputs,
                    void* const* outputs, void* workspace, cudaStream_t stream) noexcept override {
        return guarded(node_.who(), FAILED, [&] {
            node_.enqueue(given, inputs, outputs, workspace, stream);
            return OK;
        });
    }

    IPluginV3* attachToContext(IPluginResourceContext*) noexcept override { return clone(); }

    PluginFieldCollection const* getFieldsToSerialize() noexcept override {
        return guarded<PluginFieldCollection const*>(node_.who(), nullptr, [this] {
            fields_ = node_.attributes().fields();
            serialized_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
            return &serialized_;
        });
    }

private:
    Node node_;
    std::string timing_id_;
    std::vector<PluginField> fields_;
    PluginFieldCollection serialized_{};
};

class CreatorV3 final : public IPluginCreatorV3One {
public:
    explicit CreatorV3(const Op& op) : op_(op), names_(op) {}

    IPluginV3* createPlugin(AsciiChar const* layer, PluginFieldCollection const* fields,
                            TensorRTPhase) noexcept override {
        return guarded<IPluginV3*>(op_.name(), nullptr, [&] {
            return std::make_unique<PluginV3>(Node(op_, text_of(layer), Attributes(op_.attributes(), fields))).release();
        });
    }

    PluginFieldCollection const* getFieldNames() noexcept override { return names_.collection(); }
    AsciiChar const* getPluginName() const noexcept override { return op_.name(); }
    AsciiChar const* getPluginVersion() const noexcept override { return VERSION; }
    AsciiChar const* getPluginNamespace() const noexcept override { return NAMESPACE; }

private:
    const Op& op_;
    FieldNames names_;
};

}  // namespace

std::unique_ptr<Creator> make_creator(const Op& op) { return std::make_unique<CreatorV3>(op); }

}  // namespace edgec

#endif
