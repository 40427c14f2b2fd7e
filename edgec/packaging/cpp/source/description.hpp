// engine/engine.json: what is needed to open the engine's folder.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace edgec {

struct Description {
    std::string folder, kind, model, precision, rest;
    int threads = 0;
    std::vector<std::string> extensions, inputs, outputs;
    std::map<std::string, std::string> settings;
    std::string made_with;  // the engine's version that verified the bundle; empty where it is not recorded

    // Throws Error where it is malformed or names what does not lie in its folder.
    static Description read(const std::string &folder);
};

// Whether a name from outside is a relative path, written with slashes, that leads down only.
bool is_inside(const std::string &name);

}  // namespace edgec
