// Attention within sequences that lie end to end: the order of the work, whatever makes the products.
//
// FlashAttention's order (arXiv 2205.14135) turned for a CPU: lanes run over queries. A panel of queries is
// turned once, and the softmax's maxima and sums stay in their lanes: nothing is ever summed across a vector.
// Keys and values are taken a tile of them at a time into the first two caches. Memory beside the arrays is one
// tile and the panels of one task, whatever the length of a sequence.
//
// A struct of products P says:
//   Element, Number          what the arrays hold, and what the products take
//   V, TILE, ROWS, TOGETHER  vectors of queries in a panel, most keys at a time, tiles are multiples of ROWS keys,
//                            weights are given TOGETHER keys at a time
//   padded(depth)            the depth as the products take it
//   Session                  held while a task runs
//   take_queries, take_keys, take_values, logits, weight, give_weights, end_weights, mix
#ifndef EDGEC_VARLEN_ATTENTION_H
#define EDGEC_VARLEN_ATTENTION_H

#include <stddef.h>

#include "kernel.h"
#include "vectors.h"

namespace {

constexpr int64_t PANELS = 32;  // most panels of one task
constexpr int64_t AHEAD = 8;    // rows between a copy and its prefetch
constexpr int64_t TASKS = 16;   // enough for the cores of a small processor

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t divided_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

// Polynomials of 2^x on [-1/2, 1/2], the highest power first, with the smallest largest relative error: of degree 5
// (1e-7, and exactly 1 at 0), and of degree 3 (7.5e-5, a hundredth of a unit of bf16).
constexpr float EXACT[] = {1.3264700537547469e-3f, 9.6715148538351059e-3f, 5.5507339537143707e-2f,
                           2.4022242426872253e-1f, 6.9314700365066528e-1f, 1.0f};
constexpr float COARSE[] = {5.5171670307319634e-2f, 2.4261112521031974e-1f, 6.9326098527971650e-1f,
                            9.9992807298230650e-1f};

// 2^x for x of at most 0; 2^-125 below -125, which no sum with a largest weight of 1 can tell from 0. NaN stays NaN.
template <int N>
inline Vec power_of_two(Vec x, const float (&polynomial)[N]) {
    constexpr float MAGIC = 12582912.0f;  // 1.5 * 2^23 rounds to whole numbers
    const Vec floor = splat(-125.0f);
    const Vec y = floor > x ? floor : x;
    const Vec shifted = y + MAGIC;
    const Vec f = y - (shifted - MAGIC);
    Vec p = splat(polynomial[0]);
    for (int power = 1; power < N; ++power) p = p * f + polynomial[power];
    // The low bits of `shifted` are the whole number: it goes into the exponent.
    return reinterpret_cast<Vec>(reinterpret_cast<Bits>(p) + (reinterpret_cast<Bits>(shifted) << 23));
}

// Rows lie far apart, where no prefetcher looks for them: `ahead` is a row that comes soon.
template <typename T>
inline void prefetch_row(const T* ahead, int64_t depth) {
    constexpr int64_t LINE = 64 / sizeof(T);
    for (int64_t k = 0; k < depth; k += LINE) __builtin_prefetch(ahead + k);
}

struct Sizes {
    int64_t sequences, heads, depth;  // query (tokens, heads, depth); ends has sequences + 1 entries
    float scale;                      // of the logits
    int64_t window;                   // with places: tokens whose places differ by more do not see each other
};

struct Job {
    Sizes shape;
    const void *query, *key, *value;
    const int32_t *ends, *places;
    void* output;
    edgec_scratch scratch;
    int64_t parts;  // tasks of one head of one sequence
};

template <typename P>
constexpr int64_t PANEL = P::V * W;  // queries in a panel

// What one task works in.
template <typename P>
struct Work {
    int64_t depth;
    typename P::Number* keys;     // (TILE, padded depth)
    typename P::Number* values;   // (TILE, padded depth), in an order of its own
    typename P::Number* queries;  // (panels, padded depth, PANEL), in an order of its own
    float* mixed;                 // (panels, padded depth, PANEL)
    float* tops;                  // (panels, PANEL): the largest logit so far
    float* totals;                // (panels, PANEL): the sum of weights so far
    float* logits;                // (TILE, PANEL), and the weights in their place
};

template <typename P>
Work<P> laid_out(const Job& job, int64_t panels) {
    using Number = typename P::Number;
    Work<P> w;
    w.depth = job.shape.depth;
    const int64_t depth = P::padded(w.depth);
    const auto whole = [](int64_t numbers, int64_t size) { return divided_up(numbers * size, 64) * 64; };
    const int64_t tile = whole(P::TILE * depth, sizeof(Number));
    const int64_t panel = whole(panels * depth * PANEL<P>, sizeof(Number));
    const int64_t sums = whole(panels * depth * PANEL<P>, sizeof(float));
    const int64_t rows = whole(panels * PANEL<P>, sizeof(float));
    char* at = static_cast<char*>(job.scratch(2 * tile + panel + sums + 2 * rows + P::TILE * PANEL<P> * 4));
    const auto next = [&at](int64_t bytes) {
        char* const here = at;
        at += bytes;
        return static_cast<void*>(here);
    };
    w.keys = static_cast<Number*>(next(tile));
    w.values = static_cast<Number*>(next(tile));
    w.queries = static_cast<Number*>(next(panel));
    w.mixed = static_cast<float*>(next(sums));
    w.tops = static_cast<float*>(next(rows));
    w.totals = static_cast<float*>(next(rows));
    w.logits = static_cast<float*>(next(0));
    return w;
}

template <typename P>
void give_outputs(const float* mixed, const float* totals, typename P::Element* output, int64_t stride,
                  int64_t count, int64_t depth) {
    for (int64_t v = 0; v < P::V && v * W < count; ++v) {
        const int64_t rows = smaller(W, count - v * W);
        const Vec inverse = splat(1.0f) / load(totals + v * W);
        typename P::Element* to = output + v * W * stride;
        int64_t k = 0;
        for (; k + W <= depth; k += W) {
            Vec block[W];
            for (int64_t i = 0; i < W; ++i) block[i] = load(mixed + (k + i) * PANEL<P> + v * W) * inverse;
            transpose(block);
            for (int64_t i = 0; i < rows; ++i) store(to + i * stride + k, block[i]);
        }
        for (; k < depth; ++k)
            for (int64_t i = 0; i < rows; ++i) put(to + i * stride + k, mixed[k * PANEL<P> + v * W + i] * inverse[i]);
    }
}

// A logit that nothing else reaches, and that is finite still when it is scaled.
inline float hidden(float scale) { return -3.0e38f / (scale > 1.0f ? scale : 1.0f); }

// What a window leaves of a tile of keys for a panel of queries.
enum class Seen { nothing, some, all };

inline Seen seen(const int32_t* queries, int64_t last_query, const int32_t* keys, int64_t last_key, int64_t window) {
    const int64_t first_query = queries[0], first_key = keys[0];
    if (keys[last_key] < first_query - window || first_key > queries[last_query] + window) return Seen::nothing;
    const bool whole = keys[last_key] - first_query <= window && queries[last_query] - first_key <= window;
    return whole ? Seen::all : Seen::some;
}

// Logits of pairs outside the window: a tile may hide all keys from a query. Its weights are then 1, and worth
// 2^-125 as soon as a tile comes that does not; one does, for a query sees itself.
template <typename P>
inline void hide(float* logits, const int32_t* queries, int64_t last_query, const int32_t* keys, int64_t count,
                 int64_t window, float hidden) {
    for (int v = 0; v < P::V; ++v) {
        Int place;
        for (int lane = 0; lane < W; ++lane) place[lane] = queries[smaller(v * W + lane, last_query)];
        const Int reach = splat(static_cast<int32_t>(window));
        for (int64_t j = 0; j < count; ++j) {
            float* at = logits + j * PANEL<P> + v * W;
            // Differences wrap, as the definition's do.
            const Bits key = reinterpret_cast<Bits>(splat(keys[j])), mine = reinterpret_cast<Bits>(place);
            const Int behind = reinterpret_cast<Int>(mine - key), before = reinterpret_cast<Int>(key - mine);
            store(at, behind > reach || before > reach ? splat(hidden) : load(at));
        }
    }
}

// A tile's logits to weights; returns in `shrink` what sums of earlier tiles are worth now.
template <typename P>
inline void weigh(float* logits, float* tops, float* totals, int64_t count, float scale, Vec (&shrink)[P::V]) {
    Vec top[P::V], base[P::V], sum[P::V];
    for (int v = 0; v < P::V; ++v) top[v] = load(tops + v * W);
    for (int64_t j = 0; j < count; ++j)
        for (int v = 0; v < P::V; ++v) {
            const Vec here = load(logits + j * PANEL<P> + v * W);
            top[v] = here > top[v] ? here : top[v];
        }
    for (int v = 0; v < P::V; ++v) {
        shrink[v] = power_of_two((load(tops + v * W) - top[v]) * scale, EXACT);
        store(tops + v * W, top[v]);
        base[v] = top[v] * scale;
        sum[v] = load(totals + v * W) * shrink[v];
    }
    const int64_t whole = count - count % P::TOGETHER;
    for (int64_t j = 0; j < whole; j += P::TOGETHER)
        for (int v = 0; v < P::V; ++v) {
            Vec weight[P::TOGETHER];
            for (int t = 0; t < P::TOGETHER; ++t) {
                weight[t] = P::weight(load(logits + (j + t) * PANEL<P> + v * W) * scale - base[v]);
                sum[v] += weight[t];
            }
            P::give_weights(logits, j, v, weight);
        }
    for (int v = 0; v < P::V && whole < count; ++v) {
        Vec weight[P::TOGETHER] = {};
        for (int64_t t = 0; t < count - whole; ++t) {
            weight[t] = P::weight(load(logits + (whole + t) * PANEL<P> + v * W) * scale - base[v]);
            sum[v] += weight[t];
        }
        P::give_weights(logits, whole, v, weight);
    }
    P::end_weights(logits, count);
    for (int v = 0; v < P::V; ++v) store(totals + v * W, sum[v]);
}

// One part of the queries of one head of one sequence.
template <typename P>
void attend(const Job& job, int64_t sequence, int64_t head, int64_t part) {
    using T = typename P::Element;
    const int64_t begin = job.ends[sequence], length = job.ends[sequence + 1] - begin;
    if (length <= 0) return;
    const int64_t all = divided_up(length, PANEL<P>), each = divided_up(all, job.parts);
    const int64_t first = part * each * PANEL<P>, panels = smaller(each, all - part * each);
    if (panels <= 0) return;
    const typename P::Session session;
    const Work<P> w = laid_out<P>(job, panels);
    const int64_t stride = job.shape.heads * w.depth, offset = begin * stride + head * w.depth;
    const T* query = static_cast<const T*>(job.query) + offset + first * stride;
    const T* key = static_cast<const T*>(job.key) + offset;
    const T* value = static_cast<const T*>(job.value) + offset;
    T* output = static_cast<T*>(job.output) + offset + first * stride;
    constexpr float LOG2E = 1.44269504088896341f;
    const float scale = job.shape.scale * LOG2E;

    const int64_t rest = length - first, panel = P::padded(w.depth) * PANEL<P>;
    for (int64_t p = 0; p < panels; ++p)
        P::take_queries(w.queries + p * panel, query + p * PANEL<P> * stride, stride,
                        smaller(PANEL<P>, rest - p * PANEL<P>), w.depth);
    for (int64_t i = 0; i < panels * PANEL<P>; i += W) {
        store(w.tops + i, splat(hidden(scale)));
        store(w.totals + i, Vec{});
    }
    const int32_t* places = job.places == nullptr ? nullptr : job.places + begin;
    bool begun[PANELS] = {};
    // Tiles of about one size, in whole rows.
    const int64_t step = divided_up(divided_up(length, divided_up(length, P::TILE)), P::ROWS) * P::ROWS;
    for (int64_t tile = 0; tile < length; tile += step) {
        const int64_t count = smaller(step, length - tile);
        if (places != nullptr && seen(places + first, smaller(panels * PANEL<P>, rest) - 1, places + tile, count - 1,
                                      job.shape.window) == Seen::nothing)
            continue;
        P::take_keys(w.keys, key + tile * stride, stride, count, w.depth);
        P::take_values(w.values, value + tile * stride, stride, count, w.depth);
        for (int64_t p = 0; p < panels; ++p) {
            const int64_t last = smaller(PANEL<P>, rest - p * PANEL<P>) - 1;
            const int32_t* mine = places == nullptr ? nullptr : places + first + p * PANEL<P>;
            const Seen here =
                places == nullptr ? Seen::all : seen(mine, last, places + tile, count - 1, job.shape.window);
            if (here == Seen::nothing) continue;
            P::logits(w.logits, w.queries + p * panel, w.keys, count, w.depth);
            if (here == Seen::some)
                hide<P>(w.logits, mine, last, places + tile, count, job.shape.window, hidden(scale));
            Vec shrink[P::V];
            weigh<P>(w.logits, w.tops + p * PANEL<P>, w.totals + p * PANEL<P>, count, scale, shrink);
            P::mix(w.mixed + p * panel, begun[p] ? shrink : nullptr, w.logits, w.values, count, w.depth);
            begun[p] = true;
        }
    }
    for (int64_t p = 0; p < panels; ++p)
        give_outputs<P>(w.mixed + p * panel, w.totals + p * PANEL<P>, output + p * PANEL<P> * stride, stride,
                        smaller(PANEL<P>, rest - p * PANEL<P>), w.depth);
}

template <typename P>
void run_task(int64_t index, void* data) {
    const Job& job = *static_cast<const Job*>(data);
    const int64_t part = index % job.parts, head = index / job.parts % job.shape.heads;
    attend<P>(job, index / job.parts / job.shape.heads, head, part);
}

// All of a call, cut into tasks.
template <typename P>
void attend_all(Job& job, edgec_parallel parallel) {
    int64_t longest = 0;
    for (int64_t s = 0; s < job.shape.sequences; ++s)
        longest = job.ends[s + 1] - job.ends[s] > longest ? job.ends[s + 1] - job.ends[s] : longest;
    const int64_t panels = divided_up(longest, PANEL<P>), heads = job.shape.sequences * job.shape.heads;
    if (panels == 0 || heads == 0) return;
    // Small enough for the second cache, many enough to share; a part copies all keys, so two panels at least.
    const int64_t wanted = parallel == nullptr ? 1 : smaller(divided_up(TASKS, heads), divided_up(panels, 2));
    const int64_t needed = divided_up(panels, PANELS);
    job.parts = wanted > needed ? wanted : needed;
    const int64_t count = heads * job.parts;
    if (parallel != nullptr && count > 1) {
        parallel(count, run_task<P>, &job, 1);
    } else {
        for (int64_t index = 0; index < count; ++index) run_task<P>(index, &job);
    }
}

// Whether sequences lie end to end and fill all tokens.
inline bool fill(const int32_t* ends, int64_t sequences, int64_t tokens) {
    if (sequences < 0 || ends[0] != 0 || ends[sequences] != tokens) return false;
    for (int64_t s = 0; s < sequences; ++s)
        if (ends[s] > ends[s + 1]) return false;
    return true;
}

// All of a call; a fifth input has the places.
template <typename P>
int attend_call(const edgec_cpu_call& call, bool windowed) {
    const edgec_tensor &query = call.inputs[0], &ends = call.inputs[3];
    const int64_t depth = query.sizes[2], window = windowed ? attribute(call, "window").integer : 0;
    if (!fill(static_cast<const int32_t*>(ends.data), ends.sizes[0] - 1, query.sizes[0])) return EDGEC_REFUSED;
    const float given = static_cast<float>(attribute(call, "scale").number);
    Job job{{ends.sizes[0] - 1, query.sizes[1], depth,
             given > 0.0f ? given : 1.0f / __builtin_sqrtf(static_cast<float>(depth)),
             smaller(window, INT32_MAX)},
            query.data,
            call.inputs[1].data,
            call.inputs[2].data,
            static_cast<const int32_t*>(ends.data),
            windowed ? static_cast<const int32_t*>(call.inputs[4].data) : nullptr,
            call.outputs[0].data,
            call.scratch,
            1};
    attend_all<P>(job, call.parallel);
    return EDGEC_DONE;
}

}  // namespace

#endif
