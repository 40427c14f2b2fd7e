// The creator of an op's plugins, in the newest interface that the TensorRT of these headers has.
#pragma once

#include "node.hpp"

#include <memory>

namespace edgec {

#if NV_TENSORRT_MAJOR >= 10
using Creator = nvinfer1::IPluginCreatorV3One;
#else
using Creator = nvinfer1::IPluginCreator;
#endif

std::unique_ptr<Creator> make_creator(const Op& op);

// What a creator tells the ONNX parser: the names of the attributes to hand over.
class FieldNames {
public:
    explicit FieldNames(const Op& op) {
        for (const AttributeSpec& spec : op.attributes()) fields_.emplace_back(spec.name, nullptr, field_type(spec), 1);
        collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
    }
    FieldNames(const FieldNames&) = delete;
    FieldNames& operator=(const FieldNames&) = delete;

    const nvinfer1::PluginFieldCollection* collection() const { return &collection_; }

private:
    std::vector<nvinfer1::PluginField> fields_;
    nvinfer1::PluginFieldCollection collection_{};
};

inline std::string text_of(const char* given) { return given == nullptr ? "" : given; }

}  // namespace edgec
