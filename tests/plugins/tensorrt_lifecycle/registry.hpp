// The registry and the logger that a plugin library finds, as libnvinfer gives them.
#pragma once

#include <NvInferRuntime.h>

#include <map>
#include <string>

namespace harness {

using namespace nvinfer1;

#if NV_TENSORRT_MAJOR >= 10
using AnyCreator = IPluginCreatorInterface;
#else
using AnyCreator = IPluginCreator;
#endif

class Log final : public ILogger {
public:
    void log(Severity, AsciiChar const *text) noexcept override { text_ += std::string(text) + "\n"; }
    std::string take() {
        const std::string taken = text_;
        text_.clear();
        return taken;
    }

private:
    std::string text_;
};

// Creators by "namespace::name version". NVIDIA's registry has more functions, not all in every version: those
// below without `override` are some version's.
class Registry final : public IPluginRegistry {
public:
    bool registerCreator(AnyCreator &creator, AsciiChar const *const space) noexcept override {
        return creators_.emplace(key(name_of(creator), version_of(creator), space), &creator).second;
    }
    AnyCreator *find(const char *name, const char *version, const char *space) const {
        const auto found = creators_.find(key(name, version, space));
        return found == creators_.end() ? nullptr : found->second;
    }
    std::string list() const {
        std::string all;
        for (const auto &[called, creator] : creators_) all += called + "\n";
        return all;
    }

    AnyCreator *const *getAllCreators(int32_t *const count) const noexcept { return *count = 0, nullptr; }
    AnyCreator *const *getAllCreatorsRecursive(int32_t *const count) noexcept { return *count = 0, nullptr; }
    AnyCreator *getCreator(AsciiChar const *const name, AsciiChar const *const version,
                           AsciiChar const *const space) noexcept {
        return find(name, version, space);
    }
    void setErrorRecorder(IErrorRecorder *const) noexcept {}
    IErrorRecorder *getErrorRecorder() const noexcept { return nullptr; }
    bool deregisterCreator(AnyCreator const &) noexcept { return false; }
    bool isParentSearchEnabled() const { return false; }
    void setParentSearchEnabled(bool const) {}
    void *loadLibrary(AsciiChar const *) noexcept { return nullptr; }
    void deregisterLibrary(void *) noexcept {}
#if NV_TENSORRT_MAJOR < 11
    IPluginCreator *const *getPluginCreatorList(int32_t *const count) const noexcept { return *count = 0, nullptr; }
    IPluginCreator *getPluginCreator(AsciiChar const *const, AsciiChar const *const, AsciiChar const *const) noexcept {
        return nullptr;
    }
#endif
#if NV_TENSORRT_MAJOR == 10
    bool registerCreator(IPluginCreator &, AsciiChar const *const) noexcept { return false; }
    bool deregisterCreator(IPluginCreator const &) noexcept { return false; }
#endif
#if NV_TENSORRT_MAJOR >= 10
    IPluginResource *acquirePluginResource(AsciiChar const *, IPluginResource *) noexcept { return nullptr; }
    int32_t releasePluginResource(AsciiChar const *) noexcept { return 1; }
#endif

private:
    static std::string key(const std::string &name, const std::string &version, const std::string &space) {
        return space + "::" + name + " " + version;
    }
#if NV_TENSORRT_MAJOR >= 10
    static std::string name_of(AnyCreator &creator) {
        return static_cast<IPluginCreatorV3One &>(creator).getPluginName();
    }
    static std::string version_of(AnyCreator &creator) {
        return static_cast<IPluginCreatorV3One &>(creator).getPluginVersion();
    }
#else
    static std::string name_of(AnyCreator &creator) { return creator.getPluginName(); }
    static std::string version_of(AnyCreator &creator) { return creator.getPluginVersion(); }
#endif

    std::map<std::string, AnyCreator *> creators_;
};

}  // namespace harness
