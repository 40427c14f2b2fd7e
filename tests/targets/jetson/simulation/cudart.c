// A CUDA runtime of host memory: the functions and signatures of cuda_runtime_api.h that running an engine takes.
// EDGEC_SIMULATED_GPU is "NAME:MAJOR.MINOR"; without it there is no GPU.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct { double milliseconds; } Event;

/* What edgec_simulated_spend added up: the clock of a device whose runs take what a test says. */
static double spent;
void edgec_simulated_spend(double milliseconds) { spent += milliseconds; }

static double now(void) {
    if (getenv("EDGEC_SIMULATED_SLOW") != NULL) return spent;
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

int cudaGetDeviceCount(int *count) {
    *count = getenv("EDGEC_SIMULATED_GPU") != NULL;
    return *count ? 0 : 100;
}
int cudaRuntimeGetVersion(int *version) { return *version = 12060, 0; }
int cudaGetDeviceProperties(void *properties, int device) {
    (void)device;
    char *name = properties;
    strcpy(name, getenv("EDGEC_SIMULATED_GPU"));
    *strrchr(name, ':') = 0;
    return 0;
}
int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    int major, minor;
    sscanf(strrchr(getenv("EDGEC_SIMULATED_GPU"), ':'), ":%d.%d", &major, &minor);
    *value = attribute == 75 ? major : minor;
    return attribute == 75 || attribute == 76 ? 0 : 1;
}
int cudaMalloc(void **pointer, size_t size) {
    const char *limit = getenv("EDGEC_SIMULATED_GPU_BYTES");
    if (limit && size > strtoull(limit, NULL, 10)) return 2;
    *pointer = malloc(size);
    return 0;
}
int cudaFree(void *pointer) { return free(pointer), 0; }
int cudaMemcpyAsync(void *target, const void *source, size_t size, int kind, void *stream) {
    (void)stream;
    if (kind != 1 && kind != 2) return 21;
    memcpy(target, source, size);
    return 0;
}
int cudaStreamCreate(void **stream) { return *stream = malloc(1), 0; }
int cudaStreamSynchronize(void *stream) { return stream == NULL; }
int cudaStreamDestroy(void *stream) { return free(stream), 0; }
int cudaEventCreate(void **event) { return *event = calloc(1, sizeof(Event)), 0; }
int cudaEventRecord(void *event, void *stream) { (void)stream; return ((Event *)event)->milliseconds = now(), 0; }
int cudaEventSynchronize(void *event) { return event == NULL; }
int cudaEventElapsedTime(float *milliseconds, void *start, void *stop) {
    *milliseconds = (float)(((Event *)stop)->milliseconds - ((Event *)start)->milliseconds);
    return 0;
}
int cudaEventDestroy(void *event) { return free(event), 0; }
const char *cudaGetErrorString(int status) {
    return status == 2 ? "out of memory" : status == 100 ? "no CUDA-capable device is detected" : "error";
}
