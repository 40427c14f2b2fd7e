// VarlenAttention over the C entry of varlen_cuda.h.

#include "op.hpp"
#include "varlen_cuda.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace edgec {
namespace {

using nvinfer1::DimsExprs;
using nvinfer1::IExprBuilder;
using nvinfer1::PluginFieldType;

class VarlenAttention final : public Op {
public:
    VarlenAttention()
        : Op("VarlenAttention",
             {{"scale", PluginFieldType::kFLOAT32, 0}, {"max_length", PluginFieldType::kINT32, 0}},
             {{"query", Kind::HALF, 3},
              {"key", Kind::HALF, 3},
              {"value", Kind::HALF, 3},
              {"cu_seqlens", Kind::INT32, 1}},
             {{"output", Kind::HALF, 3}}) {}

    DimsExprs output_shape(int32_t, const DimsExprs* given, const Attributes&, IExprBuilder&) const override {
        return given[0];
    }

    int launch(const Launch& call, const Attributes& values) const override {
        const Shape& query = call.shapes[0];
        const int64_t tokens = query.size[0], heads = query.size[1], depth = query.size[2], row = heads * depth;
        // The lengths are numbers on the device, and to read them would wait for it. The attribute bounds them;
        // without it no sequence is longer than all tokens, and blocks behind a sequence's end return at once.
        const int64_t given = values.integer("max_length");
        const int64_t longest = given > 0 ? std::min(given, tokens) : tokens;
        const edgec_cuda_varlen_shape shape{
            call.shapes[3].size[0] - 1, heads, depth, longest, row, row, row, row, values.number("scale")};
        return edgec_cuda_varlen_attention(&shape, call.inputs[0], call.inputs[1], call.inputs[2],
                                           static_cast<const int32_t*>(call.inputs[3]), call.outputs[0], call.stream);
    }

protected:
    void check_sizes(const Shapes& shapes, const Attributes& values) const override {
        for (std::size_t axis = 0; axis < 3; ++axis) {
            check_equal(shapes[0].size[axis], shapes[1].size[axis], "the sizes of query and key");
            check_equal(shapes[0].size[axis], shapes[2].size[axis], "the sizes of query and value");
        }
        if (shapes[3].size[0] == 0)
            throw std::invalid_argument("cu_seqlens is empty; it has one entry more than sequences");
        if (values.integer("max_length") < 0) throw std::invalid_argument("max_length must not be negative");
    }
};

}  // namespace

const std::vector<const Op*>& library_ops() {
    static const VarlenAttention attention;
    static const std::vector<const Op*> all{&attention};
    return all;
}

}  // namespace edgec
