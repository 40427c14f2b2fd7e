// Arrays in host memory, and numpy's .npy files of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace edgec {

struct Array {
    std::string dtype;  // as .npy writes it: <f4, <i8, |b1, …
    std::vector<std::int64_t> shape;
    std::vector<char> data;  // C order
};

// Read a .npy file of version 1 to 3 (numpy.lib.format); Fortran order is refused.
Array read_npy(const std::string &path);
void write_npy(const std::string &path, const Array &array);

// The same whole numbers in a narrower type; other arrays are given back as they are. Throws Error where a number
// does not fit.
Array narrowed(const Array &array, const std::string &dtype, const std::string &name);

std::vector<char> read_file(const std::string &path);
// Whole or not at all: written beside its place and renamed.
void write_file(const std::string &path, const void *data, std::size_t size);

std::int64_t elements(const std::vector<std::int64_t> &shape);
std::string to_text(const std::vector<std::int64_t> &shape);

}  // namespace edgec
