// What an op is declared as, for the bindings of every engine: ports, attributes, and what sizes go together.
#pragma once

#include "arguments.h"

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace edgec {

enum class Type { FLOAT32, FLOAT16, BFLOAT16, INT32, BOOL };  // in the order of EDGEC_FLOAT32 …

// What a port takes. LIKE_FIRST is one of the kernel's types, the same at every such port of a node.
enum class Kind { LIKE_FIRST, FLOAT32, INT32, BOOL };

struct Term {
    int64_t factor;
    const char* name;  // of a size or an attribute; "" where the term is a number
};
using Sum = std::vector<Term>;

struct Port {
    const char* name;
    Kind kind;
    std::vector<Sum> sizes;
};

struct AttributeSpec {
    const char* name;
    bool real;
    double fallback;
};

struct Rule {
    const char* text;
    Sum room;  // may not be negative
};

struct Schema {
    const char* name;
    std::vector<Type> types;  // that LIKE_FIRST may be
    std::vector<AttributeSpec> attributes;
    std::vector<Port> inputs, outputs;
    std::vector<Rule> rules;

    bool takes(Kind kind, Type type) const {
        switch (kind) {
            case Kind::FLOAT32: return type == Type::FLOAT32;
            case Kind::INT32: return type == Type::INT32;
            case Kind::BOOL: return type == Type::BOOL;
            case Kind::LIKE_FIRST: break;
        }
        for (const Type each : types)
            if (each == type) return true;
        return false;
    }
};

// The sizes and integer attributes of one node, by name. A size of -1 is open.
class Known {
public:
    void number(const char* name, int64_t value) { found_.push_back({name, value, name}); }

    // Takes the sizes of an input. Throws std::invalid_argument where its rank is another than is declared, or a
    // size is not what another input says.
    void input(const Port& port, const int64_t* sizes, int64_t rank) {
        if (rank != static_cast<int64_t>(port.sizes.size()))
            throw std::invalid_argument(std::string(port.name) + " has rank " + std::to_string(rank) + ", not " +
                                        std::to_string(port.sizes.size()));
        for (std::size_t axis = 0; axis < port.sizes.size(); ++axis) take(port, port.sizes[axis].front(), sizes[axis]);
    }

    // The value of a sum; -1 where a part of it is open or unknown.
    int64_t value(const Sum& sum) const {
        int64_t total = 0;
        for (const Term& term : sum) {
            const Entry* const entry = *term.name == '\0' ? nullptr : find(term.name);
            if (*term.name != '\0' && (entry == nullptr || entry->value < 0)) return -1;
            total += term.factor * (entry == nullptr ? 1 : entry->value);
        }
        return total;
    }

    // Throws std::invalid_argument where a rule is broken; rules about sizes that are open are not looked at.
    void check(const std::vector<Rule>& rules) const {
        for (const Rule& rule : rules) {
            double room = 0;  // whatever an attribute is, it does not overflow
            bool known = true;
            std::string given;
            for (const Term& term : rule.room) {
                const Entry* const entry = *term.name == '\0' ? nullptr : find(term.name);
                // An attribute may be negative, and is then what the rule is about; an open size has no place.
                known = known && (*term.name == '\0' || (entry != nullptr && (entry->value >= 0 || entry->attribute())));
                if (!known) break;
                room += static_cast<double>(term.factor) * (entry == nullptr ? 1.0 : static_cast<double>(entry->value));
                if (entry != nullptr)
                    given += std::string(given.empty() ? "" : ", ") + entry->name + " " + std::to_string(entry->value);
            }
            if (known && room < 0) throw std::invalid_argument(std::string(rule.text) + " does not hold: " + given);
        }
    }

private:
    struct Entry {
        const char* name;
        int64_t value;
        const char* from;  // the port; of an attribute its own name

        bool attribute() const { return from == name; }
    };

    void take(const Port& port, const Term& term, int64_t size) {
        if (size < 0) return;
        if (*term.name == '\0') {
            if (size != term.factor)
                throw std::invalid_argument(std::string("a size of ") + port.name + " is " + std::to_string(size) +
                                            ", not " + std::to_string(term.factor));
            return;
        }
        const Entry* const entry = find(term.name);
        if (entry == nullptr) {
            found_.push_back({term.name, size, port.name});
        } else if (entry->value != size) {
            throw std::invalid_argument(std::string("the ") + term.name + " of " + entry->from + " and of " + port.name +
                                        " differ: " + std::to_string(entry->value) + " and " + std::to_string(size));
        }
    }

    const Entry* find(const char* name) const {
        for (const Entry& each : found_)
            if (std::strcmp(each.name, name) == 0) return &each;
        return nullptr;
    }

    std::vector<Entry> found_;
};

}  // namespace edgec
