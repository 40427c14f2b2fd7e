// An engine on disk beside its record, in the format that edgec_engine writes.
#pragma once

#include <string>
#include <vector>

#include "cuda.hpp"
#include "plan.hpp"

namespace edgec {

void write_engine(const std::string &path, const void *data, std::size_t size, const Plan &plan, const Gpu &gpu);

// The engine's bytes. Throws Error where it was built on another GPU, with another TensorRT or from another
// model, or where a byte of it changed: TensorRT is never given those.
std::vector<char> read_engine(const std::string &path, const Plan &plan, const Gpu &gpu);

}  // namespace edgec
