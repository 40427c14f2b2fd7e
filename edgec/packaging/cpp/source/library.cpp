#include "library.hpp"

#include <dlfcn.h>

#include "error.hpp"

namespace edgec {

Library::Library(const std::string &path, const std::vector<std::string> &names, const std::string &missing) {
    const std::vector<std::string> tried = path.empty() ? names : std::vector<std::string>{path};
    for (const std::string &name : tried) {
        handle_ = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
        path_ = name;
        if (handle_ != nullptr) return;
    }
    const char *why = dlerror();
    throw Error(missing + " (" + (why == nullptr ? "not found" : why) + ")", path.empty() ? 1 : 2);
}

void *Library::symbol(const char *name) const {
    void *found = dlsym(handle_, name);
    if (found == nullptr) throw Error(path_ + ": has no function " + name + "; name the engine's library", 2);
    return found;
}

}  // namespace edgec
