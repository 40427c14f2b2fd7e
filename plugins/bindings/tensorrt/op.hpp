// What an op of `ai.edgec` is to TensorRT, whichever plugin interface asks: ports, shapes, and the launch.
#pragma once

#include "attributes.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace edgec {

// What a port takes. LIKE_FIRST is fp16 or fp32, the same at every such port of a node.
enum class Kind { LIKE_FIRST, HALF, FULL, INT32 };

struct Port {
    const char* name;
    Kind kind;
    int32_t rank;
};

struct Shape {
    int32_t rank;
    std::array<int64_t, nvinfer1::Dims::MAX_DIMS> size;  // -1 where still open

    explicit Shape(const nvinfer1::Dims& dims);
    Shape() : rank(0), size{} {}
};

constexpr std::size_t MOST_INPUTS = 4;
using Shapes = std::array<Shape, MOST_INPUTS>;

struct Launch {
    const Shapes& shapes;  // of the inputs, none open
    bool half;             // whether ports that are LIKE_FIRST are fp16
    const void* const* inputs;
    void* const* outputs;
    void* workspace;
    cudaStream_t stream;
};

// One op, without state: attributes come with every call. Each method throws std::invalid_argument with a
// sentence where sizes or types are not what the op is defined for.
class Op {
public:
    const char* const name;
    const std::vector<AttributeSpec> attributes;
    const std::vector<Port> inputs, outputs;

    virtual ~Op() = default;
    Op(const Op&) = delete;
    Op& operator=(const Op&) = delete;

    // Expressions for the sizes of an output.
    virtual nvinfer1::DimsExprs output_shape(int32_t index, const nvinfer1::DimsExprs* given,
                                             const Attributes& values, nvinfer1::IExprBuilder& builder) const = 0;

    // See that the inputs' sizes go together; sizes that are still open are not looked at.
    void check(const Shapes& shapes, const Attributes& values) const;

    // Bytes of device memory that a launch with inputs of at most these sizes needs besides its tensors.
    virtual std::size_t workspace(const Shapes& shapes, const Attributes& values) const;

    // Launch the kernel: the status of the C entry, 0 for success.
    virtual int launch(const Launch& call, const Attributes& values) const = 0;

    // The shapes of as many tensors as the op has inputs.
    template <typename Description, typename Get>
    Shapes shapes_of(const Description* given, Get&& dims) const {
        Shapes made;
        for (std::size_t place = 0; place < inputs.size(); ++place) made[place] = Shape(dims(given[place]));
        return made;
    }

    // Whether a tensor may be of this type and format; `first` is the type of the first input. Ports are
    // counted as TensorRT does, outputs behind inputs.
    bool takes(int32_t place, nvinfer1::DataType type, nvinfer1::TensorFormat format, nvinfer1::DataType first) const;

    nvinfer1::DataType output_type(int32_t index, nvinfer1::DataType first) const;

protected:
    Op(const char* called, std::vector<AttributeSpec> has, std::vector<Port> in, std::vector<Port> out);

    // What goes beyond ranks.
    virtual void check_sizes(const Shapes& shapes, const Attributes& values) const = 0;
};

// See that two sizes are one, where both are known.
void check_equal(int64_t one, int64_t other, const char* what);

// The ops of this library: each library links one definition.
const std::vector<const Op*>& library_ops();

}  // namespace edgec
