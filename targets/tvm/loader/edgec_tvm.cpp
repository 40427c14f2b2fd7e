#include "edgec_tvm.h"

#include <dlfcn.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace ffi = tvm::ffi;

namespace {

constexpr size_t LINE = 64;

// Memory of an input, aligned as the compiled loops expect it.
struct Aligned {
    void AllocData(DLTensor* tensor) {
        const size_t bytes = ffi::GetDataSize(*tensor);
        tensor->data = std::aligned_alloc(LINE, (bytes + LINE) / LINE * LINE);
        if (tensor->data == nullptr) throw std::bad_alloc();
    }
    void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

void say(const std::string& what, char* error, int64_t room) {
    if (room > 0) std::snprintf(error, static_cast<size_t>(room), "%s", what.c_str());
}

bool same(const DLTensor& held, const edgec_array& given) {
    if (held.ndim != given.rank || held.dtype.code != given.code || held.dtype.bits != given.bits) return false;
    for (int64_t axis = 0; axis < given.rank; ++axis)
        if (held.shape[axis] != given.sizes[axis]) return false;
    return true;
}

std::string text_of(const std::exception& error) {
    // TVM's first line says what; the rest is a trace of its own source.
    const std::string all = error.what();
    return all.substr(0, all.find('\n'));
}

}  // namespace

struct edgec_tvm {
    void* library = nullptr;
    ffi::Optional<ffi::Module> machine;
    ffi::Optional<ffi::Function> main;
    std::vector<ffi::Tensor> inputs;
    std::vector<ffi::Tensor> outputs;
    std::string error;

    template <typename F>
    F symbol(const char* name) const {
        return reinterpret_cast<F>(dlsym(library, name));
    }
};

extern "C" {

edgec_tvm* edgec_tvm_open(const char* path, int64_t threads, char* error, int64_t room) {
    auto* model = new edgec_tvm();
    try {
        const ffi::Module file = ffi::Module::LoadFromFile(path);
        // The same library once more, for the functions that are none of TVM's.
        model->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (model->library == nullptr) throw std::runtime_error(dlerror());
        const auto load = file->GetFunction("vm_load_executable");
        if (!load.has_value()) throw std::runtime_error("it holds no compiled graph");
        model->machine = (*load)().cast<ffi::Module>();
        const auto initialise = (*model->machine)->GetFunction("vm_initialization");
        constexpr int POOLED = 2;
        (*initialise)(static_cast<int>(kDLCPU), 0, POOLED);
        model->main = (*model->machine)->GetFunction("main");
        if (!model->main.has_value()) throw std::runtime_error("its graph has no main function");
        if (threads <= 0) threads = std::thread::hardware_concurrency();
        if (auto* set = model->symbol<void (*)(int64_t)>("edgec_set_threads")) set(threads < 1 ? 1 : threads);
        return model;
    } catch (const std::exception& failed) {
        say(text_of(failed), error, room);
        edgec_tvm_close(model);
        return nullptr;
    }
}

int edgec_tvm_run(edgec_tvm* model, const edgec_array* inputs, int64_t count) {
    try {
        model->inputs.resize(static_cast<size_t>(count));
        std::vector<ffi::AnyView> arguments;
        for (int64_t place = 0; place < count; ++place) {
            ffi::Tensor& held = model->inputs[static_cast<size_t>(place)];
            const edgec_array& given = inputs[place];
            if (!held.defined() || !same(*held.GetDLTensorPtr(), given)) {
                const DLDataType type{static_cast<uint8_t>(given.code), static_cast<uint8_t>(given.bits), 1};
                const ffi::Shape shape(given.sizes, given.sizes + given.rank);
                held = ffi::Tensor::FromNDAlloc(Aligned(), shape, type, DLDevice{kDLCPU, 0});
            }
            std::memcpy(held.data_ptr(), given.data, ffi::GetDataSize(*held.GetDLTensorPtr()));
            arguments.emplace_back(held);
        }
        ffi::Any result;
        model->main.value().CallPacked(arguments.data(), static_cast<int32_t>(count), &result);
        model->outputs.clear();
        if (auto one = result.as<ffi::Tensor>()) {
            model->outputs.push_back(*one);
        } else {
            for (const ffi::Any& each : result.cast<ffi::Array<ffi::Any>>()) model->outputs.push_back(each.cast<ffi::Tensor>());
        }
        return 0;
    } catch (const std::exception& failed) {
        model->error = text_of(failed);
        return -1;
    }
}

int64_t edgec_tvm_outputs(const edgec_tvm* model) { return static_cast<int64_t>(model->outputs.size()); }

void edgec_tvm_output(const edgec_tvm* model, int64_t index, edgec_array* output) {
    const ffi::Tensor& made = model->outputs[static_cast<size_t>(index)];
    const DLTensor* tensor = made.GetDLTensorPtr();
    *output = {static_cast<char*>(tensor->data) + tensor->byte_offset, tensor->shape, tensor->ndim, tensor->dtype.code,
               tensor->dtype.bits};
}

const char* edgec_tvm_error(const edgec_tvm* model) { return model->error.c_str(); }

void edgec_tvm_time(edgec_tvm* model, int64_t wanted) {
    if (auto* set = model->symbol<void (*)(int64_t)>("edgec_time_kernels")) set(wanted);
}

int64_t edgec_tvm_times(const edgec_tvm* model, const double** microseconds, const int64_t** sites) {
    auto* get = model->symbol<int64_t (*)(const double**, const int64_t**)>("edgec_kernel_times");
    return get == nullptr ? 0 : get(microseconds, sites);
}

void edgec_tvm_close(edgec_tvm* model) {
    if (model == nullptr) return;
    void* const library = model->library;
    delete model;
    if (library != nullptr) dlclose(library);
}
}
