/* A kernel on a processor: what it is called with, and how its entry is written.
 *
 *     EDGEC_CPU_KERNEL(TokenRestore) { …; return EDGEC_DONE; }
 *
 * defines the entry of the op `TokenRestore` of `ai.edgec`; the parameter is `call`. A file that is compiled for
 * several instruction sets defines one entry for each: the caller's is made from the plugins' declarations and
 * takes the first that the processor runs.
 */
#ifndef EDGEC_CPU_KERNEL_H
#define EDGEC_CPU_KERNEL_H

#include "arguments.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Runs task(index, data) for index 0 … count - 1, in any order and on any threads, and returns when all are
 * done. `by_turns`: for few and large tasks; whichever thread is free takes the next. */
typedef void (*edgec_task)(int64_t index, void* data);
typedef void (*edgec_parallel)(int64_t count, edgec_task task, void* data, int by_turns);

/* Memory of the calling thread, aligned to 64, that stays until the thread asks again. */
typedef void* (*edgec_scratch)(int64_t bytes);

typedef struct {
    const edgec_tensor *inputs, *outputs;
    const edgec_attribute* attributes;
    int64_t attribute_count;
    edgec_parallel parallel; /* NULL where the calling thread is the only one */
    edgec_scratch scratch;
    int64_t threads; /* that `parallel` has; 1 without it */
} edgec_cpu_call;

typedef int (*edgec_cpu_entry)(const edgec_cpu_call* call);

#ifdef __cplusplus
}
#endif

#define EDGEC_JOINED_(a, b) a##b
#define EDGEC_JOINED(a, b) EDGEC_JOINED_(a, b)
#define EDGEC_CPU_KERNEL(op) \
    extern "C" int EDGEC_JOINED(edgec_##op##_, EDGEC_ISA)(const edgec_cpu_call* call)

/* The size of an op's outputs that depends on the data, -1 where it has none; outputs are not there yet. */
#define EDGEC_CPU_OPEN_SIZE(op) extern "C" int64_t edgec_##op##_open_size(const edgec_cpu_call* call)

#endif
