// A bundle's folder: its manifest, and every file as it was recorded.
#pragma once

#include <string>
#include <vector>

#include "engine.hpp"
#include "json.hpp"

namespace edgec {

struct Bundle {
    std::string path;
    Json manifest;
    std::vector<Spec> inputs, outputs;

    // Compares every file with its recorded sha256. Throws Error for what is missing, was added, is a link or no
    // plain file, or differs.
    static Bundle open(const std::string &path);
};

// A JSON text without its spaces, as Python's json.dumps writes it, less one member of the outermost object.
std::string canonical(const std::string &text, const std::string &without);

}  // namespace edgec
