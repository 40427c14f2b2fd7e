#include <array>
#include <utility>

#include "arrays.hpp"
#include "engine.hpp"
#include "error.hpp"
#include "library.hpp"
#include "machine.hpp"
#include "onnxruntime_abi.hpp"

namespace edgec {

namespace {

using Table = const void *const *;

// By ONNXTensorElementDataType (onnx.proto's TensorProto.DataType): numpy's names.
constexpr std::array<const char *, 14> kDtypes = {"",      "float32", "uint8", "int8",    "uint16",  "int16",  "int32",
                                                  "int64", "",        "bool",  "float16", "float64", "uint32", "uint64"};

int type_of(const std::string &dtype) {
    for (std::size_t at = 1; at < kDtypes.size(); ++at) {
        if (dtype == kDtypes[at]) return static_cast<int>(at);
    }
    throw Error("ONNX Runtime has no elements of the type " + dtype);
}

void check(Table table, ort::Status *status) {
    if (status == nullptr) return;
    const std::string what = ort::message(table, status);
    ort::release_status(table, status);
    throw Error("ONNX Runtime says: " + what);
}

struct OrtOutputs final : Outputs {
    OrtOutputs(Table used, std::size_t count) : table(used), values(count, nullptr) {}
    ~OrtOutputs() override {
        for (ort::Value *value : values) {
            if (value != nullptr) ort::release_value(table, value);
        }
    }
    OrtOutputs(const OrtOutputs &) = delete;
    OrtOutputs &operator=(const OrtOutputs &) = delete;

    Table table;
    std::vector<ort::Value *> values;
};

class OnnxRuntime final : public Engine {
public:
    OnnxRuntime(const Description &engine, const Library &library, const std::vector<Spec> &inputs,
                const std::vector<Spec> &outputs) {
        const ort::Base *(*base)() = nullptr;
        library.find(base, "OrtGetApiBase");
        check_version("onnxruntime", base()->version(), engine);
        table_ = base()->get_api(ort::kApiVersion);
        if (table_ == nullptr) throw Error("this ONNX Runtime has no C interface of version 3; install a newer one");
        for (const Spec &spec : inputs) input_names_.push_back(spec.name);
        for (const Spec &spec : outputs) output_names_.push_back(spec.name);
        check(table_, ort::create_env(table_, ort::kErrorsOnly, "edgec", &env_));
        check(table_, ort::create_cpu_memory(table_, ort::kArenaAllocator, ort::kDefaultMemory, &memory_));
        ort::SessionOptions *options = nullptr;
        check(table_, ort::create_options(table_, &options));
        try {
            check(table_, ort::set_threads(table_, options, worker_threads(engine.threads)));
            check(table_, ort::set_threads_between(table_, options, 1));
            check(table_, ort::set_execution_mode(table_, options, ort::kSequential));
            check(table_, ort::set_optimisation(table_, options, ort::kAllOptimisations));
            check(table_, ort::set_severity(table_, options, ort::kErrorsOnly));
            for (const auto &[key, value] : engine.settings) {
                check(table_, ort::add_setting(table_, options, key.c_str(), value.c_str()));
            }
            const std::string path = engine.folder + "/" + engine.model;
            check(table_, ort::create_session(table_, env_, path.c_str(), options, &session_));
        } catch (...) {
            ort::release_options(table_, options);
            release();
            throw;
        }
        ort::release_options(table_, options);
    }
    ~OnnxRuntime() override { release(); }
    OnnxRuntime(const OnnxRuntime &) = delete;
    OnnxRuntime &operator=(const OnnxRuntime &) = delete;

    std::unique_ptr<Outputs> run(const std::vector<View> &feeds) override {
        // The feeds' own memory is read; nothing is copied.
        OrtOutputs inputs(table_, feeds.size());
        for (std::size_t at = 0; at < feeds.size(); ++at) {
            const View &feed = feeds[at];
            check(table_, ort::make_tensor(table_, memory_, const_cast<void *>(feed.data), feed.bytes, feed.shape.data(),
                                           feed.shape.size(), type_of(feed.dtype), &inputs.values[at]));
        }
        auto outputs = std::make_unique<OrtOutputs>(table_, output_names_.size());
        std::vector<const char *> in, out;
        for (const std::string &name : input_names_) in.push_back(name.c_str());
        for (const std::string &name : output_names_) out.push_back(name.c_str());
        check(table_, ort::run(table_, session_, nullptr, in.data(), inputs.values.data(), in.size(), out.data(),
                               out.size(), outputs->values.data()));
        for (ort::Value *value : outputs->values) outputs->arrays.push_back(view(value));
        return outputs;
    }

private:
    View view(ort::Value *value) const {
        View found;
        ort::TensorInfo *info = nullptr;
        check(table_, ort::tensor_info(table_, value, &info));
        int type = 0;
        std::size_t rank = 0;
        ort::Status *status = ort::type_of(table_, info, &type);
        if (status == nullptr) status = ort::rank_of(table_, info, &rank);
        found.shape.resize(rank);
        if (status == nullptr) status = ort::shape_of(table_, info, found.shape.data(), rank);
        ort::release_tensor_info(table_, info);
        check(table_, status);
        const bool known = type > 0 && type < static_cast<int>(kDtypes.size()) && *kDtypes[static_cast<std::size_t>(type)];
        if (!known) throw Error("an output has elements of a type that arrays do not have");
        found.dtype = kDtypes[static_cast<std::size_t>(type)];
        found.bytes = static_cast<std::size_t>(elements(found.shape)) * width_of(found.dtype);
        void *data = nullptr;
        check(table_, ort::data_of(table_, value, &data));
        found.data = data;
        return found;
    }

    void release() {
        if (session_ != nullptr) ort::release_session(table_, session_);
        if (memory_ != nullptr) ort::release_memory(table_, memory_);
        if (env_ != nullptr) ort::release_env(table_, env_);
    }

    Table table_ = nullptr;
    ort::Env *env_ = nullptr;
    ort::MemoryInfo *memory_ = nullptr;
    ort::Session *session_ = nullptr;
    std::vector<std::string> input_names_, output_names_;
};

}  // namespace

std::unique_ptr<Engine> open_onnxruntime(const Description &engine, const std::string &library,
                                         const std::vector<Spec> &inputs, const std::vector<Spec> &outputs) {
    std::vector<std::string> names = {"libonnxruntime.so.1", "libonnxruntime.so"};
    if (!engine.made_with.empty()) names.push_back("libonnxruntime.so." + engine.made_with);
    const Library found(library, names, "ONNX Runtime's library is not found: install it, or name its libonnxruntime.so");
    return std::make_unique<OnnxRuntime>(engine, found, inputs, outputs);
}

}  // namespace edgec
