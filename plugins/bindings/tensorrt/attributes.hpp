// The attributes of one node: from TensorRT's fields, back to them, and as bytes.
#pragma once

#include "schema.hpp"

#include <NvInferRuntime.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace edgec {

// What the ONNX parser makes of an attribute: kINT32 or kFLOAT32.
nvinfer1::PluginFieldType field_type(const AttributeSpec& spec);

class Attributes {
public:
    // From a parser's or an engine's fields; what is not among them has its fallback, others are ignored.
    // Throws std::invalid_argument when one has another type or no value.
    Attributes(const std::vector<AttributeSpec>& specs, const nvinfer1::PluginFieldCollection* given);

    // From `bytes()` of the same specs. Throws std::invalid_argument when the length is another.
    Attributes(const std::vector<AttributeSpec>& specs, const void* data, std::size_t length);

    // Throws std::logic_error where the op has no such attribute.
    int32_t integer(const char* name) const;

    // As a kernel takes them.
    std::vector<edgec_attribute> given() const;

    // Fields that point into this object.
    std::vector<nvinfer1::PluginField> fields() const;

    // Four bytes an attribute, in the specs' order.
    std::string bytes() const;

    // "r=8 protected=1"
    std::string text() const;

private:
    struct Slot {
        AttributeSpec spec;
        int32_t whole;
        float real;
    };

    explicit Attributes(const std::vector<AttributeSpec>& specs);
    std::vector<Slot> slots_;
};

}  // namespace edgec
