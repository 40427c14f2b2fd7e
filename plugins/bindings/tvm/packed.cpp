#include "packed.hpp"

#include "pool.hpp"

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace edgec {
namespace {

// Microseconds of each call since they were asked for, with the call's site.
struct Times {
    bool wanted = false;
    std::vector<double> microseconds;
    std::vector<int64_t> sites;
};
Times times;

void* scratch(int64_t bytes) {
    constexpr size_t LINE = 64;
    thread_local std::vector<char> block;
    const size_t wanted = static_cast<size_t>(bytes) + LINE;
    if (block.size() < wanted) block.resize(wanted);
    const auto address = reinterpret_cast<uintptr_t>(block.data());
    return reinterpret_cast<void*>((address + LINE - 1) / LINE * LINE);
}

const DLTensor* tensor_of(const TVMFFIAny& argument) {
    if (argument.type_index == kTVMFFIDLTensorPtr) return static_cast<const DLTensor*>(argument.v_ptr);
    if (argument.type_index == kTVMFFITensor)
        return reinterpret_cast<const DLTensor*>(reinterpret_cast<const char*>(argument.v_obj) + sizeof(TVMFFIObject));
    return nullptr;
}

bool type_of(const DLDataType& type, int64_t& found) {
    if (type.lanes != 1) return false;
    if (type.code == kDLFloat && type.bits == 32) return found = EDGEC_FLOAT32, true;
    if (type.code == kDLFloat && type.bits == 16) return found = EDGEC_FLOAT16, true;
    if (type.code == kDLBfloat && type.bits == 16) return found = EDGEC_BFLOAT16, true;
    if (type.code == kDLInt && type.bits == 32) return found = EDGEC_INT32, true;
    if (type.code == kDLBool || (type.code == kDLUInt && type.bits <= 8)) return found = EDGEC_BOOL, true;
    return false;
}

int raise(const Packed& packed, int64_t site, const char* what) {
    const std::string text = std::string(packed.name) + " at site " + std::to_string(site) + ": " + what;
    TVMFFIErrorSetRaisedFromCStr("ValueError", text.c_str());
    return -1;
}

}  // namespace

int call_packed(const Packed& packed, const TVMFFIAny* arguments, int32_t count) {
    const int numbers = packed.inputs + packed.attributes;
    if (count != numbers + 1 + packed.outputs) return raise(packed, -1, "it is called with too few arguments");
    const int64_t site = arguments[numbers].v_int64;
    edgec_tensor tensors[32];
    if (packed.inputs + packed.outputs > 32) return raise(packed, site, "it has too many tensors");
    for (int place = 0; place < packed.inputs + packed.outputs; ++place) {
        const int argument = place < packed.inputs ? place : place + packed.attributes + 1;
        const DLTensor* const given = tensor_of(arguments[argument]);
        int64_t type = 0;
        if (given == nullptr || !type_of(given->dtype, type)) return raise(packed, site, "an argument is of no known type");
        tensors[place] = {static_cast<char*>(given->data) + given->byte_offset, given->shape, given->ndim, type};
    }
    edgec_attribute attributes[32];
    if (packed.attributes > 32) return raise(packed, site, "it has too many attributes");
    for (int place = 0; place < packed.attributes; ++place) {
        const int64_t given = arguments[packed.inputs + place].v_int64;
        double number = static_cast<double>(given);
        if (packed.real[place]) __builtin_memcpy(&number, &given, sizeof number);
        attributes[place] = {packed.names[place], packed.real[place] ? 0 : given, number};
    }
    const int64_t threads = pool_threads();
    const edgec_cpu_call call{tensors, tensors + packed.inputs, attributes, packed.attributes,
                              threads > 1 ? pool_run : nullptr, scratch, threads};
    const auto begun = std::chrono::steady_clock::now();
    if (packed.run(&call) != EDGEC_DONE) return raise(packed, site, "the kernel does not take these sizes");
    if (times.wanted) {
        times.microseconds.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begun).count());
        times.sites.push_back(site);
    }
    return 0;
}

}  // namespace edgec

extern "C" {

__attribute__((visibility("default"))) void edgec_set_threads(int64_t threads) { edgec::pool_resize(threads); }

// From now on every call of a kernel is timed, or none is; what was found is forgotten.
__attribute__((visibility("default"))) void edgec_time_kernels(int64_t wanted) {
    edgec::times = {};
    edgec::times.wanted = wanted != 0;
}

// How many calls there were, and where their times and sites lie until the next call of a kernel.
__attribute__((visibility("default"))) int64_t edgec_kernel_times(const double** microseconds, const int64_t** sites) {
    *microseconds = edgec::times.microseconds.data();
    *sites = edgec::times.sites.data();
    return static_cast<int64_t>(edgec::times.sites.size());
}
}
