// Runs the bundle's model and prints its outputs and how long a run takes.
//
//     example [ENGINE [INPUT.bin …]]
//
// ENGINE is the bundle's folder `engine`, `../engine` where it is left out. Each INPUT.bin has the bytes of one input,
// in the order of io.json; inputs that are left out are zeros.
#include "edgec_tvm.h"

#include "inputs.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace {

constexpr int RUNS = 20, SHOWN = 5;

int fail(const std::string& why) {
    std::fprintf(stderr, "%s\n", why.c_str());
    return 1;
}

}  // namespace

int main(int count, char** words) {
    const std::string engine = count > 1 ? words[1] : "../engine";
    char error[1024] = "";
    edgec_tvm* model = edgec_tvm_open((engine + "/model.so").c_str(), 0, error, sizeof error);
    if (model == nullptr) return fail(error);

    std::vector<std::vector<char>> bytes;
    std::vector<edgec_array> inputs;
    for (const Input& input : INPUTS) {
        size_t size = static_cast<size_t>(input.bits) / 8;
        for (const int64_t each : input.sizes) size *= static_cast<size_t>(each);
        bytes.emplace_back(size, '\0');
        const int place = static_cast<int>(bytes.size()) + 1;
        if (place < count) {
            std::ifstream file(words[place], std::ios::binary);
            bytes.back().assign(std::istreambuf_iterator<char>(file), {});
            if (bytes.back().size() != size)
                return fail(std::string(words[place]) + " has not the " + std::to_string(size) + " bytes of " + input.name);
        }
    }
    for (size_t place = 0; place < bytes.size(); ++place) {
        const Input& input = INPUTS[place];
        inputs.push_back({bytes[place].data(), input.sizes.data(), static_cast<int64_t>(input.sizes.size()), input.code,
                          input.bits});
    }

    std::vector<double> times;
    for (int run = 0; run < RUNS; ++run) {
        const auto begun = std::chrono::steady_clock::now();
        if (edgec_tvm_run(model, inputs.data(), static_cast<int64_t>(inputs.size())) != 0)
            return fail(edgec_tvm_error(model));
        times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begun).count());
    }
    for (int64_t index = 0; index < edgec_tvm_outputs(model); ++index) {
        edgec_array output;
        edgec_tvm_output(model, index, &output);
        std::printf("output %lld:", static_cast<long long>(index));
        int64_t numbers = 1;
        for (int64_t axis = 0; axis < output.rank; ++axis) numbers *= output.sizes[axis];
        if (output.code == 2 && output.bits == 32)
            for (int64_t place = 0; place < std::min<int64_t>(numbers, SHOWN); ++place)
                std::printf(" %.6g", static_cast<double>(static_cast<const float*>(output.data)[place]));
        std::printf("%s\n", numbers > SHOWN ? " …" : "");
    }
    std::sort(times.begin(), times.end());
    std::printf("median of %d runs: %.3f ms\n", RUNS, times[RUNS / 2]);
    edgec_tvm_close(model);
    return 0;
}
