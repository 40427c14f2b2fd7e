// What an op of `ai.edgec` is to TensorRT, whichever plugin interface asks: types, shapes, and the launch.
#pragma once

#include "attributes.hpp"
#include "kernel.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace edgec {

struct Shape {
    int32_t rank;
    std::array<int64_t, nvinfer1::Dims::MAX_DIMS> size;  // -1 where still open

    explicit Shape(const nvinfer1::Dims& dims);
};
using Shapes = std::vector<Shape>;

struct Launch {
    const Shapes& shapes;  // of the inputs, none open
    nvinfer1::DataType first;
    const void* const* inputs;
    void* const* outputs;
    void* workspace;
    cudaStream_t stream;
};

// One op, without state: attributes come with every call. Each method throws std::invalid_argument with a
// sentence where sizes or types are not what the op is declared for.
class Op {
public:
    using Entry = int (*)(const edgec_cuda_call*);
    using Workspace = int64_t (*)(const edgec_cuda_call*);

    // `workspace` is null where the kernel needs none.
    Op(Schema schema, Entry entry, Workspace workspace)
        : schema_(std::move(schema)), entry_(entry), workspace_(workspace) {}
    Op(const Op&) = delete;
    Op& operator=(const Op&) = delete;

    const char* name() const { return schema_.name; }
    const std::vector<AttributeSpec>& attributes() const { return schema_.attributes; }
    const std::vector<Port>& inputs() const { return schema_.inputs; }
    const std::vector<Port>& outputs() const { return schema_.outputs; }

    // Expressions for the sizes of an output.
    nvinfer1::DimsExprs output_shape(int32_t index, const nvinfer1::DimsExprs* given, const Attributes& values,
                                     nvinfer1::IExprBuilder& builder) const;

    // See that the inputs' sizes go together; sizes that are still open are not looked at.
    void check(const Shapes& shapes, const Attributes& values) const;

    // Bytes of device memory that a launch with inputs of at most these sizes needs besides its tensors.
    std::size_t workspace(const Shapes& shapes, const Attributes& values) const;

    // Launch the kernel: the status of its entry, EDGEC_DONE for success.
    int launch(const Launch& call, const Attributes& values) const;

    // The shapes of as many tensors as the op has inputs.
    template <typename Description, typename Get>
    Shapes shapes_of(const Description* given, Get&& dims) const {
        Shapes made;
        for (std::size_t place = 0; place < inputs().size(); ++place) made.emplace_back(dims(given[place]));
        return made;
    }

    // Whether a tensor may be of this type and format; `first` is the type of the first input. Ports are
    // counted as TensorRT does, outputs behind inputs.
    bool takes(int32_t place, nvinfer1::DataType type, nvinfer1::TensorFormat format, nvinfer1::DataType first) const;

    nvinfer1::DataType output_type(int32_t index, nvinfer1::DataType first) const;

private:
    Known known(const Shapes& shapes, const Attributes& values) const;

    Schema schema_;
    Entry entry_;
    Workspace workspace_;
};

// The ops of this library: each library links one definition, which is made from the plugins' declarations.
const std::vector<const Op*>& library_ops();

}  // namespace edgec
