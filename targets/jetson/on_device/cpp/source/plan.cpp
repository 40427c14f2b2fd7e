#include "plan.hpp"

#include <algorithm>

#include "arrays.hpp"
#include "error.hpp"
#include "json.hpp"

namespace edgec {

namespace {

constexpr int kSchema = 1;

std::vector<std::int64_t> sizes(const Json &list) {
    std::vector<std::int64_t> result;
    for (const Json &size : list.list()) result.push_back(size.whole());
    return result;
}

// What a plan and each of its variants say for themselves; an engine's record speaks of the plan's model always.
void read_build(Plan &plan, const Json &fields) {
    plan.model = plan.bundle + "/engine/" + fields.at("model").text();
    for (const Json &flag : fields.at("flags").list()) plan.flags.push_back(flag.text());
    for (const auto &[node, kind] : fields.at("layer_precisions").object()) plan.layer_precisions[node] = kind.text();
}

const Json &variant_named(const Json &fields, const std::string &name, const std::string &bundle) {
    const auto variants = fields.object().find("variants");
    if (variants != fields.object().end()) {
        for (const Json &variant : variants->second.list()) {
            if (variant.at("name").text() == name) return variant;
        }
    }
    throw Error(bundle + ": the plan has no variant '" + name + "'", 2);
}

}  // namespace

Plan Plan::read(const std::string &bundle, const std::string &variant) {
    const std::vector<char> text = read_file(bundle + "/engine/plan.json");
    const Json fields = Json::parse(std::string(text.begin(), text.end()));
    if (fields.at("schema").whole() > kSchema) {
        throw Error(bundle + ": the plan is of a newer schema; build edgec-engine from the bundle's own device/cpp", 2);
    }
    Plan plan;
    plan.bundle = bundle;
    read_build(plan, variant.empty() ? fields : variant_named(fields, variant, bundle));
    plan.model_sha256 = fields.at("model_sha256").text();
    plan.tensorrt = fields.at("tensorrt").text();
    plan.compute_capability = fields.at("compute_capability").text();
    plan.strongly_typed = fields.at("strongly_typed").boolean();
    const std::int64_t workspace = fields.at("workspace_bytes").whole();
    if (workspace < 0) throw Error(bundle + ": the plan's workspace has a negative size", 2);
    plan.workspace_bytes = static_cast<std::uint64_t>(workspace);
    const auto level = fields.object().find("optimization_level");
    if (level != fields.object().end()) {
        const std::int64_t asked = level->second.whole();
        if (asked < 0 || asked > 5) throw Error(bundle + ": the plan's optimization_level is not from 0 to 5", 2);
        plan.optimization_level = static_cast<int>(asked);
    }
    for (const Json &entry : fields.at("profiles").list()) {
        Profile profile;
        for (const auto &[name, range] : entry.at("inputs").object()) {
            profile[name] = {sizes(range.at("min")), sizes(range.at("opt")), sizes(range.at("max"))};
        }
        plan.profiles.push_back(profile);
    }
    for (const Json &plugin : fields.at("plugins").list()) {
        const std::string &library = plugin.at("library").text();
        if (std::find(plan.libraries.begin(), plan.libraries.end(), library) == plan.libraries.end()) {
            plan.libraries.push_back(library);
        }
    }
    return plan;
}

}  // namespace edgec
