// Any op of ai.edgec as an operation of OpenVINO: shapes and types by its schema, values by its kernel on OpenVINO's
// own threads.
#pragma once

#include "kernel.h"
#include "schema.hpp"

#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "openvino/core/extension.hpp"
#include "openvino/core/op_extension.hpp"
#include "openvino/frontend/onnx/extension/conversion.hpp"
#include "openvino/op/op.hpp"

namespace edgec {

constexpr const char* DOMAIN_NAME = "ai.edgec";

inline void on_tbb(int64_t count, edgec_task task, void* data, int by_turns) {
    const auto body = [&](int64_t index) { task(index, data); };
    if (by_turns != 0)
        tbb::parallel_for(int64_t(0), count, body, tbb::simple_partitioner());
    else
        tbb::parallel_for(int64_t(0), count, body, tbb::static_partitioner());
}

// Scratch memory that outlives a call: one block a thread that evaluates.
inline void* scratch(int64_t bytes) {
    constexpr size_t LINE = 64;
    thread_local std::vector<char> block;
    const size_t wanted = static_cast<size_t>(bytes) + LINE;
    if (block.size() < wanted) block.resize(wanted);
    const auto address = reinterpret_cast<uintptr_t>(block.data());
    return reinterpret_cast<void*>((address + LINE - 1) / LINE * LINE);
}

// The type of a tensor; false where no kernel takes it. The CPU plugin makes bytes of booleans.
inline bool type_of(const ov::element::Type& type, Type& found) {
    if (type == ov::element::f32) return found = Type::FLOAT32, true;
    if (type == ov::element::bf16) return found = Type::BFLOAT16, true;
    if (type == ov::element::i32) return found = Type::INT32, true;
    if (type == ov::element::boolean || type == ov::element::u8) return found = Type::BOOL, true;
    return false;
}

// `Declared` has schema(), run, and open_size, which is null where no size depends on the data.
template <typename Declared>
class KernelOp final : public ov::op::Op {
public:
    static const ov::DiscreteTypeInfo& get_type_info_static() {
        static ov::DiscreteTypeInfo info{Declared::schema().name, DOMAIN_NAME};
        info.hash();
        return info;
    }
    const ov::DiscreteTypeInfo& get_type_info() const override { return get_type_info_static(); }

    struct Value {
        int64_t integer;
        float number;
    };

    KernelOp() {
        for (const AttributeSpec& spec : schema().attributes)
            values_.push_back({static_cast<int64_t>(spec.fallback), static_cast<float>(spec.fallback)});
    }
    KernelOp(const ov::OutputVector& inputs, std::vector<Value> values)
        : ov::op::Op(inputs), values_(std::move(values)) {
        constructor_validate_and_infer_types();
    }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        return std::make_shared<KernelOp>(inputs, values_);
    }

    bool visit_attributes(ov::AttributeVisitor& visitor) override {
        for (size_t place = 0; place < values_.size(); ++place) {
            const AttributeSpec& spec = schema().attributes[place];
            if (spec.real)
                visitor.on_attribute(spec.name, values_[place].number);
            else
                visitor.on_attribute(spec.name, values_[place].integer);
        }
        return true;
    }

    void validate_and_infer_types() override {
        const auto& ports = schema().inputs;
        NODE_VALIDATION_CHECK(this, get_input_size() == ports.size(), schema().name, " has ", ports.size(), " inputs");
        std::vector<std::pair<const char*, ov::Dimension>> sizes;
        for (size_t place = 0; place < ports.size(); ++place) {
            const ov::element::Type type = get_input_element_type(place);
            Type found{};
            NODE_VALIDATION_CHECK(this,
                                  type.is_dynamic() || (type_of(type, found) && schema().takes(ports[place].kind, found)),
                                  ports[place].name, " is of a type that the kernel does not take: ", type);
            NODE_VALIDATION_CHECK(
                this, ports[place].kind != Kind::LIKE_FIRST || type.compatible(get_input_element_type(0)),
                ports[place].name, " and ", ports[0].name, " must have one type");
            const ov::PartialShape& shape = get_input_partial_shape(place);
            const auto rank = static_cast<int64_t>(ports[place].sizes.size());
            NODE_VALIDATION_CHECK(this, shape.rank().compatible(rank), ports[place].name, " must have ", rank,
                                  " dimensions");
            for (size_t axis = 0; axis < ports[place].sizes.size(); ++axis)
                sizes.emplace_back(ports[place].sizes[axis].front().name,
                                   shape.rank().is_static() ? shape[axis] : ov::Dimension::dynamic());
        }
        for (size_t place = 0; place < schema().outputs.size(); ++place) {
            const Port& port = schema().outputs[place];
            ov::PartialShape shape;
            for (const Sum& sum : port.sizes) shape.push_back(dimension(sum, sizes));
            set_output_type(place, output_type(port.kind), shape);
        }
    }

    bool has_evaluate() const override { return true; }

    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
        try {
            run(outputs, inputs);
        } catch (const std::exception& error) {
            OPENVINO_THROW(schema().name, " '", get_friendly_name(), "': ", error.what());
        }
        return true;
    }

private:
    static const Schema& schema() { return Declared::schema(); }

    ov::element::Type output_type(Kind kind) const {
        switch (kind) {
            case Kind::FLOAT32: return ov::element::f32;
            case Kind::INT32: return ov::element::i32;
            case Kind::BOOL: return ov::element::boolean;
            case Kind::LIKE_FIRST: break;
        }
        return get_input_element_type(0);
    }

    // A size of an output: known, as an input has it, or open.
    ov::Dimension dimension(const Sum& sum, const std::vector<std::pair<const char*, ov::Dimension>>& sizes) const {
        int64_t total = 0;
        for (const Term& term : sum) {
            if (*term.name == '\0') {
                total += term.factor;
                continue;
            }
            bool known = false;
            for (const auto& [name, size] : sizes) {
                if (std::strcmp(name, term.name) != 0) continue;
                if (sum.size() == 1) return size;
                if (!size.is_static()) return ov::Dimension::dynamic();
                total += term.factor * size.get_length();
                known = true;
                break;
            }
            for (size_t place = 0; place < values_.size() && !known; ++place)
                if (std::strcmp(schema().attributes[place].name, term.name) == 0) {
                    total += term.factor * values_[place].integer;
                    known = true;
                }
            if (!known) return ov::Dimension::dynamic();
        }
        return total;
    }

    void run(ov::TensorVector& outputs, const ov::TensorVector& inputs) const {
        const Schema& op = schema();
        std::vector<edgec_attribute> attributes;
        Known known;
        for (size_t place = 0; place < values_.size(); ++place) {
            attributes.push_back({op.attributes[place].name, values_[place].integer, values_[place].number});
            if (!op.attributes[place].real) known.number(op.attributes[place].name, values_[place].integer);
        }
        std::vector<ov::Shape> shapes;
        std::vector<std::vector<int64_t>> sizes;
        std::vector<edgec_tensor> given, made;
        const auto describe = [&sizes](const ov::Tensor& tensor) {
            Type type{};
            if (!type_of(tensor.get_element_type(), type)) throw std::invalid_argument("an unknown type");
            const ov::Shape shape = tensor.get_shape();
            sizes.emplace_back(shape.begin(), shape.end());
            // A kernel writes to outputs alone.
            return edgec_tensor{const_cast<void*>(static_cast<const void*>(tensor.data())), sizes.back().data(),
                                static_cast<int64_t>(shape.size()), static_cast<int64_t>(type)};
        };
        sizes.reserve(inputs.size() + outputs.size());
        for (size_t place = 0; place < inputs.size(); ++place) {
            given.push_back(describe(inputs[place]));
            known.input(op.inputs[place], given.back().sizes, given.back().rank);
        }
        known.check(op.rules);
        const int threads = tbb::this_task_arena::max_concurrency();
        edgec_cpu_call call{given.data(), nullptr, attributes.data(), static_cast<int64_t>(attributes.size()),
                            threads > 1 ? on_tbb : nullptr, scratch, threads};
        const int64_t open = Declared::open_size == nullptr ? 0 : Declared::open_size(&call);
        for (size_t place = 0; place < outputs.size(); ++place) {
            ov::Shape shape;
            for (const Sum& sum : op.outputs[place].sizes) {
                const int64_t size = known.value(sum);
                shape.push_back(static_cast<size_t>(size < 0 ? open : size));
            }
            outputs[place].set_shape(shape);
            made.push_back(describe(outputs[place]));
        }
        call.outputs = made.data();
        if (Declared::run(&call) != EDGEC_DONE) throw std::invalid_argument("the kernel does not take these inputs");
    }

    std::vector<Value> values_;
};

// An op that is read from a saved model, and from an ONNX file.
template <typename Declared>
void extend(std::vector<ov::Extension::Ptr>& extensions) {
    using Made = KernelOp<Declared>;
    extensions.push_back(std::make_shared<ov::OpExtension<Made>>());
    const auto create = [](const ov::frontend::NodeContext& node) {
        ov::OutputVector inputs;
        for (size_t place = 0; place < node.get_input_size(); ++place)
            inputs.push_back(node.get_input(static_cast<int>(place)));
        std::vector<typename Made::Value> values;
        for (const AttributeSpec& spec : Declared::schema().attributes) {
            const auto fallback = static_cast<float>(spec.fallback);
            values.push_back(
                spec.real
                    ? typename Made::Value{0, node.get_attribute<float>(spec.name, fallback)}
                    : typename Made::Value{node.get_attribute<int64_t>(spec.name, static_cast<int64_t>(spec.fallback)),
                                           0.0f});
        }
        return std::make_shared<Made>(inputs, values)->outputs();
    };
    extensions.push_back(std::make_shared<ov::frontend::onnx::ConversionExtension>(Declared::schema().name,
                                                                                   DOMAIN_NAME, create));
}

}  // namespace edgec
