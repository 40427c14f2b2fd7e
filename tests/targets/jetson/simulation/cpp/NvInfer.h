// A simulated TensorRT 10.3 in C++: the classes, signatures and ownership of NVIDIA's headers (NvInfer.h,
// NvInferRuntime.h) as far as edgec-engine uses them, with an engine that doubles its input. It proves that the
// program compiles, links and calls in the right order; nothing of TensorRT itself.
#pragma once

#include "NvInferRuntime.h"

#include <map>
#include <string>
#include <vector>

extern "C" int32_t getInferLibVersion() noexcept;

namespace nvinfer1 {

enum class TensorIOMode : int32_t { kNONE, kINPUT, kOUTPUT };
enum class OptProfileSelector : int32_t { kMIN, kOPT, kMAX };
enum class MemoryPoolType : int32_t { kWORKSPACE };
enum class ProfilingVerbosity : int32_t { kLAYER_NAMES_ONLY, kNONE, kDETAILED };
enum class NetworkDefinitionCreationFlag : int32_t { kEXPLICIT_BATCH, kSTRONGLY_TYPED };
enum class BuilderFlag : int32_t { kFP16, kINT8, kTF32, kOBEY_PRECISION_CONSTRAINTS };
enum class LayerType : int32_t { kCONVOLUTION, kCONSTANT };

class IHostMemory {
public:
    explicit IHostMemory(std::string data) : mData(std::move(data)) {}
    virtual ~IHostMemory() noexcept = default;
    void *data() const noexcept { return const_cast<char *>(mData.data()); }
    std::size_t size() const noexcept { return mData.size(); }

private:
    std::string mData;
};

class ITimingCache {
public:
    virtual ~ITimingCache() noexcept = default;
    IHostMemory *serialize() const noexcept { return new IHostMemory("timed"); }
};

class ITensor {
public:
    DataType getType() const noexcept { return DataType::kFLOAT; }
};

class ILayer {
public:
    LayerType getType() const noexcept { return LayerType::kCONVOLUTION; }
    char const *getName() const noexcept { return "/double"; }
    char const *getMetadata() const noexcept { return "[ONNX Layer: /double]"; }
    int32_t getNbOutputs() const noexcept { return 1; }
    ITensor *getOutput(int32_t) noexcept { return &mOutput; }
    void setPrecision(DataType) noexcept {}
    void setOutputType(int32_t, DataType) noexcept {}

private:
    ITensor mOutput;
};

class INetworkDefinition {
public:
    virtual ~INetworkDefinition() noexcept = default;
    int32_t getNbLayers() const noexcept { return 1; }
    ILayer *getLayer(int32_t) noexcept { return &mLayer; }
    std::string model;

private:
    ILayer mLayer;
};

class IOptimizationProfile {
public:
    bool setDimensions(char const *name, OptProfileSelector select, Dims const &dims) noexcept;
    std::map<std::string, std::vector<Dims>> shapes;
};

class IBuilderConfig {
public:
    virtual ~IBuilderConfig() noexcept = default;
    void setMemoryPoolLimit(MemoryPoolType, std::size_t) noexcept {}
    void setProfilingVerbosity(ProfilingVerbosity) noexcept {}
    void setBuilderOptimizationLevel(int32_t) noexcept {}
    void setFlag(BuilderFlag) noexcept {}
    void clearFlag(BuilderFlag) noexcept {}
    int32_t addOptimizationProfile(IOptimizationProfile const *) noexcept { return 0; }
    ITimingCache *createTimingCache(void const *, std::size_t) const noexcept { return new ITimingCache; }
    bool setTimingCache(ITimingCache const &cache, bool) noexcept { return mCache = &cache, true; }
    ITimingCache const *getTimingCache() const noexcept { return mCache; }

private:
    ITimingCache const *mCache{nullptr};
};

class IBuilder {
public:
    explicit IBuilder(ILogger &logger) : mLogger(logger) {}
    virtual ~IBuilder() noexcept;
    INetworkDefinition *createNetworkV2(uint32_t) noexcept { return new INetworkDefinition; }
    IBuilderConfig *createBuilderConfig() noexcept { return new IBuilderConfig; }
    IOptimizationProfile *createOptimizationProfile() noexcept;
    IHostMemory *buildSerializedNetwork(INetworkDefinition &network, IBuilderConfig &config) noexcept;

private:
    ILogger &mLogger;
    std::vector<IOptimizationProfile *> mProfiles;
};

class IExecutionContext {
public:
    virtual ~IExecutionContext() noexcept = default;
    bool setInputShape(char const *tensorName, Dims const &dims) noexcept;
    Dims getTensorShape(char const *) const noexcept { return mShape; }
    bool setTensorAddress(char const *tensorName, void *data) noexcept;
    bool setOptimizationProfileAsync(int32_t, cudaStream_t) noexcept { return true; }
    bool enqueueV3(cudaStream_t stream) noexcept;

private:
    Dims mShape{-1, {}};
    std::map<std::string, void *> mAddresses;
};

class ICudaEngine {
public:
    virtual ~ICudaEngine() noexcept = default;
    IExecutionContext *createExecutionContext() noexcept { return new IExecutionContext; }
    int32_t getNbIOTensors() const noexcept { return 2; }
    char const *getIOTensorName(int32_t index) const noexcept { return index == 0 ? "x" : "y"; }
    TensorIOMode getTensorIOMode(char const *tensorName) const noexcept;
    // kINT32 where EDGEC_SIMULATED_INTEGERS is set: the engine then doubles integers.
    DataType getTensorDataType(char const *) const noexcept;
};

class IRuntime {
public:
    virtual ~IRuntime() noexcept = default;
    ICudaEngine *deserializeCudaEngine(void const *blob, std::size_t size) noexcept;
};

IBuilder *createInferBuilder(ILogger &logger) noexcept;
IRuntime *createInferRuntime(ILogger &logger) noexcept;

}  // namespace nvinfer1
