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
            if (field.type != slot.spec.type || field.length != 1 || field.data == nullptr)
                throw std::invalid_argument(std::string("the attribute ") + slot.spec.name + " is not one " +
                                            (slot.spec.type == PluginFieldType::kINT32 ? "int" : "float"));
            void* const to = slot.spec.type == PluginFieldType::kINT32 ? static_cast<void*>(&slot.whole) : &slot.real;
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
        void* const to = slot.spec.type == PluginFieldType::kINT32 ? static_cast<void*>(&slot.whole) : &slot.real;
        std::memcpy(to, from, WIDTH);
        from += WIDTH;
    }
}

const Attributes::Slot& Attributes::slot(const char* name, PluginFieldType type) const {
    for (const Slot& each : slots_)
        if (std::strcmp(each.spec.name, name) == 0 && each.spec.type == type) return each;
    throw std::logic_error(std::string("no attribute ") + name);
}

int32_t Attributes::integer(const char* name) const { return slot(name, PluginFieldType::kINT32).whole; }

float Attributes::number(const char* name) const { return slot(name, PluginFieldType::kFLOAT32).real; }

std::vector<PluginField> Attributes::fields() const {
    std::vector<PluginField> made;
    for (const Slot& each : slots_) {
        const bool whole = each.spec.type == PluginFieldType::kINT32;
        const void* const data = whole ? static_cast<const void*>(&each.whole) : &each.real;
        made.emplace_back(each.spec.name, data, each.spec.type, 1);
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
        if (each.spec.type == PluginFieldType::kINT32)
            made << each.whole;
        else
            made << each.real;
    }
    return made.str();
}

}  // namespace edgec
