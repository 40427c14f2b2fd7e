/* Which of a kernel's variants runs here. */
#ifndef EDGEC_DISPATCH_H
#define EDGEC_DISPATCH_H

#include "kernel.h"

extern "C" {

/* 1 where this processor runs "avx512", "avx2", "baseline" or "amx", and the system lets it. */
int edgec_runs(const char* instructions);

struct edgec_variant {
    const char* instructions;
    edgec_cpu_entry entry;
};

/* Calls the first of the variants that runs here and takes the call. */
int edgec_dispatch(const edgec_variant* variants, int64_t count, const edgec_cpu_call* call);
}

#endif
