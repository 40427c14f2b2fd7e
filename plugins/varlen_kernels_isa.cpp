// Attention within sequences that lie end to end, for one instruction set; see token_kernels_isa.cpp.
//
// FlashAttention's order (arXiv 2205.14135) turned for a CPU: lanes run over queries. A panel of queries is
// turned once, and the softmax's maxima and sums stay in their lanes: nothing is ever summed across a vector.
// Keys and values are broadcast, so they lie as they came, a tile of them at a time, in the first two caches.
// Memory beside the arrays is one tile and the panels of one task, whatever the length of a sequence.
//
// bf16 is widened as it is read. AVX-512's own product of bf16 pairs was tried: on a Sapphire Rapids it takes
// 1.8 times as long as fp32 (0.55 of the operations a second), and rounds the weights.

#include "varlen_kernels.h"
#include "vectors.h"

#define CONCAT_(a, b) a##b
#define CONCAT(a, b) CONCAT_(a, b)
#define ENTRY(name) CONCAT(CONCAT(edgec_, name##_), EDGEC_ISA)

namespace {

constexpr int V = 2;                    // vectors of queries in a panel
constexpr int64_t PANEL = V * W;        // queries in a panel
constexpr int64_t ROWS = W == 16 ? 8 : 6;  // rows of sums that the registers hold beside them
constexpr int64_t TILE = 120;           // most keys at a time: a multiple of both ROWS
constexpr int64_t PANELS = 32;          // most panels of one task
constexpr int64_t AHEAD = 8;            // rows between a copy and its prefetch
constexpr int64_t TASKS = 16;           // enough for the cores of a small processor
static_assert(TILE % ROWS == 0, "whole rows of keys");

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t divided_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

// 2^x for x of at most 0, to about two of the last places; 2^-125 below -125, which no sum with a largest weight
// of 1 can tell from 0. NaN stays NaN.
inline Vec power_of_two(Vec x) {
    constexpr float MAGIC = 12582912.0f;  // 1.5 * 2^23 rounds to whole numbers
    const Vec floor = splat(-125.0f);
    const Vec y = floor > x ? floor : x;
    const Vec shifted = y + MAGIC;
    const Vec f = y - (shifted - MAGIC);
    // Of degree 5, with the smallest largest relative error on [-1/2, 1/2] (1e-7).
    Vec p = splat(1.3264700537547469e-3f);
    p = p * f + 9.6715148538351059e-3f;
    p = p * f + 5.5507339537143707e-2f;
    p = p * f + 2.4022242426872253e-1f;
    p = p * f + 6.9314700365066528e-1f;
    p = p * f + 1.0f;
    // The low bits of `shifted` are the whole number: it goes into the exponent.
    return reinterpret_cast<Vec>(reinterpret_cast<Int>(p) + (reinterpret_cast<Int>(shifted) << 23));
}

// sums (R rows, PANEL) = sums * first + the product of `steps` rows of `lanes` (PANEL each) with R columns of
// `all`: element s of column r is at all[r * column + s * row]. Without `first` the sums begin at zero.
template <int64_t R>
inline void product(float* sums, const Vec* first, const float* lanes, const float* all, int64_t column,
                    int64_t row, int64_t steps) {
    Vec sum[R][V];
    for (int64_t r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) sum[r][v] = first == nullptr ? Vec{} : load(sums + r * PANEL + v * W) * first[v];
#pragma GCC unroll 4
    for (int64_t s = 0; s < steps; ++s) {
        for (int64_t r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v)
                sum[r][v] += load(lanes + s * PANEL + v * W) * splat(all[r * column + s * row]);
    }
    for (int64_t r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) store(sums + r * PANEL + v * W, sum[r][v]);
}

// All `count` rows of sums, in groups that the registers hold.
inline void products(float* sums, const Vec* first, const float* lanes, const float* all, int64_t count,
                     int64_t column, int64_t row, int64_t steps) {
    int64_t done = 0;
    for (; done + ROWS <= count; done += ROWS)
        product<ROWS>(sums + done * PANEL, first, lanes, all + done * column, column, row, steps);
    for (; done + 4 <= count; done += 4)
        product<4>(sums + done * PANEL, first, lanes, all + done * column, column, row, steps);
    for (; done < count; ++done)
        product<1>(sums + done * PANEL, first, lanes, all + done * column, column, row, steps);
}

struct Job {
    edgec_varlen_shape shape;
    const void *query, *key, *value;
    const int32_t *ends, *places;
    void* output;
    edgec_scratch scratch;
    int64_t parts;  // tasks of one head of one sequence
};

// What one task works in.
struct Work {
    int64_t depth;
    float* keys;     // (TILE, depth)
    float* values;   // (TILE, depth)
    float* queries;  // (panels, depth, PANEL)
    float* mixed;    // (panels, depth, PANEL)
    float* tops;     // (panels, PANEL): the largest logit so far
    float* totals;   // (panels, PANEL): the sum of weights so far
    float* logits;   // (TILE, PANEL), and the weights in their place
};

Work laid_out(const Job& job, int64_t panels) {
    Work w;
    w.depth = job.shape.depth;
    const auto whole = [](int64_t floats) { return divided_up(floats, 16) * 16; };  // each from a cache line on
    const int64_t tile = whole(TILE * w.depth), panel = whole(panels * w.depth * PANEL), rows = whole(panels * PANEL);
    const int64_t floats = 2 * (tile + panel + rows) + TILE * PANEL;
    w.keys = static_cast<float*>(job.scratch(floats * static_cast<int64_t>(sizeof(float))));
    w.values = w.keys + tile;
    w.queries = w.values + tile;
    w.mixed = w.queries + panel;
    w.tops = w.mixed + panel;
    w.totals = w.tops + rows;
    w.logits = w.totals + rows;
    return w;
}

// Rows lie far apart, where no prefetcher looks for them: `ahead` is a row that comes soon.
template <typename T>
inline void take_row(float* to, const T* from, const T* ahead, int64_t depth) {
    constexpr int64_t LINE = 64 / sizeof(T);
    for (int64_t k = 0; k < depth; k += LINE) __builtin_prefetch(ahead + k);
    int64_t k = 0;
    for (; k + W <= depth; k += W) store(to + k, load(from + k));
    for (; k < depth; ++k) to[k] = number(from[k]);
}
template <typename T>
void take_rows(float* to, const T* from, int64_t stride, int64_t count, int64_t depth) {
    for (int64_t j = 0; j < count; ++j)
        take_row(to + j * depth, from + j * stride, from + smaller(j + AHEAD, count - 1) * stride, depth);
}
template <typename T>
void take_queries(const Work& w, float* to, const T* query, int64_t stride, int64_t count) {
    for (int64_t v = 0; v < V; ++v) {
        const int64_t rows = count - v * W;
        const T* from = query + v * W * stride;
        int64_t k = 0;
        for (; rows >= W && k + W <= w.depth; k += W) {
            Vec block[W];
            for (int64_t i = 0; i < W; ++i) block[i] = load(from + i * stride + k);
            transpose(block);
            for (int64_t i = 0; i < W; ++i) store(to + (k + i) * PANEL + v * W, block[i]);
        }
        for (; k < w.depth; ++k)
            for (int64_t i = 0; i < W; ++i) to[k * PANEL + v * W + i] = i < rows ? number(from[i * stride + k]) : 0.0f;
    }
}

template <typename T>
void give_outputs(const Work& w, const float* mixed, const float* totals, T* output, int64_t stride, int64_t count) {
    for (int64_t v = 0; v < V && v * W < count; ++v) {
        const int64_t rows = smaller(W, count - v * W);
        const Vec inverse = splat(1.0f) / load(totals + v * W);
        T* to = output + v * W * stride;
        int64_t k = 0;
        for (; k + W <= w.depth; k += W) {
            Vec block[W];
            for (int64_t i = 0; i < W; ++i) block[i] = load(mixed + (k + i) * PANEL + v * W) * inverse;
            transpose(block);
            for (int64_t i = 0; i < rows; ++i) store(to + i * stride + k, block[i]);
        }
        for (; k < w.depth; ++k)
            for (int64_t i = 0; i < rows; ++i) put(to + i * stride + k, mixed[k * PANEL + v * W + i] * inverse[i]);
    }
}

constexpr float HIDDEN = -3.0e38f;

// What a window leaves of a tile of keys for a panel of queries.
enum class Seen { nothing, some, all };

inline Seen seen(const int32_t* queries, int64_t last_query, const int32_t* keys, int64_t last_key, int64_t window) {
    if (keys[last_key] < queries[0] - window || keys[0] > queries[last_query] + window) return Seen::nothing;
    const bool whole = keys[last_key] - queries[0] <= window && queries[last_query] - keys[0] <= window;
    return whole ? Seen::all : Seen::some;
}

// Logits of pairs outside the window: a tile may hide all keys from a query. Its weights are then 1, and worth
// 2^-125 as soon as a tile comes that does not; one does, for a query sees itself.
inline void hide(const Work& w, const int32_t* queries, int64_t last_query, const int32_t* keys, int64_t count,
                 int64_t window) {
    for (int v = 0; v < V; ++v) {
        Int place;
        for (int lane = 0; lane < W; ++lane) place[lane] = queries[smaller(v * W + lane, last_query)];
        const Int reach = splat(static_cast<int32_t>(window));
        for (int64_t j = 0; j < count; ++j) {
            float* at = w.logits + j * PANEL + v * W;
            const Int apart = place - keys[j];
            store(at, apart > reach || -apart > reach ? splat(HIDDEN) : load(at));
        }
    }
}

// A tile's logits to weights; returns in `shrink` what sums of earlier tiles are worth now.
inline void weigh(const Work& w, float* tops, float* totals, int64_t count, float scale, Vec (&shrink)[V]) {
    Vec top[V], base[V], sum[V];
    for (int v = 0; v < V; ++v) top[v] = load(tops + v * W);
    for (int64_t j = 0; j < count; ++j)
        for (int v = 0; v < V; ++v) {
            const Vec here = load(w.logits + j * PANEL + v * W);
            top[v] = here > top[v] ? here : top[v];
        }
    for (int v = 0; v < V; ++v) {
        shrink[v] = power_of_two((load(tops + v * W) - top[v]) * scale);
        store(tops + v * W, top[v]);
        base[v] = top[v] * scale;
        sum[v] = load(totals + v * W) * shrink[v];
    }
    for (int64_t j = 0; j < count; ++j)
        for (int v = 0; v < V; ++v) {
            float* at = w.logits + j * PANEL + v * W;
            const Vec weight = power_of_two(load(at) * scale - base[v]);
            store(at, weight);
            sum[v] += weight;
        }
    for (int v = 0; v < V; ++v) store(totals + v * W, sum[v]);
}

// One part of the queries of one head of one sequence.
template <typename T>
void attend(const Job& job, int64_t sequence, int64_t head, int64_t part) {
    const int64_t begin = job.ends[sequence], length = job.ends[sequence + 1] - begin;
    if (length <= 0) return;
    const int64_t all = divided_up(length, PANEL), each = divided_up(all, job.parts);
    const int64_t first = part * each * PANEL, panels = smaller(each, all - part * each);
    if (panels <= 0) return;
    const Work w = laid_out(job, panels);
    const int64_t stride = job.shape.heads * job.shape.depth, offset = begin * stride + head * job.shape.depth;
    const T* query = static_cast<const T*>(job.query) + offset + first * stride;
    const T* key = static_cast<const T*>(job.key) + offset;
    const T* value = static_cast<const T*>(job.value) + offset;
    T* output = static_cast<T*>(job.output) + offset + first * stride;
    constexpr float LOG2E = 1.44269504088896341f;
    const float scale = job.shape.scale * LOG2E;

    const int64_t rest = length - first;
    for (int64_t p = 0; p < panels; ++p)
        take_queries(w, w.queries + p * w.depth * PANEL, query + p * PANEL * stride, stride,
                     smaller(PANEL, rest - p * PANEL));
    for (int64_t i = 0; i < panels * PANEL; i += W) {
        store(w.tops + i, splat(HIDDEN));
        store(w.totals + i, Vec{});
    }
    const int32_t* places = job.places == nullptr ? nullptr : job.places + begin;
    bool begun[PANELS] = {};
    // Tiles of about one size, in whole rows.
    const int64_t step = divided_up(divided_up(length, divided_up(length, TILE)), ROWS) * ROWS;
    for (int64_t tile = 0; tile < length; tile += step) {
        const int64_t count = smaller(step, length - tile);
        if (places != nullptr && seen(places + first, smaller(panels * PANEL, rest) - 1, places + tile, count - 1,
                                      job.shape.window) == Seen::nothing)
            continue;
        take_rows(w.keys, key + tile * stride, stride, count, w.depth);
        take_rows(w.values, value + tile * stride, stride, count, w.depth);
        for (int64_t p = 0; p < panels; ++p) {
            const int64_t last = smaller(PANEL, rest - p * PANEL) - 1;
            const int32_t* mine = places == nullptr ? nullptr : places + first + p * PANEL;
            const Seen here = places == nullptr ? Seen::all : seen(mine, last, places + tile, count - 1, job.shape.window);
            if (here == Seen::nothing) continue;
            products(w.logits, nullptr, w.queries + p * w.depth * PANEL, w.keys, count, w.depth, 1, w.depth);
            if (here == Seen::some) hide(w, mine, last, places + tile, count, job.shape.window);
            Vec shrink[V];
            weigh(w, w.tops + p * PANEL, w.totals + p * PANEL, count, scale, shrink);
            products(w.mixed + p * w.depth * PANEL, begun[p] ? shrink : nullptr, w.logits, w.values, w.depth, 1,
                     w.depth, count);
            begun[p] = true;
        }
    }
    for (int64_t p = 0; p < panels; ++p)
        give_outputs(w, w.mixed + p * w.depth * PANEL, w.totals + p * PANEL, output + p * PANEL * stride, stride,
                     smaller(PANEL, rest - p * PANEL));
}

void run_task(int64_t index, void* data) {
    const Job& job = *static_cast<const Job*>(data);
    const int64_t part = index % job.parts, head = index / job.parts % job.shape.heads;
    const int64_t sequence = index / job.parts / job.shape.heads;
    if (job.shape.half)
        attend<uint16_t>(job, sequence, head, part);
    else
        attend<float>(job, sequence, head, part);
}

}  // namespace

extern "C" void ENTRY(varlen_attention)(const edgec_varlen_shape* shape, const void* query, const void* key,
                                        const void* value, const int32_t* ends, const int32_t* places,
                                        void* output, edgec_parallel parallel, edgec_scratch scratch) {
    Job job{*shape, query, key, value, ends, places, output, scratch, 1};
    int64_t longest = 0;
    for (int64_t s = 0; s < shape->sequences; ++s)
        longest = ends[s + 1] - ends[s] > longest ? ends[s + 1] - ends[s] : longest;
    const int64_t panels = divided_up(longest, PANEL), heads = shape->sequences * shape->heads;
    if (panels == 0 || heads == 0) return;
    // Small enough for the second cache, many enough to share; a part copies all keys, so two panels at least.
    const int64_t wanted = parallel == nullptr ? 1 : smaller(divided_up(TASKS, heads), divided_up(panels, 2));
    const int64_t needed = divided_up(panels, PANELS);
    job.parts = wanted > needed ? wanted : needed;
    const int64_t count = heads * job.parts;
    if (parallel != nullptr && count > 1) {
        parallel(count, run_task, &job);
    } else {
        for (int64_t index = 0; index < count; ++index) run_task(index, &job);
    }
}
