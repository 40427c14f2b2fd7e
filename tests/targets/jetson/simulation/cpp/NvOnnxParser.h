// The simulated parser's side of NvInfer.h.
#pragma once

#include "NvInfer.h"

namespace nvonnxparser {

class IParserError {
public:
    char const *desc() const noexcept { return "the file cannot be opened"; }
};

class IParser {
public:
    explicit IParser(nvinfer1::INetworkDefinition &network) : mNetwork(network) {}
    virtual ~IParser() noexcept = default;
    bool parseFromFile(char const *onnxModelFile, int verbosity) noexcept;
    int getNbErrors() const noexcept { return 1; }
    IParserError const *getError(int) const noexcept { return &mError; }

private:
    nvinfer1::INetworkDefinition &mNetwork;
    IParserError mError;
};

IParser *createParser(nvinfer1::INetworkDefinition &network, nvinfer1::ILogger &logger) noexcept;

}  // namespace nvonnxparser
