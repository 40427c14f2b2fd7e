// engine/plan.json, as far as building and running need it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace edgec {

struct Range {
    std::vector<std::int64_t> min, opt, max;
};

using Profile = std::map<std::string, Range>;

struct Plan {
    std::string bundle, model, model_sha256, tensorrt, compute_capability;
    bool strongly_typed = false;
    std::vector<std::string> flags;
    std::map<std::string, std::string> layer_precisions;  // ONNX node to fp32, fp16 or bf16
    std::vector<Profile> profiles;
    std::uint64_t workspace_bytes = 0;
    int optimization_level = 3;
    std::vector<std::string> libraries;  // of plugins, each once

    // The plan's own engine, or that of one of its variants. Throws Error where the folder is no Jetson bundle or
    // has no such variant.
    static Plan read(const std::string &bundle, const std::string &variant = "");
};

}  // namespace edgec
