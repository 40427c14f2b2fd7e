// TokenMerge, TokenMergeEnergy, TokenPrune and TokenRestore over the C entries of token_cuda.h.

#include "op.hpp"
#include "token_cuda.h"

#include <stdexcept>
#include <string>
#include <utility>

namespace edgec {
namespace {

using nvinfer1::DimensionOperation;
using nvinfer1::DimsExprs;
using nvinfer1::IExprBuilder;
using nvinfer1::PluginFieldType;

// Constants of this file are needed before it is initialised: the ops are registered when the library is loaded.
constexpr Port TOKENS{"tokens", Kind::LIKE_FIRST, 3}, METRIC{"metric", Kind::LIKE_FIRST, 4};
constexpr Port SIZES{"sizes", Kind::FULL, 3}, SCORE{"score", Kind::FULL, 2};  // fp16 counts to 2048 only
constexpr Port MERGED{"merged", Kind::LIKE_FIRST, 3}, MERGED_SIZES{"merged_sizes", Kind::FULL, 3};
constexpr Port ASSIGNMENT{"assignment", Kind::INT32, 2}, RESTORED{"restored", Kind::LIKE_FIRST, 3};
constexpr AttributeSpec R{"r", PluginFieldType::kINT32, 0}, PROTECTED{"protected", PluginFieldType::kINT32, 0};

// An op with the outputs (merged, merged_sizes, assignment); `metric` and `sizes` are its last two inputs.
class Reduction : public Op {
public:
    DimsExprs output_shape(int32_t index, const DimsExprs* given, const Attributes& values,
                           IExprBuilder& builder) const override {
        const DimsExprs& tokens = given[0];
        if (tokens.nbDims != TOKENS.rank) throw std::invalid_argument("tokens must be (batch, tokens, channels)");
        DimsExprs made{};
        made.nbDims = outputs.at(static_cast<std::size_t>(index)).rank;
        made.d[0] = tokens.d[0];
        made.d[1] = tokens.d[1];
        if (index == 2) return made;
        made.d[1] = builder.operation(DimensionOperation::kSUB, *tokens.d[1], *builder.constant(values.integer("r")));
        made.d[2] = index == 0 ? tokens.d[2] : builder.constant(1);
        return made;
    }

    std::size_t workspace(const Shapes& shapes, const Attributes& values) const override {
        const edgec_cuda_token_shape shape = shape_of(shapes, values);
        return static_cast<std::size_t>(edgec_cuda_token_workspace(&shape));
    }

protected:
    // most: what the free tokens are divided by for the largest r; 0 where all but one may leave.
    Reduction(const char* called, std::vector<AttributeSpec> more, std::vector<Port> in, int64_t most)
        : Op(called, with_common(std::move(more)), std::move(in), {MERGED, MERGED_SIZES, ASSIGNMENT}), most_(most) {}

    void check_sizes(const Shapes& shapes, const Attributes& values) const override {
        const Shape &tokens = shapes[0], &metric = shapes[inputs.size() - 2], &sizes = shapes[inputs.size() - 1];
        check_equal(tokens.size[0], metric.size[0], "the batches of tokens and metric");
        check_equal(tokens.size[1], metric.size[2], "the lengths of tokens and metric");
        check_equal(tokens.size[0], sizes.size[0], "the batches of tokens and sizes");
        check_equal(tokens.size[1], sizes.size[1], "the lengths of tokens and sizes");
        check_equal(sizes.size[2], 1, "the last size of sizes and 1");
        const int64_t r = values.integer("r"), guarded = values.integer("protected"), length = tokens.size[1];
        if (r < 0 || guarded < 0) throw std::invalid_argument("r and protected must not be negative");
        if (length < 0) return;
        const int64_t free_count = length - guarded;
        const int64_t limit = most_ == 0 ? free_count - 1 : free_count / most_;
        if (free_count < 2 || r > limit)
            throw std::invalid_argument("r=" + std::to_string(r) + " of " + std::to_string(length) + " tokens with " +
                                        std::to_string(guarded) + " protected; at most " +
                                        std::to_string(free_count < 2 ? 0 : limit) + " can go");
    }

    edgec_cuda_token_shape shape_of(const Shapes& shapes, const Attributes& values) const {
        const Shape &tokens = shapes[0], &metric = shapes[inputs.size() - 2];
        return {tokens.size[0], tokens.size[1],      tokens.size[2],             metric.size[1],
                metric.size[3], values.integer("r"), values.integer("protected")};
    }

    static float* full(void* data) { return static_cast<float*>(data); }
    static const float* full(const void* data) { return static_cast<const float*>(data); }
    static int32_t* places(void* data) { return static_cast<int32_t*>(data); }

private:
    static std::vector<AttributeSpec> with_common(std::vector<AttributeSpec> more) {
        more.insert(more.begin(), {R, PROTECTED});
        return more;
    }

    int64_t most_;
};

class TokenMerge final : public Reduction {
public:
    TokenMerge() : Reduction("TokenMerge", {}, {TOKENS, METRIC, SIZES}, 2) {}

    int launch(const Launch& call, const Attributes& values) const override {
        const edgec_cuda_token_shape shape = shape_of(call.shapes, values);
        return edgec_cuda_token_merge(&shape, call.half ? 1 : 0, call.inputs[0], call.inputs[1], full(call.inputs[2]),
                                      call.outputs[0], full(call.outputs[1]), places(call.outputs[2]), call.workspace,
                                      call.stream);
    }
};

class TokenMergeEnergy final : public Reduction {
public:
    TokenMergeEnergy()
        : Reduction("TokenMergeEnergy", {{"margin", PluginFieldType::kFLOAT32, 0.5}}, {TOKENS, METRIC, SIZES}, 2) {}

    int launch(const Launch& call, const Attributes& values) const override {
        const edgec_cuda_token_shape shape = shape_of(call.shapes, values);
        return edgec_cuda_token_merge_energy(&shape, call.half ? 1 : 0, values.number("margin"), call.inputs[0],
                                             call.inputs[1], full(call.inputs[2]), call.outputs[0],
                                             full(call.outputs[1]), places(call.outputs[2]), call.workspace,
                                             call.stream);
    }
};

class TokenPrune final : public Reduction {
public:
    TokenPrune()
        : Reduction("TokenPrune", {{"merge", PluginFieldType::kINT32, 1}}, {TOKENS, SCORE, METRIC, SIZES}, 0) {}

    int launch(const Launch& call, const Attributes& values) const override {
        const edgec_cuda_token_shape shape = shape_of(call.shapes, values);
        return edgec_cuda_token_prune(&shape, call.half ? 1 : 0, values.integer("merge"), call.inputs[0],
                                      full(call.inputs[1]), call.inputs[2], full(call.inputs[3]), call.outputs[0],
                                      full(call.outputs[1]), places(call.outputs[2]), call.workspace, call.stream);
    }

protected:
    void check_sizes(const Shapes& shapes, const Attributes& values) const override {
        check_equal(shapes[0].size[0], shapes[1].size[0], "the batches of tokens and score");
        check_equal(shapes[0].size[1], shapes[1].size[1], "the lengths of tokens and score");
        Reduction::check_sizes(shapes, values);
    }
};

class TokenRestore final : public Op {
public:
    TokenRestore() : Op("TokenRestore", {}, {TOKENS, ASSIGNMENT}, {RESTORED}) {}

    DimsExprs output_shape(int32_t, const DimsExprs* given, const Attributes&, IExprBuilder&) const override {
        if (given[0].nbDims != 3 || given[1].nbDims != 2)
            throw std::invalid_argument("tokens must be (batch, tokens, channels) and assignment (batch, length)");
        DimsExprs made{};
        made.nbDims = 3;
        made.d[0] = given[0].d[0];
        made.d[1] = given[1].d[1];
        made.d[2] = given[0].d[2];
        return made;
    }

    int launch(const Launch& call, const Attributes&) const override {
        const Shape &tokens = call.shapes[0], &places = call.shapes[1];
        return edgec_cuda_token_restore(tokens.size[0], tokens.size[1], places.size[1], tokens.size[2],
                                        call.half ? 1 : 0, call.inputs[0], static_cast<const int32_t*>(call.inputs[1]),
                                        call.outputs[0], call.stream);
    }

protected:
    void check_sizes(const Shapes& shapes, const Attributes&) const override {
        check_equal(shapes[0].size[0], shapes[1].size[0], "the batches of tokens and assignment");
    }
};

}  // namespace

const std::vector<const Op*>& library_ops() {
    static const TokenMerge merge;
    static const TokenMergeEnergy energy;
    static const TokenPrune prune;
    static const TokenRestore restore;
    static const std::vector<const Op*> all{&merge, &energy, &prune, &restore};
    return all;
}

}  // namespace edgec
