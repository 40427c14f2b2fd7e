#include "edgec_runtime.h"

#include <map>

#include "bundle.hpp"
#include "error.hpp"
#include "machine.hpp"

struct edgec_session {
    edgec::Bundle bundle;
    std::unique_ptr<edgec::Engine> engine;
};

struct edgec_result {
    std::unique_ptr<edgec::Outputs> outputs;
};

namespace edgec {

std::size_t width_of(const std::string &dtype) {
    static const std::map<std::string, std::size_t> widths = {
        {"bool", 1},  {"int8", 1},    {"uint8", 1}, {"int16", 2},  {"uint16", 2}, {"float16", 2},
        {"int32", 4}, {"float32", 4}, {"int64", 8}, {"uint32", 4}, {"uint64", 8}, {"float64", 8},
    };
    const auto found = widths.find(dtype);
    if (found == widths.end()) throw Error("there are no arrays of the type '" + dtype + "'");
    return found->second;
}

namespace {

thread_local std::string last_message;

template <typename Work>
edgec_status guarded(Work work) noexcept {
    try {
        last_message.clear();
        work();
        return EDGEC_OK;
    } catch (const Error &error) {
        last_message = error.what();
        return error.status() == 2 ? EDGEC_WRONG : EDGEC_FAILED;
    } catch (const std::bad_alloc &) {
        last_message = "there is not enough memory";
    } catch (const std::exception &error) {
        last_message = std::string("unexpected: ") + error.what();
    }
    return EDGEC_FAILED;
}

std::string shown(const Spec &spec) {
    std::string text = spec.name + ": " + spec.dtype + " [";
    for (std::size_t axis = 0; axis < spec.shape.size(); ++axis) {
        text += (axis == 0 ? "" : ", ") + (spec.shape[axis] < 0 ? spec.open[axis] : std::to_string(spec.shape[axis]));
    }
    return text + "]";
}

// The feeds as an engine takes them. Throws Error where one has another type, shape or size than the model's input.
std::vector<View> fitted(const std::vector<Spec> &specs, const edgec_array *arrays, std::size_t count) {
    if (count != specs.size()) {
        throw Error(std::to_string(count) + " arrays were given, the model takes " + std::to_string(specs.size()), 2);
    }
    std::vector<View> feeds;
    std::map<std::string, std::int64_t> bound;
    for (std::size_t at = 0; at < count; ++at) {
        const Spec &spec = specs[at];
        const edgec_array &array = arrays[at];
        if (array.data == nullptr || array.dtype == nullptr || (array.rank > 0 && array.shape == nullptr)) {
            throw Error("input '" + spec.name + "' has no data, type or shape; feed " + shown(spec), 2);
        }
        View view{array.dtype, {array.shape, array.shape + array.rank}, array.data, array.bytes};
        bool fits = view.dtype == spec.dtype && view.shape.size() == spec.shape.size();
        std::size_t bytes = width_of(spec.dtype);
        for (std::size_t axis = 0; fits && axis < view.shape.size(); ++axis) {
            const std::int64_t size = view.shape[axis];
            const bool open = spec.shape[axis] < 0;
            fits = open ? size >= 0 && bound.emplace(spec.open[axis], size).first->second == size : size == spec.shape[axis];
            bytes *= static_cast<std::size_t>(size);
        }
        if (!fits || bytes != view.bytes) {
            throw Error("input '" + spec.name + "' is of another type, shape or size; feed " + shown(spec), 2);
        }
        feeds.push_back(std::move(view));
    }
    return feeds;
}

std::unique_ptr<Engine> opened(const Bundle &bundle, const std::string &library) {
    Description engine = Description::read(bundle.path + "/engine");
    check_machine(bundle, engine);
    const bool is_ort = engine.kind == "ort";
    if (!is_ort && engine.kind != "openvino") {
        throw Error(bundle.path + ": an engine of the kind " + engine.kind + " does not run here; run it on its device", 2);
    }
    const auto &manifest = bundle.manifest.object();
    const auto tools = manifest.find("tools");
    if (tools != manifest.end()) {
        const auto recorded = tools->second.object().find(is_ort ? "onnxruntime" : "openvino");
        if (recorded != tools->second.object().end()) engine.made_with = recorded->second.text();
    }
    return (is_ort ? open_onnxruntime : open_openvino)(engine, library, bundle.inputs, bundle.outputs);
}

edgec_spec spec_of(const std::vector<Spec> &specs, std::size_t index) {
    if (index >= specs.size()) return {nullptr, nullptr, 0, nullptr};
    const Spec &spec = specs[index];
    return {spec.name.c_str(), spec.dtype.c_str(), spec.shape.size(), spec.shape.data()};
}

}  // namespace

}  // namespace edgec

extern "C" {

const char *edgec_message(void) { return edgec::last_message.c_str(); }

edgec_status edgec_open(const char *bundle, const char *engine, edgec_session **session) {
    return edgec::guarded([&] {
        if (bundle == nullptr || session == nullptr) throw edgec::Error("a bundle and a place for the session are needed", 2);
        *session = nullptr;
        auto made = std::make_unique<edgec_session>();
        made->bundle = edgec::Bundle::open(bundle);
        made->engine = edgec::opened(made->bundle, engine == nullptr ? "" : engine);
        *session = made.release();
    });
}

void edgec_close(edgec_session *session) { delete session; }

size_t edgec_input_count(const edgec_session *session) { return session->bundle.inputs.size(); }
size_t edgec_output_count(const edgec_session *session) { return session->bundle.outputs.size(); }

edgec_spec edgec_input(const edgec_session *session, size_t index) {
    return edgec::spec_of(session->bundle.inputs, index);
}

edgec_spec edgec_output(const edgec_session *session, size_t index) {
    return edgec::spec_of(session->bundle.outputs, index);
}

edgec_status edgec_run(edgec_session *session, const edgec_array *inputs, size_t count, edgec_result **result) {
    return edgec::guarded([&] {
        if (session == nullptr || result == nullptr) throw edgec::Error("a session and a place for the result are needed", 2);
        *result = nullptr;
        auto made = std::make_unique<edgec_result>();
        made->outputs = session->engine->run(edgec::fitted(session->bundle.inputs, inputs, count));
        *result = made.release();
    });
}

edgec_array edgec_result_array(const edgec_result *result, size_t index) {
    if (index >= result->outputs->arrays.size()) return {nullptr, 0, nullptr, nullptr, 0};
    const edgec::View &view = result->outputs->arrays[index];
    return {view.dtype.c_str(), view.shape.size(), view.shape.data(), view.data, view.bytes};
}

void edgec_free(edgec_result *result) { delete result; }

}  // extern "C"
