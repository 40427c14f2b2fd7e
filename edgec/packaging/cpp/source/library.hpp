// A shared library that is looked for when it is needed, so that what is checked before is checked first.
#pragma once

#include <string>
#include <vector>

namespace edgec {

class Library {
public:
    // Opens the file `path`, or, where that is empty, the first of `names` that the system finds. Throws Error with
    // `missing` where there is none.
    Library(const std::string &path, const std::vector<std::string> &names, const std::string &missing);

    // Throws Error where the library has no such function.
    template <typename Function>
    void find(Function *&function, const char *name) const {
        function = reinterpret_cast<Function *>(symbol(name));
    }

private:
    void *symbol(const char *name) const;
    // Never closed: an engine's library leaves threads behind that run its code until the process ends.
    void *handle_ = nullptr;
    std::string path_;
};

}  // namespace edgec
