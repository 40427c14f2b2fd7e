#include "attributes.hpp"

#include <cstring>
#include <sstream>
#include <stdexcept>

namespace edgec {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

namespace {

constexpr std::size_t WIDTH = sizeof(int32_t);
static_assert(sizeof(float) == WIDTH, "both kinds take as many bytes");

}  // namespace

PluginFieldType field_type(const AttributeSpec& spec) {
    return spec.real ? PluginFieldType::kFLOAT32 : PluginFieldType::kINT32;
}

Attributes::Attributes(const std::vector<AttributeSpec>& specs) {
    for (const AttributeSpec& spec : specs)
        slots_.push_back({spec, static_cast<int32_t>(spec.fallback), static_cast<float>(spec.fallback)});
}

Attributes::Attributes(const std::vector<AttributeSpec>& specs, const nvinfer1::PluginFieldCollection* given)
    : Attributes(specs) {
    for (int32_t place = 0; given != nullptr && place < given->nbFields; ++place) {
        const PluginField& field = given->fields[place];
        for (Slot& slot : slots_) {
            if (field.name == nullptr || std::strcmp(field.name, slot.spec.name) != 0) continue;
            if (field.type != field_type(slot.spec) || field.length != 1 || field.data == nullptr)
                throw std::invalid_argument(std::string("the attribute ") + slot.spec.name + " is not one " +
                                            (slot.spec.real ? "float" : "int"));
            void* const to = slot.spec.real ? static_cast<void*>(&slot.real) : &slot.whole;
            std::memcpy(to, field.data, WIDTH);
        }
    }
}

Attributes::Attributes(const std::vector<AttributeSpec>& specs, const void* data, std::size_t length)
    : Attributes(specs) {
    if (data == nullptr || length != WIDTH * slots_.size())
        throw std::invalid_argument("the engine holds " + std::to_string(length) + " bytes of attributes, not " +
                                    std::to_string(WIDTH * slots_.size()) + ": it is of another version of the plugin");
    const char* from = static_cast<const char*>(data);
    for (Slot& slot : slots_) {
        void* const to = slot.spec.real ? static_cast<void*>(&slot.real) : &slot.whole;
        std::memcpy(to, from, WIDTH);
        from += WIDTH;
    }
}

int32_t Attributes::integer(const char* name) const {
    for (const Slot& each : slots_)
        if (std::strcmp(each.spec.name, name) == 0 && !each.spec.real) return each.whole;
    throw std::logic_error(std::string("no attribute ") + name);
}

std::vector<edgec_attribute> Attributes::given() const {
    std::vector<edgec_attribute> made;
    for (const Slot& each : slots_) made.push_back({each.spec.name, each.whole, each.real});
    return made;
}

std::vector<PluginField> Attributes::fields() const {
    std::vector<PluginField> made;
    for (const Slot& each : slots_) {
        const void* const data = each.spec.real ? static_cast<const void*>(&each.real) : &each.whole;
        made.emplace_back(each.spec.name, data, field_type(each.spec), 1);
    }
    return made;
}

std::string Attributes::bytes() const {
    std::string made;
    for (const PluginField& field : fields()) made.append(static_cast<const char*>(field.data), WIDTH);
    return made;
}

std::string Attributes::text() const {
    std::ostringstream made;
    for (const Slot& each : slots_) {
        made << (&each == slots_.data() ? "" : " ") << each.spec.name << '=';
        if (each.spec.real)
            made << each.real;
        else
            made << each.whole;
    }
    return made.str();
}

}  // namespace edgec
