// Building the engine, as the plan says.
#pragma once

#include <string>

#include "plan.hpp"

namespace edgec {

// Build the bundle's engine and write it with its record. Throws Error with TensorRT's own reason.
void build(const Plan &plan, const std::string &engine);

}  // namespace edgec
