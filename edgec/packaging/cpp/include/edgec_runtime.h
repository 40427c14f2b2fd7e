/* Runs what edgec compiled for x86: open a bundle, run it from any number of threads, close it.
 *
 *     edgec_session *session = NULL;
 *     if (edgec_open("deit.x86.edgec", NULL, &session) != EDGEC_OK) puts(edgec_message());
 *
 * Every function that can fail gives a status, and edgec_message() says why in one sentence.
 */
#ifndef EDGEC_RUNTIME_H
#define EDGEC_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifdef __GNUC__
#pragma GCC visibility push(default)
#endif

typedef enum {
    EDGEC_OK = 0,
    EDGEC_FAILED = 1,  /* the bundle or the machine is not as it must be, or the engine failed */
    EDGEC_WRONG = 2    /* what was asked for is wrong: no such bundle, another shape or type */
} edgec_status;

/* An open bundle. */
typedef struct edgec_session edgec_session;

/* The outputs of one run. */
typedef struct edgec_result edgec_result;

/* An input or an output as the model has it. The text and the shape live as long as the session. */
typedef struct {
    const char *name;
    const char *dtype;    /* as numpy writes it: float32, int64, bool, ... */
    size_t rank;
    const int64_t *shape; /* -1 where a size is open */
} edgec_spec;

/* Elements in C order. */
typedef struct {
    const char *dtype;
    size_t rank;
    const int64_t *shape;
    const void *data;
    size_t bytes;
} edgec_array;

/* Why this thread's last call failed; an empty text where none did. */
const char *edgec_message(void);

/* Open a bundle's folder. Its hashes, the processor, the plugins and the engine's version are compared with what
 * was recorded, all before the engine sees a file of it.
 *
 * engine: the path of libonnxruntime.so or libopenvino_c.so; NULL looks where the system looks for libraries. */
edgec_status edgec_open(const char *bundle, const char *engine, edgec_session **session);

/* Free a session; no run of it may be under way. */
void edgec_close(edgec_session *session);

size_t edgec_input_count(const edgec_session *session);
size_t edgec_output_count(const edgec_session *session);
edgec_spec edgec_input(const edgec_session *session, size_t index);
edgec_spec edgec_output(const edgec_session *session, size_t index);

/* Run once, from any thread. inputs: an array for every input, in the model's order, read until this returns. */
edgec_status edgec_run(edgec_session *session, const edgec_array *inputs, size_t count, edgec_result **result);

/* An output, in the model's order; its memory lives as long as the result. */
edgec_array edgec_result_array(const edgec_result *result, size_t index);

/* Free the outputs of a run. */
void edgec_free(edgec_result *result);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif

#endif
