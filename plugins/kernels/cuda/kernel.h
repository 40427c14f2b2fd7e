/* A kernel on an NVIDIA GPU: what it is called with, and how its entry is written.
 *
 *     EDGEC_CUDA_KERNEL(TokenRestore) { …; return EDGEC_DONE; }
 *
 * defines the entry of the op `TokenRestore` of `ai.edgec`; the parameter is `call`. Tensors lie in device memory,
 * sizes and attributes in the host's. An entry only launches: it allocates nothing and does not wait. It returns
 * EDGEC_DONE, EDGEC_REFUSED, or EDGEC_CUDA_ERROR plus the CUDA error of a launch.
 */
#ifndef EDGEC_CUDA_KERNEL_H
#define EDGEC_CUDA_KERNEL_H

#include "arguments.h"

enum { EDGEC_CUDA_ERROR = 1000 };

typedef struct {
    const edgec_tensor *inputs, *outputs;
    const edgec_attribute* attributes;
    int64_t attribute_count;
    void* workspace; /* aligned to 256 */
    void* stream;
} edgec_cuda_call;

#define EDGEC_CUDA_KERNEL(op) extern "C" int edgec_cuda_##op(const edgec_cuda_call* call)

/* Bytes of device memory that a call needs besides its tensors, none of which is there yet. */
#define EDGEC_CUDA_WORKSPACE(op) extern "C" int64_t edgec_cuda_##op##_workspace(const edgec_cuda_call* call)

#endif
