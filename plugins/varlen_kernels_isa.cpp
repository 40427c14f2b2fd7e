// Attention within sequences that lie end to end, for one instruction set; see token_kernels_isa.cpp.
//
// A task is one head of one sequence. Its keys are turned once, so that lanes run over keys in the first
// product, and its values lie in float32 rows, so that lanes run over channels in the second.

#include "varlen_kernels.h"
#include "vectors.h"

#define CONCAT_(a, b) a##b
#define CONCAT(a, b) CONCAT_(a, b)
#define ENTRY(name) CONCAT(CONCAT(edgec_, name##_), EDGEC_ISA)

namespace {

constexpr int64_t ROWS = W == 16 ? 6 : 3;  // queries at a time: rows of four vectors that fit the registers
constexpr int64_t LINE = 64;               // a row of keys is padded to this many
constexpr int64_t TILE = 16;               // keys turned at a time

inline int64_t rounded_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// e^x for x of at most 0, to about two of the last places; 0 below -87.
inline Vec power(Vec x) {
    constexpr float LOG2E = 1.44269504088896341f, MAGIC = 12582912.0f;  // 1.5 * 2^23 rounds to whole numbers
    const Vec floor = splat(-87.0f);
    const Int under = x < floor;
    const Vec y = (under ? floor : x) * LOG2E;
    const Vec whole = (y + MAGIC) - MAGIC;
    const Vec f = y - whole;
    Vec p = splat(1.5403530393381608e-4f);
    p = p * f + 1.3333558146428443e-3f;
    p = p * f + 9.618129107628477e-3f;
    p = p * f + 5.550410866482158e-2f;
    p = p * f + 2.402265069591007e-1f;
    p = p * f + 6.931471805599453e-1f;
    p = p * f + 1.0f;
    const Int exponent = (__builtin_convertvector(whole, Int) + 127) << 23;
    return under ? Vec{} : p * reinterpret_cast<Vec>(exponent);
}

struct Job {
    edgec_varlen_shape shape;
    const void *query, *key, *value;
    const int32_t* ends;
    void* output;
    edgec_scratch scratch;
};

struct Task {
    int64_t length, padded, depth, wide;  // wide: the depth rounded up to a vector
    float* keys;                          // (depth, padded)
    float* values;                        // (length, wide)
    float* queries;                       // (ROWS, depth), scaled
    float* weights;                       // (ROWS, padded)
    float* mixed;                         // (ROWS, wide)
};

template <int V>
inline void logits(const Task& t, int64_t begin) {
    Vec sum[ROWS][V];
    for (int64_t i = 0; i < ROWS; ++i)
        for (int v = 0; v < V; ++v) sum[i][v] = Vec{};
    for (int64_t k = 0; k < t.depth; ++k) {
        Vec key[V];
        for (int v = 0; v < V; ++v) key[v] = load(t.keys + k * t.padded + begin + v * W);
        for (int64_t i = 0; i < ROWS; ++i) {
            const Vec query = splat(t.queries[i * t.depth + k]);
            for (int v = 0; v < V; ++v) sum[i][v] += query * key[v];
        }
    }
    for (int64_t i = 0; i < ROWS; ++i)
        for (int v = 0; v < V; ++v) store(t.weights + i * t.padded + begin + v * W, sum[i][v]);
}

template <int V>
inline void mix(const Task& t, int64_t begin) {
    Vec sum[ROWS][V];
    for (int64_t i = 0; i < ROWS; ++i)
        for (int v = 0; v < V; ++v) sum[i][v] = Vec{};
    for (int64_t j = 0; j < t.length; ++j) {
        Vec value[V];
        for (int v = 0; v < V; ++v) value[v] = load(t.values + j * t.wide + begin + v * W);
        for (int64_t i = 0; i < ROWS; ++i) {
            const Vec weight = splat(t.weights[i * t.padded + j]);
            for (int v = 0; v < V; ++v) sum[i][v] += weight * value[v];
        }
    }
    for (int64_t i = 0; i < ROWS; ++i)
        for (int v = 0; v < V; ++v) store(t.mixed + i * t.wide + begin + v * W, sum[i][v]);
}

// Logits to weights, and their sum's inverse.
inline float normalise(float* row, int64_t length, int64_t padded) {
    for (int64_t j = length; j < padded; ++j) row[j] = -3.0e38f;
    Vec tops = load(row);
    for (int64_t j = W; j < padded; j += W) {
        const Vec here = load(row + j);
        tops = here > tops ? here : tops;
    }
    float top = tops[0];
    for (int lane = 1; lane < W; ++lane) top = tops[lane] > top ? tops[lane] : top;
    Vec sums = {};
    for (int64_t j = 0; j < padded; j += W) {
        const Vec weight = power(load(row + j) - top);
        store(row + j, weight);
        sums += weight;
    }
    float sum = 0.0f;
    for (int lane = 0; lane < W; ++lane) sum += sums[lane];
    return 1.0f / sum;
}

template <typename T>
void attend(const Job& job, int64_t sequence, int64_t head) {
    const int64_t begin = job.ends[sequence], stride = job.shape.heads * job.shape.depth;
    Task t;
    t.length = job.ends[sequence + 1] - begin;
    if (t.length <= 0) return;
    t.depth = job.shape.depth;
    t.padded = rounded_up(t.length, LINE);
    t.wide = rounded_up(t.depth, W);
    const int64_t floats = t.depth * t.padded + t.length * t.wide + ROWS * (rounded_up(t.depth, LINE) + t.padded + t.wide);
    t.keys = static_cast<float*>(job.scratch(floats * static_cast<int64_t>(sizeof(float))));
    t.weights = t.keys + t.depth * t.padded;
    t.values = t.weights + ROWS * t.padded;
    t.mixed = t.values + t.length * t.wide;
    t.queries = t.mixed + ROWS * t.wide;

    const int64_t offset = begin * stride + head * t.depth;
    const T* query = static_cast<const T*>(job.query) + offset;
    const T* key = static_cast<const T*>(job.key) + offset;
    const T* value = static_cast<const T*>(job.value) + offset;
    T* output = static_cast<T*>(job.output) + offset;
    const int64_t whole = t.depth / W * W;
    for (int64_t tile = 0; tile < t.length; tile += TILE) {
        const int64_t stop = tile + TILE < t.length ? tile + TILE : t.length;
        for (int64_t k = 0; k < t.depth; ++k)
            for (int64_t j = tile; j < stop; ++j) t.keys[k * t.padded + j] = number(key[j * stride + k]);
    }
    for (int64_t j = 0; j < t.length; ++j) {
        const T* row = value + j * stride;
        float* to = t.values + j * t.wide;
        int64_t k = 0;
        for (; k < whole; k += W) store(to + k, load(row + k));
        for (; k < t.depth; ++k) to[k] = number(row[k]);
        for (; k < t.wide; ++k) to[k] = 0.0f;
    }
    for (int64_t k = 0; k < t.depth; ++k)
        for (int64_t j = t.length; j < t.padded; ++j) t.keys[k * t.padded + j] = 0.0f;

    for (int64_t first = 0; first < t.length; first += ROWS) {
        const int64_t rows = t.length - first < ROWS ? t.length - first : ROWS;
        for (int64_t i = 0; i < ROWS; ++i)
            for (int64_t k = 0; k < t.depth; ++k)
                t.queries[i * t.depth + k] =
                    i < rows ? number(query[(first + i) * stride + k]) * job.shape.scale : 0.0f;
        for (int64_t j = 0; j < t.padded; j += 4 * W) logits<4>(t, j);
        float inverse[ROWS];
        for (int64_t i = 0; i < ROWS; ++i) inverse[i] = normalise(t.weights + i * t.padded, t.length, t.padded);
        int64_t d = 0;
        for (; d + 4 * W <= t.wide; d += 4 * W) mix<4>(t, d);
        for (; d + 2 * W <= t.wide; d += 2 * W) mix<2>(t, d);
        for (; d < t.wide; d += W) mix<1>(t, d);
        for (int64_t i = 0; i < rows; ++i) {
            T* to = output + (first + i) * stride;
            const float* from = t.mixed + i * t.wide;
            int64_t k = 0;
            for (; k < whole; k += W) store(to + k, load(from + k) * inverse[i]);
            for (; k < t.depth; ++k) put(to + k, from[k] * inverse[i]);
        }
    }
}

void run_task(int64_t index, void* data) {
    const Job& job = *static_cast<const Job*>(data);
    if (job.shape.half)
        attend<uint16_t>(job, index / job.shape.heads, index % job.shape.heads);
    else
        attend<float>(job, index / job.shape.heads, index % job.shape.heads);
}

}  // namespace

extern "C" void ENTRY(varlen_attention)(const edgec_varlen_shape* shape, const void* query, const void* key,
                                        const void* value, const int32_t* ends, void* output,
                                        edgec_parallel parallel, edgec_scratch scratch) {
    Job job{*shape, query, key, value, ends, output, scratch};
    const int64_t count = shape->sequences * shape->heads;
    if (parallel != nullptr && count > 1) {
        parallel(count, run_task, &job);
    } else {
        for (int64_t index = 0; index < count; ++index) run_task(index, &job);
    }
}
