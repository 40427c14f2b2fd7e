// A kernel as a packed function of TVM: its inputs, a number for each attribute, the number of its site, its outputs.
#pragma once

#include "kernel.h"

#include <tvm/ffi/c_api.h>

namespace edgec {

struct Packed {
    const char* name;
    edgec_cpu_entry run;
    int inputs, outputs, attributes;
    const char* const* names;  // of the attributes
    const bool* real;          // of each: its number is a float64, handed over by its bits
};

// Returns 0, or -1 with the error raised in TVM's way.
int call_packed(const Packed& packed, const TVMFFIAny* arguments, int32_t count);

}  // namespace edgec
