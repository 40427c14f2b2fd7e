// A model behind a pipe: reads inputs from standard input and writes outputs to standard output, again and again.
//
// Both ways a call is the number of arrays, then of each code, bits, rank and sizes, all int64, and its bytes. An
// answer of -1 arrays is followed by the length of a text that says why, and the text.
#include "edgec_tvm.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

bool read_all(void* to, size_t bytes) { return std::fread(to, 1, bytes, stdin) == bytes; }
void write_all(const void* from, size_t bytes) { std::fwrite(from, 1, bytes, stdout); }

bool read_number(int64_t& number) { return read_all(&number, sizeof number); }
void write_number(int64_t number) { write_all(&number, sizeof number); }

size_t bytes_of(const edgec_array& array) {
    size_t bytes = static_cast<size_t>(array.bits) / 8;
    for (int64_t axis = 0; axis < array.rank; ++axis) bytes *= static_cast<size_t>(array.sizes[axis]);
    return bytes;
}

void write_failure(const char* why) {
    write_number(-1);
    write_number(static_cast<int64_t>(std::strlen(why)));
    write_all(why, std::strlen(why));
    std::fflush(stdout);
}

struct Held {
    std::vector<int64_t> sizes;
    std::vector<char> data;
};

}  // namespace

int main(int count, char** words) {
    if (count != 3) return 2;
    char error[1024] = "";
    edgec_tvm* model = edgec_tvm_open(words[1], std::atoll(words[2]), error, sizeof error);
    if (model == nullptr) {
        write_failure(error);
        return 1;
    }
    int64_t arrays = 0;
    while (read_number(arrays)) {
        std::vector<Held> held(static_cast<size_t>(arrays));
        std::vector<edgec_array> inputs;
        for (Held& one : held) {
            int64_t code = 0, bits = 0, rank = 0;
            if (!read_number(code) || !read_number(bits) || !read_number(rank)) return 1;
            one.sizes.resize(static_cast<size_t>(rank));
            if (!read_all(one.sizes.data(), one.sizes.size() * sizeof(int64_t))) return 1;
            edgec_array array{nullptr, one.sizes.data(), rank, static_cast<int32_t>(code), static_cast<int32_t>(bits)};
            one.data.resize(bytes_of(array) + 1);
            array.data = one.data.data();
            if (!read_all(array.data, bytes_of(array))) return 1;
            inputs.push_back(array);
        }
        if (edgec_tvm_run(model, inputs.data(), arrays) != 0) {
            write_failure(edgec_tvm_error(model));
            continue;
        }
        write_number(edgec_tvm_outputs(model));
        for (int64_t index = 0; index < edgec_tvm_outputs(model); ++index) {
            edgec_array output;
            edgec_tvm_output(model, index, &output);
            write_number(output.code);
            write_number(output.bits);
            write_number(output.rank);
            write_all(output.sizes, static_cast<size_t>(output.rank) * sizeof(int64_t));
            write_all(output.data, bytes_of(output));
        }
        std::fflush(stdout);
    }
    edgec_tvm_close(model);
    return 0;
}
