// The ops of the ai.edgec domain as an OpenVINO extension: shapes, attributes, and a call of the plain C
// kernels on OpenVINO's own threads.

#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "openvino/core/extension.hpp"
#include "openvino/core/op_extension.hpp"
#include "openvino/frontend/onnx/extension/conversion.hpp"
#include "openvino/op/op.hpp"
#include "token_kernels.h"
#include "varlen_kernels.h"

namespace {

constexpr const char* DOMAIN_NAME = "ai.edgec";

void on_tbb(int64_t count, edgec_task task, void* data) {
    tbb::parallel_for(
        int64_t(0), count, [&](int64_t index) { task(index, data); }, tbb::static_partitioner());
}

// For few and large tasks, whichever thread is free takes the next.
void on_tbb_by_turns(int64_t count, edgec_task task, void* data) {
    tbb::parallel_for(
        int64_t(0), count, [&](int64_t index) { task(index, data); }, tbb::simple_partitioner());
}

// Below this many floats moved or multiplied, waking another thread costs more than it brings.
constexpr int64_t WORTH_A_THREAD = 1 << 20;

// Scratch memory that outlives a call: one block a thread that evaluates.
void* scratch(int64_t bytes) {
    constexpr size_t LINE = 64;
    thread_local std::vector<char> block;
    const size_t wanted = static_cast<size_t>(bytes) + LINE;
    if (block.size() < wanted) block.resize(wanted);
    const auto address = reinterpret_cast<uintptr_t>(block.data());
    return reinterpret_cast<void*>((address + LINE - 1) / LINE * LINE);
}

// What the reducing ops share: attributes, output shapes, and how a call is cut into tasks.
class Reduction : public ov::op::Op {
public:
    Reduction() = default;
    Reduction(const ov::OutputVector& inputs, int64_t r, int64_t guarded)
        : ov::op::Op(inputs), m_r(r), m_protected(guarded) {}

    void validate_and_infer_types() override {
        const size_t sizes = get_input_size() - 1;
        for (size_t index = 0; index < get_input_size(); ++index) {
            const ov::element::Type type = get_input_element_type(index);
            const bool wide = index == 0 || index == metric();
            NODE_VALIDATION_CHECK(this,
                                  type.is_dynamic() || type == ov::element::f32 ||
                                      (wide && type == ov::element::bf16),
                                  "input ", index, " must be f32", wide ? " or bf16" : "", ", it is ", type);
        }
        NODE_VALIDATION_CHECK(this, get_input_element_type(0).compatible(get_input_element_type(metric())),
                              "tokens and metric must have one type");
        ov::PartialShape tokens = get_input_partial_shape(0);
        NODE_VALIDATION_CHECK(this, tokens.rank().compatible(3), "tokens must have 3 dimensions");
        if (tokens.rank().is_dynamic()) tokens = ov::PartialShape::dynamic(3);
        const ov::Dimension length = tokens[1];
        ov::PartialShape merged = tokens;
        merged[1] = length.is_static() ? ov::Dimension(length.get_length() - m_r) : ov::Dimension::dynamic();
        set_output_type(0, get_input_element_type(0), merged);
        set_output_type(1, get_input_element_type(sizes), ov::PartialShape{tokens[0], merged[1], 1});
        set_output_type(2, ov::element::i32, ov::PartialShape{tokens[0], length});
    }

    bool visit_attributes(ov::AttributeVisitor& visitor) override {
        visitor.on_attribute("r", m_r);
        visitor.on_attribute("protected", m_protected);
        return true;
    }

    bool has_evaluate() const override { return true; }

protected:
    // The index of the metric among the inputs.
    virtual size_t metric() const { return 1; }

    struct Call {
        edgec_token_shape shape;
        void* workspace;
        edgec_parallel parallel;
        int64_t threads;
    };

    Call prepare(ov::TensorVector& outputs, const ov::TensorVector& inputs) const {
        const ov::Shape tokens = inputs[0].get_shape(), keys = inputs[metric()].get_shape();
        Call call;
        const auto size = [](size_t value) { return static_cast<int64_t>(value); };
        call.shape = {size(tokens[0]), size(tokens[1]), size(tokens[2]), size(keys[1]), size(keys[3]), m_r,
                      m_protected, inputs[0].get_element_type() == ov::element::bf16};
        const auto& s = call.shape;
        const size_t kept = static_cast<size_t>(s.length - s.r);
        outputs[0].set_shape({tokens[0], kept, tokens[2]});
        outputs[1].set_shape({tokens[0], kept, 1});
        outputs[2].set_shape({tokens[0], tokens[1]});
        call.workspace = scratch(edgec_token_workspace(&s));
        const int64_t work = s.batch * s.length * (s.length * s.depth / 4 + s.channels + s.heads * s.depth);
        call.threads = work < WORTH_A_THREAD ? 1 : tbb::this_task_arena::max_concurrency();
        call.parallel = call.threads > 1 ? on_tbb : nullptr;
        return call;
    }

    int64_t m_r = 0, m_protected = 0;
};

class TokenMerge : public Reduction {
public:
    OPENVINO_OP("TokenMerge", DOMAIN_NAME);
    TokenMerge() = default;
    TokenMerge(const ov::OutputVector& inputs, int64_t r, int64_t guarded) : Reduction(inputs, r, guarded) {
        constructor_validate_and_infer_types();
    }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        return std::make_shared<TokenMerge>(inputs, m_r, m_protected);
    }

    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
        const Call call = prepare(outputs, inputs);
        return edgec_token_merge(&call.shape, inputs[0].data(), inputs[1].data(),
                                 inputs[2].data<float>(), outputs[0].data(), outputs[1].data<float>(),
                                 outputs[2].data<int32_t>(), call.workspace, call.parallel,
                                 call.threads) == 0;
    }
};

class TokenMergeEnergy : public Reduction {
public:
    OPENVINO_OP("TokenMergeEnergy", DOMAIN_NAME);
    TokenMergeEnergy() = default;
    TokenMergeEnergy(const ov::OutputVector& inputs, int64_t r, int64_t guarded, float margin)
        : Reduction(inputs, r, guarded), m_margin(margin) {
        constructor_validate_and_infer_types();
    }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        return std::make_shared<TokenMergeEnergy>(inputs, m_r, m_protected, m_margin);
    }

    bool visit_attributes(ov::AttributeVisitor& visitor) override {
        visitor.on_attribute("margin", m_margin);
        return Reduction::visit_attributes(visitor);
    }

    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
        const Call call = prepare(outputs, inputs);
        return edgec_token_merge_energy(&call.shape, m_margin, inputs[0].data(), inputs[1].data(),
                                        inputs[2].data<float>(), outputs[0].data(), outputs[1].data<float>(),
                                        outputs[2].data<int32_t>(), call.workspace, call.parallel,
                                        call.threads) == 0;
    }

private:
    float m_margin = 0.5f;
};

class TokenPrune : public Reduction {
public:
    OPENVINO_OP("TokenPrune", DOMAIN_NAME);
    TokenPrune() = default;
    TokenPrune(const ov::OutputVector& inputs, int64_t r, int64_t guarded, int64_t merge)
        : Reduction(inputs, r, guarded), m_merge(merge) {
        constructor_validate_and_infer_types();
    }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        return std::make_shared<TokenPrune>(inputs, m_r, m_protected, m_merge);
    }

    bool visit_attributes(ov::AttributeVisitor& visitor) override {
        visitor.on_attribute("merge", m_merge);
        return Reduction::visit_attributes(visitor);
    }

    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
        const Call call = prepare(outputs, inputs);
        return edgec_token_prune(&call.shape, m_merge != 0, inputs[0].data(), inputs[1].data<float>(),
                                 inputs[2].data(), inputs[3].data<float>(), outputs[0].data(),
                                 outputs[1].data<float>(), outputs[2].data<int32_t>(), call.workspace,
                                 call.parallel, call.threads) == 0;
    }

protected:
    size_t metric() const override { return 2; }

private:
    int64_t m_merge = 1;
};

class TokenRestore : public ov::op::Op {
public:
    OPENVINO_OP("TokenRestore", DOMAIN_NAME);
    TokenRestore() = default;
    explicit TokenRestore(const ov::OutputVector& inputs) : ov::op::Op(inputs) {
        constructor_validate_and_infer_types();
    }

    void validate_and_infer_types() override {
        NODE_VALIDATION_CHECK(this,
                              get_input_element_type(0).is_dynamic() || get_input_element_type(0) == ov::element::f32,
                              "tokens must be f32");
        NODE_VALIDATION_CHECK(this,
                              get_input_element_type(1).is_dynamic() || get_input_element_type(1) == ov::element::i32,
                              "assignment must be i32");
        ov::PartialShape tokens = get_input_partial_shape(0), assignment = get_input_partial_shape(1);
        if (tokens.rank().is_dynamic()) tokens = ov::PartialShape::dynamic(3);
        if (assignment.rank().is_dynamic()) assignment = ov::PartialShape::dynamic(2);
        set_output_type(0, get_input_element_type(0), ov::PartialShape{tokens[0], assignment[1], tokens[2]});
    }

    bool visit_attributes(ov::AttributeVisitor&) override { return true; }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        return std::make_shared<TokenRestore>(inputs);
    }

    bool has_evaluate() const override { return true; }

    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
        const ov::Shape tokens = inputs[0].get_shape(), places = inputs[1].get_shape();
        outputs[0].set_shape({tokens[0], places[1], tokens[2]});
        return edgec_token_restore(static_cast<int64_t>(tokens[0]), static_cast<int64_t>(tokens[1]),
                                   static_cast<int64_t>(places[1]), static_cast<int64_t>(tokens[2]),
                                   inputs[0].data<float>(), inputs[1].data<int32_t>(),
                                   outputs[0].data<float>()) == 0;
    }
};

// The logarithm of the tokens' sizes, a row for each head.
class SizeBias : public ov::op::Op {
public:
    OPENVINO_OP("SizeBias", DOMAIN_NAME);
    SizeBias() = default;
    SizeBias(const ov::OutputVector& inputs, int64_t heads, float floor)
        : ov::op::Op(inputs), m_heads(heads), m_floor(floor) {
        constructor_validate_and_infer_types();
    }

    void validate_and_infer_types() override {
        const ov::element::Type type = get_input_element_type(0);
        NODE_VALIDATION_CHECK(this, type.is_dynamic() || type == ov::element::f32, "sizes must be f32");
        ov::PartialShape sizes = get_input_partial_shape(0);
        if (sizes.rank().is_dynamic()) sizes = ov::PartialShape::dynamic(3);
        set_output_type(0, ov::element::f32, ov::PartialShape{sizes[0], m_heads, 1, sizes[1]});
    }

    bool visit_attributes(ov::AttributeVisitor& visitor) override {
        visitor.on_attribute("heads", m_heads);
        visitor.on_attribute("floor", m_floor);
        return true;
    }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        return std::make_shared<SizeBias>(inputs, m_heads, m_floor);
    }

    bool has_evaluate() const override { return true; }

    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
        const ov::Shape shape = inputs[0].get_shape();
        const size_t heads = static_cast<size_t>(m_heads), length = shape[1];
        outputs[0].set_shape({shape[0], heads, 1, length});
        const float* sizes = inputs[0].data<float>();
        float* bias = outputs[0].data<float>();
        for (size_t sample = 0; sample < shape[0]; ++sample, sizes += length, bias += heads * length) {
            for (size_t n = 0; n < length; ++n) bias[n] = std::log(std::max(sizes[n], m_floor));
            for (size_t head = 1; head < heads; ++head) std::copy_n(bias, length, bias + head * length);
        }
        return true;
    }

private:
    int64_t m_heads = 1;
    float m_floor = 1.0e-20f;
};

// Whether a tensor may be float32 or bf16, as the kernels take both.
bool real(const ov::element::Type& type) {
    return type.is_dynamic() || type == ov::element::f32 || type == ov::element::bf16;
}

// A boolean, or the bytes that the CPU plugin makes of booleans.
bool mask(const ov::element::Type& type) {
    return type.is_dynamic() || type == ov::element::boolean || type == ov::element::u8;
}

// Attention within sequences; with a fifth input, within a window of their places.
class Varlen : public ov::op::Op {
public:
    Varlen() = default;
    Varlen(const ov::OutputVector& inputs, float scale, int64_t window)
        : ov::op::Op(inputs), m_scale(scale), m_window(window) {}

    void validate_and_infer_types() override {
        for (size_t index = 0; index < 3; ++index) {
            NODE_VALIDATION_CHECK(this, real(get_input_element_type(index)), "input ", index, " must be f32 or bf16");
            NODE_VALIDATION_CHECK(this, get_input_element_type(index).compatible(get_input_element_type(0)),
                                  "query, key and value must have one type");
        }
        for (size_t index = 3; index < get_input_size(); ++index)
            NODE_VALIDATION_CHECK(
                this, get_input_element_type(index).is_dynamic() || get_input_element_type(index) == ov::element::i32,
                "input ", index, " must be i32");
        set_output_type(0, get_input_element_type(0), get_input_partial_shape(0));
    }

    bool visit_attributes(ov::AttributeVisitor& visitor) override {
        visitor.on_attribute("scale", m_scale);
        visitor.on_attribute("window", m_window);
        return true;
    }

    bool has_evaluate() const override { return true; }

    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
        const ov::Shape shape = inputs[0].get_shape();
        outputs[0].set_shape(shape);
        const edgec_varlen_shape given{static_cast<int64_t>(inputs[3].get_size()) - 1,
                                       static_cast<int64_t>(shape[1]),
                                       static_cast<int64_t>(shape[2]),
                                       m_scale,
                                       inputs[0].get_element_type() == ov::element::bf16,
                                       m_window};
        edgec_varlen_attention(&given, inputs[0].data(), inputs[1].data(), inputs[2].data(),
                               inputs[3].data<int32_t>(), inputs.size() > 4 ? inputs[4].data<int32_t>() : nullptr,
                               outputs[0].data(), on_tbb_by_turns, scratch);
        return true;
    }

protected:
    float m_scale = 0.0f;
    int64_t m_window = 0;
};

class VarlenAttention : public Varlen {
public:
    OPENVINO_OP("VarlenAttention", DOMAIN_NAME);
    VarlenAttention() = default;
    VarlenAttention(const ov::OutputVector& inputs, float scale) : Varlen(inputs, scale, 0) {
        constructor_validate_and_infer_types();
    }
    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        return std::make_shared<VarlenAttention>(inputs, m_scale);
    }
};

class VarlenWindowAttention : public Varlen {
public:
    OPENVINO_OP("VarlenWindowAttention", DOMAIN_NAME);
    VarlenWindowAttention() = default;
    VarlenWindowAttention(const ov::OutputVector& inputs, float scale, int64_t window)
        : Varlen(inputs, scale, window) {
        constructor_validate_and_infer_types();
    }
    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        return std::make_shared<VarlenWindowAttention>(inputs, m_scale, m_window);
    }
};

class PackTokens : public ov::op::Op {
public:
    OPENVINO_OP("PackTokens", DOMAIN_NAME);
    PackTokens() = default;
    explicit PackTokens(const ov::OutputVector& inputs) : ov::op::Op(inputs) {
        constructor_validate_and_infer_types();
    }

    void validate_and_infer_types() override {
        NODE_VALIDATION_CHECK(this, real(get_input_element_type(0)), "tokens must be f32 or bf16");
        NODE_VALIDATION_CHECK(this, mask(get_input_element_type(1)), "visible must be boolean");
        ov::PartialShape tokens = get_input_partial_shape(0);
        if (tokens.rank().is_dynamic()) tokens = ov::PartialShape::dynamic(3);
        set_output_type(0, get_input_element_type(0), ov::PartialShape{1, ov::Dimension::dynamic(), tokens[2]});
        const ov::Dimension ends =
            tokens[0].is_static() ? ov::Dimension(tokens[0].get_length() + 1) : ov::Dimension::dynamic();
        set_output_type(1, ov::element::i32, ov::PartialShape{ends});
    }

    bool visit_attributes(ov::AttributeVisitor&) override { return true; }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        return std::make_shared<PackTokens>(inputs);
    }

    bool has_evaluate() const override { return true; }

    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
        const ov::Shape shape = inputs[0].get_shape();
        const char* visible = static_cast<const char*>(inputs[1].data());
        outputs[1].set_shape({shape[0] + 1});
        int32_t* ends = outputs[1].data<int32_t>();
        ends[0] = 0;
        for (size_t sample = 0; sample < shape[0]; ++sample) {
            const char* mine = visible + sample * shape[1];
            const auto count = std::count_if(mine, mine + shape[1], [](char each) { return each != 0; });
            ends[sample + 1] = ends[sample] + static_cast<int32_t>(count);
        }
        outputs[0].set_shape({1, static_cast<size_t>(ends[shape[0]]), shape[2]});
        const size_t bytes = shape[2] * inputs[0].get_element_type().size();
        edgec_pack_rows(static_cast<int64_t>(shape[0] * shape[1]), static_cast<int64_t>(bytes), visible,
                        static_cast<const char*>(inputs[0].data()), static_cast<char*>(outputs[0].data()));
        return true;
    }
};

class UnpackTokens : public ov::op::Op {
public:
    OPENVINO_OP("UnpackTokens", DOMAIN_NAME);
    UnpackTokens() = default;
    explicit UnpackTokens(const ov::OutputVector& inputs) : ov::op::Op(inputs) {
        constructor_validate_and_infer_types();
    }

    void validate_and_infer_types() override {
        NODE_VALIDATION_CHECK(this, real(get_input_element_type(0)), "packed must be f32 or bf16");
        NODE_VALIDATION_CHECK(this, mask(get_input_element_type(1)), "visible must be boolean");
        ov::PartialShape packed = get_input_partial_shape(0), visible = get_input_partial_shape(1);
        if (packed.rank().is_dynamic()) packed = ov::PartialShape::dynamic(3);
        if (visible.rank().is_dynamic()) visible = ov::PartialShape::dynamic(2);
        set_output_type(0, get_input_element_type(0), ov::PartialShape{visible[0], visible[1], packed[2]});
    }

    bool visit_attributes(ov::AttributeVisitor&) override { return true; }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        return std::make_shared<UnpackTokens>(inputs);
    }

    bool has_evaluate() const override { return true; }

    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
        const ov::Shape places = inputs[1].get_shape(), packed = inputs[0].get_shape();
        outputs[0].set_shape({places[0], places[1], packed[2]});
        const size_t bytes = packed[2] * inputs[0].get_element_type().size();
        const char* visible = static_cast<const char*>(inputs[1].data());
        const auto count =
            std::count_if(visible, visible + inputs[1].get_size(), [](char each) { return each != 0; });
        if (static_cast<size_t>(count) != packed[1]) return false;
        edgec_unpack_rows(static_cast<int64_t>(places[0] * places[1]), static_cast<int64_t>(bytes), visible,
                          static_cast<const char*>(inputs[0].data()), static_cast<char*>(outputs[0].data()));
        return true;
    }
};

using Context = ov::frontend::NodeContext;

ov::Extension::Ptr converter(const std::string& op_type, const ov::frontend::CreatorFunction& create) {
    return std::make_shared<ov::frontend::onnx::ConversionExtension>(op_type, DOMAIN_NAME, create);
}

int64_t integer(const Context& node, const char* name, int64_t otherwise) {
    return node.get_attribute<int64_t>(name, otherwise);
}

ov::OutputVector inputs_of(const Context& node) {
    ov::OutputVector inputs;
    for (size_t index = 0; index < node.get_input_size(); ++index)
        inputs.push_back(node.get_input(static_cast<int>(index)));
    return inputs;
}

}  // namespace

OPENVINO_CREATE_EXTENSIONS(std::vector<ov::Extension::Ptr>({
    std::make_shared<ov::OpExtension<TokenMerge>>(),
    std::make_shared<ov::OpExtension<TokenMergeEnergy>>(),
    std::make_shared<ov::OpExtension<TokenPrune>>(),
    std::make_shared<ov::OpExtension<TokenRestore>>(),
    std::make_shared<ov::OpExtension<SizeBias>>(),
    std::make_shared<ov::OpExtension<VarlenAttention>>(),
    std::make_shared<ov::OpExtension<VarlenWindowAttention>>(),
    std::make_shared<ov::OpExtension<PackTokens>>(),
    std::make_shared<ov::OpExtension<UnpackTokens>>(),
    converter("VarlenAttention",
              [](const Context& node) {
                  const float scale = node.get_attribute<float>("scale", 0.0f);
                  return std::make_shared<VarlenAttention>(inputs_of(node), scale)->outputs();
              }),
    converter("VarlenWindowAttention",
              [](const Context& node) {
                  const float scale = node.get_attribute<float>("scale", 0.0f);
                  return std::make_shared<VarlenWindowAttention>(inputs_of(node), scale, integer(node, "window", 0))
                      ->outputs();
              }),
    converter("PackTokens",
              [](const Context& node) { return std::make_shared<PackTokens>(inputs_of(node))->outputs(); }),
    converter("UnpackTokens",
              [](const Context& node) { return std::make_shared<UnpackTokens>(inputs_of(node))->outputs(); }),
    converter("TokenMerge",
              [](const Context& node) {
                  return std::make_shared<TokenMerge>(inputs_of(node), integer(node, "r", 0),
                                                      integer(node, "protected", 0))
                      ->outputs();
              }),
    converter("TokenMergeEnergy",
              [](const Context& node) {
                  return std::make_shared<TokenMergeEnergy>(inputs_of(node), integer(node, "r", 0),
                                                            integer(node, "protected", 0),
                                                            node.get_attribute<float>("margin", 0.5f))
                      ->outputs();
              }),
    converter("TokenPrune",
              [](const Context& node) {
                  return std::make_shared<TokenPrune>(inputs_of(node), integer(node, "r", 0),
                                                      integer(node, "protected", 0),
                                                      integer(node, "merge", 1))
                      ->outputs();
              }),
    converter("SizeBias",
              [](const Context& node) {
                  return std::make_shared<SizeBias>(inputs_of(node), integer(node, "heads", 1),
                                                    node.get_attribute<float>("floor", 1.0e-20f))
                      ->outputs();
              }),
    converter("TokenRestore",
              [](const Context& node) { return std::make_shared<TokenRestore>(inputs_of(node))->outputs(); }),
}));
