// The attributes of one node: from TensorRT's fields, back to them, and as bytes.
#pragma once

#include <NvInferRuntime.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace edgec {

// An attribute that an op declares; `type` is kINT32 or kFLOAT32, which is what the ONNX parser makes of them.
struct AttributeSpec {
    const char* name;
    nvinfer1::PluginFieldType type;
    double fallback;
};

class Attributes {
public:
    // From a parser's or an engine's fields; what is not among them has its fallback, others are ignored.
    // Throws std::invalid_argument when one has another type or no value.
    Attributes(const std::vector<AttributeSpec>& specs, const nvinfer1::PluginFieldCollection* given);

    // From `bytes()` of the same specs. Throws std::invalid_argument when the length is another.
    Attributes(const std::vector<AttributeSpec>& specs, const void* data, std::size_t length);

    int32_t integer(const char* name) const;
    float number(const char* name) const;

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
    const Slot& slot(const char* name, nvinfer1::PluginFieldType type) const;

    std::vector<Slot> slots_;
};

}  // namespace edgec
