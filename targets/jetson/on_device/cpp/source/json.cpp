#include "json.hpp"

#include <cctype>
#include <cstdio>
#include <cstdlib>

#include "error.hpp"

namespace edgec {

namespace {
constexpr int kDeepest = 64;
}

class JsonReader {
public:
    explicit JsonReader(const std::string &text) : text_(text) {}

    Json whole() {
        Json value = read(0);
        space();
        if (at_ != text_.size()) fail("more behind its end");
        return value;
    }

private:
    Json read(int depth) {
        if (depth > kDeepest) fail("too deep");
        space();
        Json value;
        switch (peek()) {
            case '{': object(value, depth); break;
            case '[': list(value, depth); break;
            case '"':
                value.kind_ = Json::Kind::text;
                value.text_ = string();
                break;
            case 't': word("true"), value.kind_ = Json::Kind::boolean, value.boolean_ = true; break;
            case 'f': word("false"), value.kind_ = Json::Kind::boolean; break;
            case 'n': word("null"); break;
            default: number(value);
        }
        return value;
    }

    void object(Json &value, int depth) {
        value.kind_ = Json::Kind::object;
        take('{');
        for (space(); peek() != '}'; space()) {
            if (!value.object_.empty()) take(','), space();
            std::string key = string();
            space(), take(':');
            value.object_[key] = read(depth + 1);
        }
        take('}');
    }

    void list(Json &value, int depth) {
        value.kind_ = Json::Kind::list;
        take('[');
        for (space(); peek() != ']'; space()) {
            if (!value.list_.empty()) take(',');
            value.list_.push_back(read(depth + 1));
        }
        take(']');
    }

    void number(Json &value) {
        value.kind_ = Json::Kind::number;
        char *end = nullptr;
        value.number_ = std::strtod(text_.c_str() + at_, &end);
        const auto read_to = static_cast<std::size_t>(end - text_.c_str());
        if (read_to == at_) fail("no value");
        at_ = read_to;
    }

    std::string string() {
        std::string result;
        take('"');
        while (peek() != '"') {
            char character = text_[at_++];
            if (character != '\\') {
                result += character;
                continue;
            }
            switch (character = peek(), ++at_, character) {
                case 'n': result += '\n'; break;
                case 't': result += '\t'; break;
                case 'r': result += '\r'; break;
                case 'b': result += '\b'; break;
                case 'f': result += '\f'; break;
                case 'u': append_utf8(result, code_point()); break;
                default: result += character;
            }
        }
        take('"');
        return result;
    }

    unsigned hex4() {
        if (at_ + 4 > text_.size()) fail("a cut escape");
        const unsigned value = static_cast<unsigned>(std::strtoul(text_.substr(at_, 4).c_str(), nullptr, 16));
        at_ += 4;
        return value;
    }

    unsigned code_point() {
        const unsigned first = hex4();
        if (first < 0xD800 || first > 0xDBFF) return first;
        take('\\'), take('u');
        return 0x10000 + ((first - 0xD800) << 10) + (hex4() - 0xDC00);
    }

    static void append_utf8(std::string &text, unsigned point) {
        const auto byte = [&text](unsigned value) { text += static_cast<char>(value); };
        if (point < 0x80) {
            byte(point);
        } else if (point < 0x800) {
            byte(0xC0 | (point >> 6)), byte(0x80 | (point & 0x3F));
        } else if (point < 0x10000) {
            byte(0xE0 | (point >> 12)), byte(0x80 | ((point >> 6) & 0x3F)), byte(0x80 | (point & 0x3F));
        } else {
            byte(0xF0 | (point >> 18)), byte(0x80 | ((point >> 12) & 0x3F));
            byte(0x80 | ((point >> 6) & 0x3F)), byte(0x80 | (point & 0x3F));
        }
    }

    char peek() const {
        if (at_ >= text_.size()) fail("it ends early");
        return text_[at_];
    }
    void take(char wanted) {
        if (peek() != wanted) fail(std::string("no '") + wanted + "'");
        ++at_;
    }
    void word(const std::string &wanted) {
        if (text_.compare(at_, wanted.size(), wanted) != 0) fail("no " + wanted);
        at_ += wanted.size();
    }
    void space() {
        while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
    }
    [[noreturn]] void fail(const std::string &why) const {
        throw Error("not JSON: " + why + " at character " + std::to_string(at_));
    }

    const std::string &text_;
    std::size_t at_ = 0;
};

Json Json::parse(const std::string &text) { return JsonReader(text).whole(); }

bool Json::boolean() const {
    if (kind_ != Kind::boolean) throw Error("true or false was expected in JSON");
    return boolean_;
}

double Json::number() const {
    if (kind_ != Kind::number) throw Error("a number was expected in JSON");
    return number_;
}

std::int64_t Json::whole() const {
    constexpr double kMost = 9007199254740992.0;  // 2^53
    if (!(number() >= -kMost && number() <= kMost)) throw Error("a whole number was expected in JSON");
    const auto result = static_cast<std::int64_t>(number_);
    if (static_cast<double>(result) != number_) throw Error("a whole number was expected in JSON");
    return result;
}

const std::string &Json::text() const {
    if (kind_ != Kind::text) throw Error("a text was expected in JSON");
    return text_;
}

const std::vector<Json> &Json::list() const {
    if (kind_ != Kind::list) throw Error("a list was expected in JSON");
    return list_;
}

const std::map<std::string, Json> &Json::object() const {
    if (kind_ != Kind::object) throw Error("an object was expected in JSON");
    return object_;
}

const Json &Json::at(const std::string &key) const {
    const auto found = object().find(key);
    if (found == object_.end()) throw Error("the key '" + key + "' is missing in JSON");
    return found->second;
}

std::string quoted(const std::string &text) {
    std::string result = "\"";
    for (const char character : text) {
        if (character == '"' || character == '\\') result += '\\';
        if (static_cast<unsigned char>(character) < 0x20) {
            char escape[8];
            std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(character));
            result += escape;
        } else {
            result += character;
        }
    }
    return result + '"';
}

}  // namespace edgec
