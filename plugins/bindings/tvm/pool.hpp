// The threads that all kernels of a library share.
#pragma once

#include "kernel.h"

namespace edgec {

// How many there are, the calling one among them.
int64_t pool_threads();
void pool_resize(int64_t threads);

// An `edgec_parallel`. Where the threads are at work for another caller, this one does all of its work itself.
void pool_run(int64_t count, edgec_task task, void* data, int by_turns);

}  // namespace edgec
