#include "bundle.hpp"

#include <algorithm>
#include <filesystem>
#include <set>

#include "arrays.hpp"
#include "error.hpp"
#include "sha256.hpp"

namespace edgec {

namespace {

namespace fs = std::filesystem;

constexpr char kManifest[] = "manifest.json";
constexpr char kSignature[] = "model.sig";
constexpr double kSchema = 1;
constexpr std::uintmax_t kMostJson = std::uintmax_t{1} << 28;
constexpr char kRecompile[] = "; compile the model again";

std::string read_text(const fs::path &path) {
    std::error_code error;
    if (!fs::is_regular_file(fs::symlink_status(path, error))) throw Error(path.string() + ": is no plain file" + kRecompile);
    if (fs::file_size(path, error) > kMostJson) throw Error(path.string() + ": is larger than any that edgec writes");
    const std::vector<char> bytes = read_file(path.string());
    return {bytes.begin(), bytes.end()};
}

// All files below a folder, relative to it.
std::set<std::string> plain_files(const fs::path &folder) {
    std::set<std::string> found;
    for (const fs::directory_entry &entry : fs::recursive_directory_iterator(folder)) {
        const std::string name = entry.path().lexically_relative(folder).generic_string();
        const fs::file_status status = entry.symlink_status();
        if (!is_inside(name)) throw Error(entry.path().string() + ": has a name that not every system takes; remove it");
        if (fs::is_directory(status)) continue;
        if (!fs::is_regular_file(status)) {
            throw Error(entry.path().string() + ": is no plain file, and a bundle has plain files and folders only; remove it");
        }
        found.insert(name);
    }
    return found;
}

void check_files(const fs::path &folder, const Json &manifest, const std::string &text) {
    const std::string recorded = canonical(text, "sha256");
    if (manifest.at("sha256").text() != sha256({recorded.begin(), recorded.end()})) {
        throw Error((folder / kManifest).string() + ": changed after it was written" + kRecompile);
    }
    std::set<std::string> present = plain_files(folder);
    present.erase(kManifest), present.erase(kSignature);
    for (const auto &[name, digest] : manifest.at("files").object()) {
        const std::string path = (folder / name).string();
        if (present.erase(name) == 0) throw Error(path + ": is missing from the bundle" + kRecompile);
        if (sha256(read_file(path)) != digest.text()) throw Error(path + ": changed after it was written" + kRecompile);
    }
    if (!present.empty()) throw Error((folder / *present.begin()).string() + ": is not part of the bundle; remove it");
}

std::vector<Spec> specs(const Json &fields) {
    std::vector<Spec> found;
    for (const Json &one : fields.list()) {
        Spec spec{one.at("name").text(), one.at("dtype").text(), {}, {}};
        width_of(spec.dtype);
        for (const Json &size : one.at("shape").list()) {
            const bool open = size.kind() == Json::Kind::text;
            if (!open && !(size.number() >= 0 && size.number() < 1e15)) throw Error("a size is no size");
            spec.shape.push_back(open ? -1 : static_cast<std::int64_t>(size.number()));
            spec.open.push_back(open ? size.text() : "");
        }
        found.push_back(spec);
    }
    return found;
}

}  // namespace

std::string canonical(const std::string &text, const std::string &without) {
    // The outermost object's members, each without spaces but with those that json.dumps puts.
    std::vector<std::string> members(1);
    int depth = 0;
    for (std::size_t at = 0; at < text.size(); ++at) {
        const char letter = text[at];
        if (letter == '"') {
            const std::size_t begin = at++;
            while (at < text.size() && text[at] != '"') at += text[at] == '\\' ? 2 : 1;
            members.back() += text.substr(begin, at - begin + 1);
        } else if (letter == '{' || letter == '[') {
            if (depth++ > 0) members.back() += letter;
        } else if (letter == '}' || letter == ']') {
            if (--depth > 0) members.back() += letter;
        } else if (letter == ',') {
            if (depth == 1) members.emplace_back();
            else members.back() += ", ";
        } else if (letter == ':') {
            members.back() += ": ";
        } else if (letter != ' ' && letter != '\n' && letter != '\r' && letter != '\t') {
            members.back() += letter;
        }
    }
    const std::string key = quoted(without) + ": ";
    std::string kept;
    for (const std::string &member : members) {
        if (member.compare(0, key.size(), key) != 0) kept += (kept.empty() ? "" : ", ") + member;
    }
    return "{" + kept + "}";
}

Bundle Bundle::open(const std::string &path) {
    const fs::path folder(path);
    std::error_code error;
    if (!fs::is_directory(folder, error)) throw Error(path + ": no such bundle; name the folder that compile wrote", 2);
    if (!fs::exists(folder / kManifest, error)) throw Error(path + ": this is not a bundle: it has no manifest.json", 2);
    Bundle bundle{path, {}, {}, {}};
    const std::string text = read_text(folder / kManifest);
    try {
        bundle.manifest = Json::parse(text);
        const double schema = bundle.manifest.at("schema").number();
        if (schema > kSchema) throw Error("the bundle's schema is newer than this runtime; update edgec", 2);
        check_files(folder, bundle.manifest, text);
        const Json io = Json::parse(read_text(folder / "io.json"));
        bundle.inputs = specs(io.at("inputs"));
        bundle.outputs = specs(io.at("outputs"));
    } catch (const fs::filesystem_error &problem) {
        throw Error(path + ": cannot be read (" + problem.code().message() + ")");
    } catch (const Error &problem) {
        const std::string what = problem.what();
        throw Error(what.compare(0, path.size(), path) == 0 ? what : path + ": " + what, problem.status());
    }
    return bundle;
}

}  // namespace edgec
