#include "op.hpp"

#include <stdexcept>
#include <string>

namespace edgec {

using nvinfer1::DataType;
using nvinfer1::DimensionOperation;

namespace {

// The types that kernels take; false for any other.
bool type_of(DataType type, Type& found) {
    switch (type) {
        case DataType::kFLOAT: return found = Type::FLOAT32, true;
        case DataType::kHALF: return found = Type::FLOAT16, true;
        case DataType::kINT32: return found = Type::INT32, true;
        case DataType::kBOOL: return found = Type::BOOL, true;
        default: return false;
    }
}

// A call's tensors, whose sizes lie in `shapes`.
std::vector<edgec_tensor> tensors_of(const Shapes& shapes, const std::vector<Port>& ports, Type first,
                                     const void* const* data) {
    std::vector<edgec_tensor> made;
    for (std::size_t place = 0; place < ports.size(); ++place) {
        const Kind kind = ports[place].kind;
        const Type type = kind == Kind::FLOAT32 ? Type::FLOAT32
                          : kind == Kind::INT32 ? Type::INT32
                          : kind == Kind::BOOL  ? Type::BOOL
                                                : first;
        // A kernel writes to outputs alone.
        made.push_back({data == nullptr ? nullptr : const_cast<void*>(data[place]), shapes[place].size.data(),
                        shapes[place].rank, static_cast<int64_t>(type)});
    }
    return made;
}

}  // namespace

Shape::Shape(const nvinfer1::Dims& dims) : rank(dims.nbDims), size{} {
    for (int32_t axis = 0; axis < rank; ++axis) size[static_cast<std::size_t>(axis)] = dims.d[axis];
}

nvinfer1::DimsExprs Op::output_shape(int32_t index, const nvinfer1::DimsExprs* given, const Attributes& values,
                                     nvinfer1::IExprBuilder& builder) const {
    const auto size_of = [&](const char* name) -> const nvinfer1::IDimensionExpr* {
        for (std::size_t place = 0; place < inputs().size(); ++place) {
            const Port& port = inputs()[place];
            if (given[place].nbDims != static_cast<int32_t>(port.sizes.size()))
                throw std::invalid_argument(std::string(port.name) + " must have " + std::to_string(port.sizes.size()) +
                                            " dimensions, not " + std::to_string(given[place].nbDims));
            for (std::size_t axis = 0; axis < port.sizes.size(); ++axis)
                if (std::strcmp(port.sizes[axis].front().name, name) == 0) return given[place].d[axis];
        }
        return builder.constant(values.integer(name));
    };
    const auto& sizes = outputs().at(static_cast<std::size_t>(index)).sizes;
    nvinfer1::DimsExprs made{};
    made.nbDims = static_cast<int32_t>(sizes.size());
    for (std::size_t axis = 0; axis < sizes.size(); ++axis) {
        const nvinfer1::IDimensionExpr* total = nullptr;
        for (const Term& term : sizes[axis]) {
            const int64_t factor = term.factor < 0 && total != nullptr ? -term.factor : term.factor;
            const nvinfer1::IDimensionExpr* each = *term.name == '\0' ? builder.constant(factor) : size_of(term.name);
            if (*term.name != '\0' && factor != 1)
                each = builder.operation(DimensionOperation::kPROD, *builder.constant(factor), *each);
            const auto joined = term.factor < 0 ? DimensionOperation::kSUB : DimensionOperation::kSUM;
            total = total == nullptr ? each : builder.operation(joined, *total, *each);
        }
        made.d[axis] = total;
    }
    return made;
}

Known Op::known(const Shapes& shapes, const Attributes& values) const {
    Known found;
    for (const edgec_attribute& each : values.given()) found.number(each.name, each.integer);
    for (std::size_t place = 0; place < inputs().size(); ++place)
        found.input(inputs()[place], shapes[place].size.data(), shapes[place].rank);
    return found;
}

void Op::check(const Shapes& shapes, const Attributes& values) const { known(shapes, values).check(schema_.rules); }

std::size_t Op::workspace(const Shapes& shapes, const Attributes& values) const {
    if (workspace_ == nullptr) return 0;
    const std::vector<edgec_attribute> attributes = values.given();
    const std::vector<edgec_tensor> given = tensors_of(shapes, inputs(), Type::FLOAT32, nullptr);
    const edgec_cuda_call call{given.data(), nullptr,
                               attributes.data(), static_cast<int64_t>(attributes.size()),
                               nullptr, nullptr};
    return static_cast<std::size_t>(workspace_(&call));
}

int Op::launch(const Launch& call, const Attributes& values) const {
    Type first{};
    if (!type_of(call.first, first)) return EDGEC_REFUSED;
    const Known found = known(call.shapes, values);
    Shapes shapes;
    for (const Port& port : outputs()) {
        shapes.emplace_back(nvinfer1::Dims{});
        shapes.back().rank = static_cast<int32_t>(port.sizes.size());
        for (std::size_t axis = 0; axis < port.sizes.size(); ++axis)
            shapes.back().size[axis] = found.value(port.sizes[axis]);
    }
    const std::vector<edgec_attribute> attributes = values.given();
    const std::vector<edgec_tensor> given = tensors_of(call.shapes, inputs(), first, call.inputs);
    const std::vector<edgec_tensor> made = tensors_of(shapes, outputs(), first, call.outputs);
    const edgec_cuda_call made_call{given.data(), made.data(),
                                    attributes.data(), static_cast<int64_t>(attributes.size()),
                                    call.workspace, call.stream};
    return entry_(&made_call);
}

bool Op::takes(int32_t place, DataType type, nvinfer1::TensorFormat format, DataType first) const {
    const auto index = static_cast<std::size_t>(place);
    if (place < 0 || index >= inputs().size() + outputs().size() || format != nvinfer1::TensorFormat::kLINEAR)
        return false;
    const Port& port = index < inputs().size() ? inputs()[index] : outputs()[index - inputs().size()];
    Type found{};
    return type_of(type, found) && schema_.takes(port.kind, found) && (port.kind != Kind::LIKE_FIRST || type == first);
}

DataType Op::output_type(int32_t index, DataType first) const {
    Type found{};
    switch (outputs().at(static_cast<std::size_t>(index)).kind) {
        case Kind::FLOAT32: return DataType::kFLOAT;
        case Kind::INT32: return DataType::kINT32;
        case Kind::BOOL: return DataType::kBOOL;
        case Kind::LIKE_FIRST: break;
    }
    if (!type_of(first, found) || !schema_.takes(Kind::LIKE_FIRST, found))
        throw std::invalid_argument(std::string(inputs()[0].name) + " is of a type that the kernel does not take");
    return first;
}

}  // namespace edgec
