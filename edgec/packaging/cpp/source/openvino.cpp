#include <algorithm>
#include <cstring>
#include <mutex>

#include "arrays.hpp"
#include "engine.hpp"
#include "error.hpp"
#include "machine.hpp"
#include "needs.hpp"
#include "openvino_abi.hpp"

namespace edgec {

namespace ov {

Api::Api(const Library &library) {
    library.find(get_version, "ov_get_openvino_version");
    library.find(free_version, "ov_version_free");
    library.find(last_message, "ov_get_last_err_msg");
    library.find(create_core, "ov_core_create");
    library.find(free_core, "ov_core_free");
    library.find(add_extension, "ov_core_add_extension");
    library.find(read_model, "ov_core_read_model");
    library.find(free_model, "ov_model_free");
    library.find(compile, "ov_core_compile_model");
    library.find(free_compiled, "ov_compiled_model_free");
    library.find(input_count, "ov_compiled_model_inputs_size");
    library.find(output_count, "ov_compiled_model_outputs_size");
    library.find(create_request, "ov_compiled_model_create_infer_request");
    library.find(free_request, "ov_infer_request_free");
    library.find(input, "ov_infer_request_get_input_tensor_by_index");
    library.find(output, "ov_infer_request_get_output_tensor_by_index");
    library.find(infer, "ov_infer_request_infer");
    library.find(set_shape, "ov_tensor_set_shape");
    library.find(get_shape, "ov_tensor_get_shape");
    library.find(free_shape, "ov_shape_free");
    library.find(byte_size, "ov_tensor_get_byte_size");
    library.find(data, "ov_tensor_data");
    library.find(free_tensor, "ov_tensor_free");
}

}  // namespace ov

namespace {

// The places of io.json's names among the engine's own; in order where the engine's description has none.
std::vector<std::size_t> places(const std::vector<Spec> &specs, const std::vector<std::string> &own, std::size_t count) {
    if (specs.size() != count || (!own.empty() && own.size() != count)) {
        throw Error("the engine has another number of inputs or outputs than io.json says; compile the model again");
    }
    std::vector<std::size_t> found;
    for (std::size_t at = 0; at < specs.size(); ++at) {
        const auto place = std::find(own.begin(), own.end(), specs[at].name);
        if (!own.empty() && place == own.end()) throw Error("the engine has no '" + specs[at].name + "'; compile the model again");
        found.push_back(own.empty() ? at : static_cast<std::size_t>(place - own.begin()));
    }
    return found;
}

struct Copies final : Outputs {
    std::vector<std::vector<char>> memory;
};

class OpenVino final : public Engine {
public:
    OpenVino(const Description &engine, const Library &library, const std::vector<Spec> &inputs,
             const std::vector<Spec> &outputs)
        : api_(library), specs_(outputs) {
        ov::Version version{};
        check(api_.get_version(&version));
        const std::string installed = version.number;
        api_.free_version(&version);
        check_version("openvino", installed, engine);
        try {
            open(engine);
            std::size_t in = 0, out = 0;
            check(api_.input_count(compiled_, &in));
            check(api_.output_count(compiled_, &out));
            inputs_ = places(inputs, engine.inputs, in);
            outputs_ = places(outputs, engine.outputs, out);
            idle_.push_back(another());
        } catch (...) {
            release();
            throw;
        }
        for (const Spec &spec : inputs) fixed_ = fixed_ && std::count(spec.shape.begin(), spec.shape.end(), -1) == 0;
    }
    ~OpenVino() override { release(); }
    OpenVino(const OpenVino &) = delete;
    OpenVino &operator=(const OpenVino &) = delete;

    // Each run under way has a request to itself.
    std::unique_ptr<Outputs> run(const std::vector<View> &feeds) override {
        ov::Request *request = taken();
        try {
            for (std::size_t at = 0; at < feeds.size(); ++at) feed(request, inputs_[at], feeds[at]);
            check(api_.infer(request));
            auto found = std::make_unique<Copies>();
            for (std::size_t at = 0; at < outputs_.size(); ++at) copy(request, at, *found);
            give_back(request);
            return found;
        } catch (...) {
            give_back(request);
            throw;
        }
    }

private:
    void open(const Description &engine) {
        check(api_.create_core(&core_));
        for (const std::string &name : engine.extensions) {
            check(api_.add_extension(core_, (engine.folder + "/" + name).c_str()));
        }
        ov::Model *model = nullptr;
        check(api_.read_model(core_, (engine.folder + "/" + engine.model).c_str(), nullptr, &model));
        const std::string threads = std::to_string(worker_threads(engine.threads));
        const std::string hint = precision_hint(engine.rest.empty() ? engine.precision : engine.rest);
        const ov::Status status =
            api_.compile(core_, model, "CPU", 6, &compiled_, "PERFORMANCE_HINT", "LATENCY", "INFERENCE_NUM_THREADS",
                         threads.c_str(), "INFERENCE_PRECISION_HINT", hint.c_str());
        api_.free_model(model);
        check(status);
    }

    static std::string precision_hint(const std::string &precision) {
        for (const auto &[ours, theirs] : kPrecisionHints) {
            if (precision == ours) return theirs;
        }
        throw Error("OpenVINO does not compute in '" + precision + "'; compile the model again");
    }

    void feed(ov::Request *request, std::size_t place, const View &given) const {
        ov::Tensor *tensor = nullptr;
        check(api_.input(request, place, &tensor));
        ov::Status status = 0;
        if (!fixed_) {
            std::vector<std::int64_t> sizes = given.shape;
            status = api_.set_shape(tensor, {static_cast<std::int64_t>(sizes.size()), sizes.data()});
        }
        void *data = nullptr;
        std::size_t bytes = 0;
        if (status == 0) status = api_.byte_size(tensor, &bytes);
        if (status == 0) status = api_.data(tensor, &data);
        if (status == 0 && bytes == given.bytes) std::memcpy(data, given.data, bytes);
        api_.free_tensor(tensor);
        check(status);
        if (bytes != given.bytes) throw Error("the engine takes another size or type than io.json says; compile the model again");
    }

    void copy(ov::Request *request, std::size_t at, Copies &found) const {
        ov::Tensor *tensor = nullptr;
        check(api_.output(request, outputs_[at], &tensor));
        void *data = nullptr;
        std::size_t bytes = 0;
        ov::Shape shape{};
        ov::Status status = api_.get_shape(tensor, &shape);
        View view{specs_[at].dtype, {}, nullptr, 0};
        if (status == 0) view.shape.assign(shape.sizes, shape.sizes + shape.rank);
        if (status == 0) api_.free_shape(&shape);
        if (status == 0) status = api_.byte_size(tensor, &bytes);
        if (status == 0) status = api_.data(tensor, &data);
        const auto *begin = static_cast<const char *>(data);
        if (status == 0) found.memory.emplace_back(begin, begin + bytes);
        api_.free_tensor(tensor);
        check(status);
        view.data = found.memory.back().data();
        view.bytes = bytes;
        found.arrays.push_back(view);
        if (bytes != static_cast<std::size_t>(elements(view.shape)) * width_of(view.dtype)) {
            throw Error("output '" + specs_[at].name + "' is of another type than io.json says; compile the model again");
        }
    }

    ov::Request *another() const {
        ov::Request *request = nullptr;
        check(api_.create_request(compiled_, &request));
        return request;
    }

    ov::Request *taken() {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            if (!idle_.empty()) {
                ov::Request *request = idle_.back();
                idle_.pop_back();
                return request;
            }
        }
        return another();
    }

    void give_back(ov::Request *request) {
        const std::lock_guard<std::mutex> lock(mutex_);
        idle_.push_back(request);
    }

    void check(ov::Status status) const {
        if (status != 0) throw Error("OpenVINO says: " + said());
    }

    // What is wrong stands in the last line; the first say where in its own code.
    std::string said() const {
        const char *text = api_.last_message();
        std::string whole = text == nullptr ? "" : text;
        while (!whole.empty() && (whole.back() == '\n' || whole.back() == ' ')) whole.pop_back();
        const std::size_t line = whole.rfind('\n');
        return whole.empty() ? "nothing" : line == std::string::npos ? whole : whole.substr(line + 1);
    }

    void release() {
        for (ov::Request *request : idle_) api_.free_request(request);
        if (compiled_ != nullptr) api_.free_compiled(compiled_);
        if (core_ != nullptr) api_.free_core(core_);
    }

    ov::Api api_;
    std::vector<Spec> specs_;
    ov::Core *core_ = nullptr;
    ov::Compiled *compiled_ = nullptr;
    std::vector<std::size_t> inputs_, outputs_;
    bool fixed_ = true;
    std::mutex mutex_;
    std::vector<ov::Request *> idle_;
};

// 2641 of 2026.4.1, as the libraries' names end.
std::string suffix_of(const std::string &version) {
    std::string digits;
    for (const char letter : version) {
        if (letter >= '0' && letter <= '9') digits += letter;
        else if (letter != '.') break;
    }
    return digits.size() > 2 ? digits.substr(2) : digits;
}

}  // namespace

std::unique_ptr<Engine> open_openvino(const Description &engine, const std::string &library,
                                      const std::vector<Spec> &inputs, const std::vector<Spec> &outputs) {
    std::vector<std::string> names = {"libopenvino_c.so"};
    if (!engine.made_with.empty()) names.push_back("libopenvino_c.so." + suffix_of(engine.made_with));
    const Library found(library, names, "OpenVINO's library is not found: install it, or name its libopenvino_c.so");
    return std::make_unique<OpenVino>(engine, found, inputs, outputs);
}

}  // namespace edgec
