#include "description.hpp"

#include <algorithm>

#include "arrays.hpp"
#include "error.hpp"
#include "json.hpp"

namespace edgec {

namespace {

constexpr double kMostThreads = 4096;

std::vector<std::string> texts(const Json &fields, const std::string &key) {
    std::vector<std::string> found;
    if (fields.object().count(key) == 0) return found;
    for (const Json &value : fields.at(key).list()) found.push_back(value.text());
    return found;
}

bool is_plain_name(const std::string &name) {
    for (const char letter : name) {
        const auto code = static_cast<unsigned char>(letter);
        if (code < 0x20 || code == 0x7F || letter == '\\' || letter == ':') return false;
    }
    return true;
}

}  // namespace

bool is_inside(const std::string &name) {
    if (!is_plain_name(name)) return false;
    for (std::size_t begin = 0; begin <= name.size();) {
        const std::size_t end = std::min(name.find('/', begin), name.size());
        const std::string part = name.substr(begin, end - begin);
        if (part.empty() || part == "." || part == "..") return false;
        begin = end + 1;
    }
    return true;
}

Description Description::read(const std::string &folder) {
    const std::string path = folder + "/engine.json";
    Description found;
    found.folder = folder;
    try {
        const std::vector<char> bytes = read_file(path);
        const Json fields = Json::parse({bytes.begin(), bytes.end()});
        found.kind = fields.at("kind").text();
        found.model = fields.at("model").text();
        found.precision = fields.at("precision").text();
        if (fields.object().count("rest") != 0) found.rest = fields.at("rest").text();
        const double threads = fields.at("threads").number();
        if (!(threads >= 0 && threads <= kMostThreads)) throw Error("its threads are no number of threads");
        found.threads = static_cast<int>(threads);
        found.extensions = texts(fields, "extensions");
        found.inputs = texts(fields, "inputs");
        found.outputs = texts(fields, "outputs");
        if (fields.object().count("settings") != 0) {
            for (const auto &[key, value] : fields.at("settings").object()) found.settings[key] = value.text();
        }
    } catch (const Error &error) {
        throw Error(path + ": the engine's description cannot be read (" + error.what() + "); compile the model again");
    }
    // OpenVINO reads other formats too, some of which name files of their own.
    const std::string suffix = ".xml";
    const bool is_ir = found.model.size() > suffix.size() &&
                       found.model.compare(found.model.size() - suffix.size(), suffix.size(), suffix) == 0;
    if (found.kind == "openvino" && !is_ir) {
        throw Error(path + ": it names '" + found.model + "', which is no OpenVINO IR; compile the model again");
    }
    std::vector<std::string> names = found.extensions;
    names.push_back(found.model);
    for (const std::string &name : names) {
        if (!is_inside(name)) {
            throw Error(path + ": it names '" + name + "', which is not a file of its own folder; do not run this bundle");
        }
    }
    return found;
}

}  // namespace edgec
