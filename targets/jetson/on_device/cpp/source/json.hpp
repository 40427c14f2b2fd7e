// Just enough JSON to read a plan and an engine's record.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace edgec {

class Json {
public:
    enum class Kind { null, boolean, number, text, list, object };

    // Throws Error where the text is not JSON.
    static Json parse(const std::string &text);

    Kind kind() const noexcept { return kind_; }
    // Each throws Error where the value is of another kind or the key is missing.
    bool boolean() const;
    double number() const;
    std::int64_t whole() const;  // not where a double cannot hold every such number
    const std::string &text() const;
    const std::vector<Json> &list() const;
    const std::map<std::string, Json> &object() const;
    const Json &at(const std::string &key) const;

private:
    friend class JsonReader;
    Kind kind_ = Kind::null;
    bool boolean_ = false;
    double number_ = 0;
    std::string text_;
    std::vector<Json> list_;
    std::map<std::string, Json> object_;
};

// A string as a JSON literal.
std::string quoted(const std::string &text);

}  // namespace edgec
