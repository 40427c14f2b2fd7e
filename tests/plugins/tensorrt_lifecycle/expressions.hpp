// Dimensions as TensorRT hands them to a plugin: expressions made by a builder, here of known numbers.
#pragma once

#include <NvInferRuntime.h>

#include <memory>
#include <type_traits>
#include <vector>

namespace harness {

using Number = std::decay_t<decltype(nvinfer1::Dims{}.d[0])>;

class Expression final : public nvinfer1::IDimensionExpr {
public:
    explicit Expression(Number value) : held_(value) { mImpl = &held_; }
    ~Expression() noexcept override = default;

private:
    class Held final : public nvinfer1::apiv::VDimensionExpr {
    public:
        explicit Held(Number value) : value_(value) {}
        bool isConstant() const override { return true; }
        Number getConstantValue() const override { return value_; }
#if NV_TENSORRT_MAJOR >= 10
        bool isSizeTensor() const override { return false; }
#endif

    private:
        Number value_;
    };
    Held held_;
};

class Builder final : public nvinfer1::IExprBuilder {
public:
    Builder() : maker_(*this) { mImpl = &maker_; }
    ~Builder() noexcept override = default;
    nvinfer1::IDimensionExpr const *keep(Number value) {
        made_.push_back(std::make_unique<Expression>(value));
        return made_.back().get();
    }

private:
    class Maker final : public nvinfer1::apiv::VExprBuilder {
    public:
        explicit Maker(Builder &builder) : builder_(builder) {}
        nvinfer1::IDimensionExpr const *constant(Number value) override { return builder_.keep(value); }
        nvinfer1::IDimensionExpr const *operation(nvinfer1::DimensionOperation op,
                                                  nvinfer1::IDimensionExpr const &first,
                                                  nvinfer1::IDimensionExpr const &second) override {
            const Number a = first.getConstantValue(), b = second.getConstantValue();
            switch (op) {
                case nvinfer1::DimensionOperation::kSUM: return builder_.keep(a + b);
                case nvinfer1::DimensionOperation::kSUB: return builder_.keep(a - b);
                case nvinfer1::DimensionOperation::kPROD: return builder_.keep(a * b);
                default: return nullptr;
            }
        }
#if NV_TENSORRT_MAJOR >= 10
        nvinfer1::IDimensionExpr const *declareSizeTensor(int32_t, nvinfer1::IDimensionExpr const &,
                                                          nvinfer1::IDimensionExpr const &) override {
            return nullptr;
        }
#endif

    private:
        Builder &builder_;
    };
    Maker maker_;
    std::vector<std::unique_ptr<Expression>> made_;
};

}  // namespace harness
