#include "op.hpp"

#include <stdexcept>
#include <string>
#include <utility>

namespace edgec {

using nvinfer1::DataType;

Shape::Shape(const nvinfer1::Dims& dims) : rank(dims.nbDims), size{} {
    for (int32_t axis = 0; axis < rank; ++axis) size[static_cast<std::size_t>(axis)] = dims.d[axis];
}

Op::Op(const char* called, std::vector<AttributeSpec> has, std::vector<Port> in, std::vector<Port> out)
    : name(called), attributes(std::move(has)), inputs(std::move(in)), outputs(std::move(out)) {}

void Op::check(const Shapes& shapes, const Attributes& values) const {
    for (std::size_t place = 0; place < inputs.size(); ++place)
        if (shapes[place].rank != inputs[place].rank)
            throw std::invalid_argument(std::string(inputs[place].name) + " has rank " +
                                        std::to_string(shapes[place].rank) + ", not " +
                                        std::to_string(inputs[place].rank));
    check_sizes(shapes, values);
}

std::size_t Op::workspace(const Shapes&, const Attributes&) const { return 0; }

bool Op::takes(int32_t place, DataType type, nvinfer1::TensorFormat format, DataType first) const {
    const auto index = static_cast<std::size_t>(place);
    if (place < 0 || index >= inputs.size() + outputs.size() || format != nvinfer1::TensorFormat::kLINEAR) return false;
    const Port& port = index < inputs.size() ? inputs[index] : outputs[index - inputs.size()];
    switch (port.kind) {
        case Kind::LIKE_FIRST: return type == first && (type == DataType::kHALF || type == DataType::kFLOAT);
        case Kind::HALF: return type == DataType::kHALF;
        case Kind::FULL: return type == DataType::kFLOAT;
        case Kind::INT32: return type == DataType::kINT32;
    }
    return false;
}

DataType Op::output_type(int32_t index, DataType first) const {
    switch (outputs.at(static_cast<std::size_t>(index)).kind) {
        case Kind::LIKE_FIRST:
            if (first != DataType::kHALF && first != DataType::kFLOAT)
                throw std::invalid_argument(std::string(inputs[0].name) + " is neither fp16 nor fp32");
            return first;
        case Kind::HALF: return DataType::kHALF;
        case Kind::FULL: return DataType::kFLOAT;
        case Kind::INT32: return DataType::kINT32;
    }
    throw std::logic_error("a port of no kind");
}

void check_equal(int64_t one, int64_t other, const char* what) {
    if (one >= 0 && other >= 0 && one != other)
        throw std::invalid_argument(std::string(what) + " differ: " + std::to_string(one) + " and " +
                                    std::to_string(other));
}

}  // namespace edgec
