// Kernels behind a pipe, for a processor that is emulated. A call is, all int64 but the bytes: the place of the kernel
// in KERNELS; how many inputs, of each type, rank, sizes and bytes; how many outputs, of each type, rank and sizes; the
// attributes, of each an int64 and a float64. The answer is the kernel's status and each output's bytes.
#include "kernels.inc"

#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

int64_t number() {
    int64_t value = 0;
    if (std::fread(&value, 8, 1, stdin) != 1) std::exit(0);
    return value;
}

struct Held {
    std::vector<int64_t> sizes;
    std::vector<char> bytes;
    edgec_tensor tensor;

    void read() {
        constexpr int64_t BYTES[] = {4, 2, 2, 4, 1};
        const int64_t type = number(), rank = number();
        int64_t total = BYTES[type];
        for (int64_t axis = 0; axis < rank; ++axis) {
            sizes.push_back(number());
            total *= sizes.back();
        }
        bytes.assign(static_cast<size_t>(total), 77);
        tensor = {bytes.data(), sizes.data(), rank, type};
    }
};

void* scratch(int64_t bytes) {
    static std::vector<char> block;
    block.resize(static_cast<size_t>(bytes) + 64);
    return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(block.data()) + 63) / 64 * 64);
}

}  // namespace

int main() {
    for (;;) {
        const Kernel& kernel = KERNELS[number()];
        std::vector<Held> inputs(static_cast<size_t>(number()));
        for (Held& each : inputs) {
            each.read();
            if (!each.bytes.empty() && std::fread(each.bytes.data(), each.bytes.size(), 1, stdin) != 1) return 1;
        }
        std::vector<Held> outputs(static_cast<size_t>(number()));
        for (Held& each : outputs) each.read();
        std::vector<edgec_attribute> attributes;
        for (const char* name : kernel.attributes) {
            const int64_t integer = number(), bits = number();
            double real;
            __builtin_memcpy(&real, &bits, 8);
            attributes.push_back({name, integer, real});
        }
        std::vector<edgec_tensor> given, made;
        for (Held& each : inputs) given.push_back(each.tensor);
        for (Held& each : outputs) made.push_back(each.tensor);
        const edgec_cpu_call call{given.data(), made.data(), attributes.data(), static_cast<int64_t>(attributes.size()),
                                  nullptr,      scratch,     1};
        const int64_t status = kernel.run(&call);
        std::fwrite(&status, 8, 1, stdout);
        for (const Held& each : outputs) std::fwrite(each.bytes.data(), 1, each.bytes.size(), stdout);
        std::fflush(stdout);
    }
}
