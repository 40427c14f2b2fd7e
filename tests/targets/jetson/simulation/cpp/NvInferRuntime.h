// A simulated NvInferRuntime.h: what plugins use of NVIDIA's header, with its names, signatures, virtual functions
// and ownership. EDGEC_SIMULATED_TENSORRT is the major version, 10 where it is not set: before 10 there is
// IPluginV2DynamicExt and dimensions are int32, from 10 on there is IPluginV3 and they are int64.
//
// The sources of the plugins compile against NVIDIA's own headers too, from 8.5 to 11.1: tests/plugins/test_tensorrt_*
// take folders of them from EDGEC_TENSORRT_HEADERS.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cuda_runtime_api.h>

#ifndef EDGEC_SIMULATED_TENSORRT
#define EDGEC_SIMULATED_TENSORRT 10
#endif

#define NV_TENSORRT_MAJOR EDGEC_SIMULATED_TENSORRT
#define NV_TENSORRT_MINOR (EDGEC_SIMULATED_TENSORRT < 10 ? 5 : 3)
#define NV_TENSORRT_PATCH 0

namespace nvinfer1 {

using AsciiChar = char;

#if EDGEC_SIMULATED_TENSORRT >= 10
using Extent = int64_t;
#else
using Extent = int32_t;
#endif

class Dims {
public:
    static constexpr int32_t MAX_DIMS{8};
    int32_t nbDims;
    Extent d[MAX_DIMS];
};

enum class DataType : int32_t { kFLOAT, kHALF, kINT8, kINT32, kBOOL, kUINT8, kFP8, kBF16, kINT64, kINT4 };
enum class TensorFormat : int32_t { kLINEAR, kCHW2, kHWC8 };

class ILogger {
public:
    enum class Severity : int32_t { kINTERNAL_ERROR, kERROR, kWARNING, kINFO, kVERBOSE };
    virtual void log(Severity severity, AsciiChar const *msg) noexcept = 0;
    virtual ~ILogger() = default;
};

class IErrorRecorder;

class INoCopy {
protected:
    INoCopy() = default;
    virtual ~INoCopy() = default;
    INoCopy(INoCopy const &) = delete;
    INoCopy &operator=(INoCopy const &) = delete;
};

enum class DimensionOperation : int32_t { kSUM, kPROD, kMAX, kMIN, kSUB, kEQUAL, kLESS, kFLOOR_DIV, kCEIL_DIV };

class IDimensionExpr;

namespace apiv {
class VDimensionExpr {
public:
    virtual ~VDimensionExpr() noexcept = default;
    virtual bool isConstant() const = 0;
    virtual Extent getConstantValue() const = 0;
#if EDGEC_SIMULATED_TENSORRT >= 10
    virtual bool isSizeTensor() const = 0;
#endif
};
class VExprBuilder {
public:
    virtual ~VExprBuilder() noexcept = default;
    virtual IDimensionExpr const *constant(Extent value) = 0;
    virtual IDimensionExpr const *operation(DimensionOperation op, IDimensionExpr const &first,
                                            IDimensionExpr const &second) = 0;
#if EDGEC_SIMULATED_TENSORRT >= 10
    virtual IDimensionExpr const *declareSizeTensor(int32_t outputIndex, IDimensionExpr const &opt,
                                                    IDimensionExpr const &upper) = 0;
#endif
};
}  // namespace apiv

class IDimensionExpr : public INoCopy {
public:
    bool isConstant() const noexcept { return mImpl->isConstant(); }
    Extent getConstantValue() const noexcept { return mImpl->getConstantValue(); }

protected:
    apiv::VDimensionExpr *mImpl;
    virtual ~IDimensionExpr() noexcept = default;
};

class IExprBuilder : public INoCopy {
public:
    IDimensionExpr const *constant(Extent value) noexcept { return mImpl->constant(value); }
    IDimensionExpr const *operation(DimensionOperation op, IDimensionExpr const &first,
                                    IDimensionExpr const &second) noexcept {
        return mImpl->operation(op, first, second);
    }

protected:
    apiv::VExprBuilder *mImpl;
    virtual ~IExprBuilder() noexcept = default;
};

class DimsExprs {
public:
    int32_t nbDims;
    IDimensionExpr const *d[Dims::MAX_DIMS];
};

struct PluginTensorDesc {
    Dims dims;
    DataType type;
    TensorFormat format;
    float scale;
};

struct DynamicPluginTensorDesc {
    PluginTensorDesc desc;
    Dims min;
    Dims max;
#if EDGEC_SIMULATED_TENSORRT >= 10
    Dims opt;
#endif
};

enum class PluginFieldType : int32_t { kFLOAT16, kFLOAT32, kFLOAT64, kINT8, kINT16, kINT32, kCHAR, kDIMS, kUNKNOWN };

class PluginField {
public:
    AsciiChar const *name;
    void const *data;
    PluginFieldType type;
    int32_t length;
    PluginField(AsciiChar const *name_ = nullptr, void const *data_ = nullptr,
                PluginFieldType type_ = PluginFieldType::kUNKNOWN, int32_t length_ = 0) noexcept
        : name(name_), data(data_), type(type_), length(length_) {}
};

struct PluginFieldCollection {
    int32_t nbFields;
    PluginField const *fields;
};

}  // namespace nvinfer1

#if EDGEC_SIMULATED_TENSORRT >= 10
#include "simulated_plugin_v3.h"
#else
#include "simulated_plugin_v2.h"
#endif

extern "C" nvinfer1::IPluginRegistry *getPluginRegistry() noexcept;
extern "C" nvinfer1::ILogger *getLogger() noexcept;
