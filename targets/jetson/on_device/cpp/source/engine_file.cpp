#include "engine_file.hpp"

#include <dlfcn.h>

#include <cstdio>
#include <fstream>

#include "arrays.hpp"
#include "json.hpp"
#include "sha256.hpp"
#include "tensorrt.hpp"

namespace edgec {

namespace {

// 10.3.0.30 is taken for 10.3.0: the library tells three numbers only.
std::string three_numbers(const std::string &version) {
    std::size_t end = 0;
    for (int dots = 0; end < version.size(); ++end) {
        if (version[end] == '.' && ++dots == 3) break;
    }
    return version.substr(0, end);
}

}  // namespace

void write_engine(const std::string &path, const void *data, std::size_t size, const Plan &plan, const Gpu &gpu) {
    const std::string record = path + ".json";
    std::remove(record.c_str());
    write_file(path, data, size);
    const auto *bytes = static_cast<const char *>(data);
    const std::string text = "{\n \"schema\": 1,\n \"tensorrt_module\": \"tensorrt\",\n \"tensorrt\": " +
                             quoted(tensorrt_version()) + ",\n \"gpu\": " + quoted(gpu.name) +
                             ",\n \"compute_capability\": " + quoted(gpu.compute_capability) +
                             ",\n \"engine_sha256\": " + quoted(sha256({bytes, bytes + size})) +
                             ",\n \"model_sha256\": " + quoted(plan.model_sha256) + "\n}\n";
    write_file(record, text.data(), text.size());
}

std::vector<char> read_engine(const std::string &path, const Plan &plan, const Gpu &gpu) {
    const auto refuse = [&](const std::string &what) {
        throw Error(what + ", so it is not loaded; build it again: edgec-engine build " + plan.bundle + " " + path);
    };
    if (!std::ifstream(path + ".json")) refuse(path + " is not built yet");
    const std::vector<char> text = read_file(path + ".json");
    const Json record = Json::parse(std::string(text.begin(), text.end()));
    const auto compare = [&](const char *key, const std::string &noun, const std::string &here) {
        const std::string &built = record.at(key).text();
        if (built != here) refuse("the engine was built " + noun + " " + built + ", this machine has " + here);
    };
    const std::string built = record.at("tensorrt").text();
    if (three_numbers(built) != tensorrt_version()) {
        refuse("the engine was built with TensorRT " + built + ", this machine has " + tensorrt_version());
    }
    compare("gpu", "on", gpu.name);
    compare("compute_capability", "for compute capability", gpu.compute_capability);
    if (record.at("model_sha256").text() != plan.model_sha256) refuse("the engine was built from another model");
    std::vector<char> engine = read_file(path);
    if (sha256(engine) != record.at("engine_sha256").text()) refuse(path + " changed after it was built");
    return engine;
}

void load_plugins(const std::vector<std::string> &libraries, const std::string &state, const std::string &bundle) {
    for (const std::string &name : libraries) {
        std::string path = state + "/plugins/" + name;
        if (!std::ifstream(path)) path = bundle + "/plugins/" + name;
        // Never closed: TensorRT keeps pointers into it for as long as the process lives.
        if (dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) {
            const char *why = dlerror();
            throw Error(path + ": does not load (" + (why == nullptr ? "" : why) + ")");
        }
    }
}

}  // namespace edgec
