// Plugins and their registry before TensorRT 10; part of NvInferRuntime.h.
#pragma once

struct cudnnContext;
struct cublasContext;

namespace nvinfer1 {

class IGpuAllocator;
using PluginFormat = TensorFormat;

class IPluginV2 {
public:
    virtual int32_t getTensorRTVersion() const noexcept { return 8500; }
    virtual AsciiChar const *getPluginType() const noexcept = 0;
    virtual AsciiChar const *getPluginVersion() const noexcept = 0;
    virtual int32_t getNbOutputs() const noexcept = 0;
    virtual Dims getOutputDimensions(int32_t index, Dims const *inputs, int32_t nbInputDims) noexcept = 0;
    virtual bool supportsFormat(DataType type, PluginFormat format) const noexcept = 0;
    virtual void configureWithFormat(Dims const *, int32_t, Dims const *, int32_t, DataType, PluginFormat,
                                     int32_t) noexcept = 0;
    virtual int32_t initialize() noexcept = 0;
    virtual void terminate() noexcept = 0;
    virtual size_t getWorkspaceSize(int32_t maxBatchSize) const noexcept = 0;
    virtual int32_t enqueue(int32_t batchSize, void const *const *inputs, void *const *outputs, void *workspace,
                            cudaStream_t stream) noexcept = 0;
    virtual size_t getSerializationSize() const noexcept = 0;
    virtual void serialize(void *buffer) const noexcept = 0;
    virtual void destroy() noexcept = 0;
    virtual IPluginV2 *clone() const noexcept = 0;
    virtual void setPluginNamespace(AsciiChar const *pluginNamespace) noexcept = 0;
    virtual AsciiChar const *getPluginNamespace() const noexcept = 0;
    IPluginV2() = default;
    virtual ~IPluginV2() noexcept = default;

protected:
    IPluginV2(IPluginV2 const &) = default;
    IPluginV2 &operator=(IPluginV2 const &) & = default;
};

class IPluginV2Ext : public IPluginV2 {
public:
    virtual DataType getOutputDataType(int32_t index, DataType const *inputTypes,
                                       int32_t nbInputs) const noexcept = 0;
    virtual bool isOutputBroadcastAcrossBatch(int32_t, bool const *, int32_t) const noexcept = 0;
    virtual bool canBroadcastInputAcrossBatch(int32_t) const noexcept = 0;
    virtual void configurePlugin(Dims const *, int32_t, Dims const *, int32_t, DataType const *, DataType const *,
                                 bool const *, bool const *, PluginFormat, int32_t) noexcept = 0;
    virtual void attachToContext(cudnnContext *, cublasContext *, IGpuAllocator *) noexcept {}
    virtual void detachFromContext() noexcept {}
    IPluginV2Ext *clone() const noexcept override = 0;
};

class IPluginV2DynamicExt : public IPluginV2Ext {
public:
    IPluginV2DynamicExt *clone() const noexcept override = 0;
    virtual DimsExprs getOutputDimensions(int32_t outputIndex, DimsExprs const *inputs, int32_t nbInputs,
                                          IExprBuilder &exprBuilder) noexcept = 0;
    virtual bool supportsFormatCombination(int32_t pos, PluginTensorDesc const *inOut, int32_t nbInputs,
                                           int32_t nbOutputs) noexcept = 0;
    virtual void configurePlugin(DynamicPluginTensorDesc const *in, int32_t nbInputs,
                                 DynamicPluginTensorDesc const *out, int32_t nbOutputs) noexcept = 0;
    virtual size_t getWorkspaceSize(PluginTensorDesc const *inputs, int32_t nbInputs,
                                    PluginTensorDesc const *outputs, int32_t nbOutputs) const noexcept = 0;
    virtual int32_t enqueue(PluginTensorDesc const *inputDesc, PluginTensorDesc const *outputDesc,
                            void const *const *inputs, void *const *outputs, void *workspace,
                            cudaStream_t stream) noexcept = 0;

private:
    // What belongs to networks with an implicit batch is closed off.
    void configurePlugin(Dims const *, int32_t, Dims const *, int32_t, DataType const *, DataType const *, bool const *,
                         bool const *, PluginFormat, int32_t) noexcept override final {}
    bool supportsFormat(DataType, PluginFormat) const noexcept override final { return false; }
    Dims getOutputDimensions(int32_t, Dims const *, int32_t) noexcept override final { return Dims{-1, {}}; }
    bool isOutputBroadcastAcrossBatch(int32_t, bool const *, int32_t) const noexcept override final { return false; }
    bool canBroadcastInputAcrossBatch(int32_t) const noexcept override final { return true; }
    size_t getWorkspaceSize(int32_t) const noexcept override final { return 0; }
    int32_t enqueue(int32_t, void const *const *, void *const *, void *, cudaStream_t) noexcept override final {
        return 1;
    }
    void configureWithFormat(Dims const *, int32_t, Dims const *, int32_t, DataType, PluginFormat,
                             int32_t) noexcept override final {}
};

class IPluginCreator {
public:
    virtual int32_t getTensorRTVersion() const noexcept { return 8500; }
    virtual AsciiChar const *getPluginName() const noexcept = 0;
    virtual AsciiChar const *getPluginVersion() const noexcept = 0;
    virtual PluginFieldCollection const *getFieldNames() noexcept = 0;
    virtual IPluginV2 *createPlugin(AsciiChar const *name, PluginFieldCollection const *fc) noexcept = 0;
    virtual IPluginV2 *deserializePlugin(AsciiChar const *name, void const *serialData,
                                         size_t serialLength) noexcept = 0;
    virtual void setPluginNamespace(AsciiChar const *pluginNamespace) noexcept = 0;
    virtual AsciiChar const *getPluginNamespace() const noexcept = 0;
    IPluginCreator() = default;
    virtual ~IPluginCreator() = default;
};

class IPluginRegistry {
public:
    virtual bool registerCreator(IPluginCreator &creator, AsciiChar const *const pluginNamespace) noexcept = 0;
    virtual IPluginCreator *const *getPluginCreatorList(int32_t *const numCreators) const noexcept = 0;
    virtual IPluginCreator *getPluginCreator(AsciiChar const *const pluginName, AsciiChar const *const pluginVersion,
                                             AsciiChar const *const pluginNamespace = "") noexcept = 0;

protected:
    virtual ~IPluginRegistry() noexcept = default;
};

}  // namespace nvinfer1
