/* A bundle's model.so, opened and run without Python: plain C, for C++ and for any language that calls C.
 *
 *     char error[256];
 *     edgec_tvm* model = edgec_tvm_open("m.arm.edgec/engine/model.so", 0, error, sizeof error);
 *     edgec_tvm_run(model, inputs, 1);
 *     edgec_array scores;
 *     edgec_tvm_output(model, 0, &scores);
 *     edgec_tvm_close(model);
 *
 * A model belongs to one thread at a time.
 */
#ifndef EDGEC_TVM_H
#define EDGEC_TVM_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct edgec_tvm edgec_tvm;

/* Dense and row-major. `code` and `bits` say the type as DLPack does: code 0 is int, 1 uint, 2 float, 6 bool. */
typedef struct {
    void* data;
    const int64_t* sizes;
    int64_t rank;
    int32_t code, bits;
} edgec_array;

/* Opens a model. `threads`: that compute, the caller's among them; 0 for as many as there are processors.
 * Returns NULL where it cannot be opened, with the reason in `error`. */
edgec_tvm* edgec_tvm_open(const char* path, int64_t threads, char* error, int64_t room);

/* Runs once; inputs come in the order of io.json. Returns 0, or -1 where it failed: edgec_tvm_error says why. */
int edgec_tvm_run(edgec_tvm* model, const edgec_array* inputs, int64_t count);

/* How many outputs the last run made, and one of them; its memory stays until the next run. */
int64_t edgec_tvm_outputs(const edgec_tvm* model);
void edgec_tvm_output(const edgec_tvm* model, int64_t index, edgec_array* output);

const char* edgec_tvm_error(const edgec_tvm* model);

/* Times every call of a kernel from now on where `wanted` is not 0, and forgets what was found before. */
void edgec_tvm_time(edgec_tvm* model, int64_t wanted);

/* Microseconds of the calls since then and the number of each one's site; memory stays until the next run. */
int64_t edgec_tvm_times(const edgec_tvm* model, const double** microseconds, const int64_t** sites);

void edgec_tvm_close(edgec_tvm* model);

#ifdef __cplusplus
}
#endif

#endif
