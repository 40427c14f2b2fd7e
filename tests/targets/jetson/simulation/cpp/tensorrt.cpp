// The simulated TensorRT's behaviour: see NvInfer.h.
#include "NvOnnxParser.h"

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>

namespace {
char const kMagic[] = "simulated C++ engine";

bool integers() { return std::getenv("EDGEC_SIMULATED_INTEGERS") != nullptr; }
}

extern "C" int32_t getInferLibVersion() noexcept { return 100300; }

namespace nvinfer1 {

bool IOptimizationProfile::setDimensions(char const *name, OptProfileSelector, Dims const &dims) noexcept {
    shapes[name].push_back(dims);
    return dims.nbDims > 0;
}

IBuilder::~IBuilder() noexcept {
    for (IOptimizationProfile *profile : mProfiles) delete profile;
}

IOptimizationProfile *IBuilder::createOptimizationProfile() noexcept {
    mProfiles.push_back(new IOptimizationProfile);
    return mProfiles.back();
}

IHostMemory *IBuilder::buildSerializedNetwork(INetworkDefinition &network, IBuilderConfig &) noexcept {
    if (network.model.empty()) {
        mLogger.log(ILogger::Severity::kERROR, "the network is empty");
        return nullptr;
    }
    return new IHostMemory(kMagic + network.model);
}

bool IExecutionContext::setInputShape(char const *, Dims const &dims) noexcept {
    mShape = dims;
    return true;
}

bool IExecutionContext::setTensorAddress(char const *tensorName, void *data) noexcept {
    mAddresses[tensorName] = data;
    return data != nullptr;
}

bool IExecutionContext::enqueueV3(cudaStream_t stream) noexcept {
    if (stream == nullptr || mAddresses.size() != 2) return false;
    int64_t count = 1;
    for (int32_t axis = 0; axis < mShape.nbDims; ++axis) count *= mShape.d[axis];
    auto const doubled = [&](auto *output) {
        auto const *input = static_cast<decltype(output)>(mAddresses["x"]);
        for (int64_t index = 0; index < count; ++index) output[index] = 2 * input[index];
    };
    void *const output = mAddresses["y"];
    integers() ? doubled(static_cast<int32_t *>(output)) : doubled(static_cast<float *>(output));
    return true;
}

DataType ICudaEngine::getTensorDataType(char const *) const noexcept {
    return integers() ? DataType::kINT32 : DataType::kFLOAT;
}

TensorIOMode ICudaEngine::getTensorIOMode(char const *tensorName) const noexcept {
    return std::strcmp(tensorName, "x") == 0 ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
}

ICudaEngine *IRuntime::deserializeCudaEngine(void const *blob, std::size_t size) noexcept {
    return size > sizeof kMagic && std::memcmp(blob, kMagic, sizeof kMagic - 1) == 0 ? new ICudaEngine : nullptr;
}

IBuilder *createInferBuilder(ILogger &logger) noexcept { return new IBuilder(logger); }
IRuntime *createInferRuntime(ILogger &) noexcept { return new IRuntime; }

}  // namespace nvinfer1

namespace nvonnxparser {

bool IParser::parseFromFile(char const *onnxModelFile, int) noexcept {
    std::ifstream file(onnxModelFile, std::ios::binary);
    mNetwork.model.assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    return !mNetwork.model.empty();
}

IParser *createParser(nvinfer1::INetworkDefinition &network, nvinfer1::ILogger &) noexcept { return new IParser(network); }

}  // namespace nvonnxparser
