// TokenMerge, TokenMergeEnergy and TokenPrune for one instruction set. The build compiles this file once per set,
// with -DEDGEC_ISA=<name> and the set's -m flags.
//
// Tokens, metric and merged tokens are float32 or bf16; everything is computed in float32 all the same.
//
// Lanes run over the tokens that look for a partner, so that the best match of each is a running
// maximum in its own lane: no horizontal reduction, and a strict comparison keeps the lowest index.
// Nothing from the C++ library is used here: an inline function of it, compiled for AVX-512, could be the
// copy that the linker keeps for everyone.

#include "kernel.h"
#include "vectors.h"

namespace {

constexpr int64_t PAD = 16;       // the widest vector: one layout for all instruction sets
constexpr float BOUND = 1.0e15f;  // metrics are clipped here, as in the definition
constexpr float TINY = 1.0e-30f;

// Below this many floats moved or multiplied, waking another thread costs more than it brings.
constexpr int64_t WORTH_A_THREAD = 1 << 20;

inline int64_t padded(int64_t n) { return (n + PAD - 1) / PAD * PAD; }
inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

struct Sizes {
    int64_t batch, length, channels;  // tokens (batch, length, channels)
    int64_t heads, depth;             // metric (batch, heads, length, depth)
    int64_t r;                        // tokens to take away
    int64_t guarded;                  // leading tokens that stay as they are
};

// What one sample needs besides its inputs and outputs.
struct Scratch {
    float* keys;      // (free, depth)
    float* inverse;   // (padded free): 1 / norm
    float* columns;   // (depth, padded free): keys of the seeking tokens, transposed
    float* scale;     // (padded free): 1 / norm of the seeking tokens
    float* best;      // (padded free)
    float* ranked;    // (padded free)
    int32_t* partner; // (padded free)
    int32_t* rank;    // (padded free)
    int32_t* seekers; // (padded free): free tokens that look for a partner
    int32_t* hosts;   // (padded free): free tokens that can be one
    int32_t* target;  // (padded free): of each free token, the free token it merges into, or -1
    int32_t* head;    // (length): first member of each output slot
    int32_t* next;    // (length): the next member of the same slot, or -1
};

constexpr int64_t ARRAYS = 10;

inline int64_t sample_floats(const Sizes& s) {
    const int64_t width = padded(s.length);
    return padded(s.length * s.depth) + s.depth * width + (ARRAYS + 1) * width;
}

Scratch scratch_of(const Sizes& s, void* workspace, int64_t sample) {
    const int64_t width = padded(s.length);
    float* p = static_cast<float*>(workspace) + sample * sample_floats(s);
    Scratch x;
    x.keys = p, p += padded(s.length * s.depth);
    x.columns = p, p += s.depth * width;
    x.inverse = p, p += width;
    x.scale = p, p += width;
    x.best = p, p += width;
    x.ranked = p, p += width;
    int32_t* q = reinterpret_cast<int32_t*>(p);
    x.partner = q, q += width;
    x.rank = q, q += width;
    x.seekers = q, q += width;
    x.hosts = q, q += width;
    x.target = q, q += width;
    x.head = q, q += width;
    x.next = q;
    return x;
}

struct Job {
    Sizes shape;
    bool half;                    // tokens, metric and merged are bf16
    const void *tokens, *metric;
    const float* sizes;
    void* merged;  // as the tokens
    float* merged_sizes;
    int32_t* assignment;
    void* workspace;
    edgec_parallel parallel;  // NULL where the calling thread does it all
    int64_t parts;            // tasks a sample
    int64_t seeking, hosting;
    bool drop;                // the removed tokens have no weight
    float margin;
};

// Keys: the metric of free tokens begin … end - 1 summed over heads, and their inverse norms. Padding has none.
template <typename T>
void sum_keys(const Job& job, const Scratch& x, int64_t sample, int64_t begin, int64_t end) {
    const auto& s = job.shape;
    const int64_t wide = s.depth / W * W;
    const Vec bound = splat(BOUND);
    for (int64_t i = begin; i < end; ++i) {
        float* key = x.keys + i * s.depth;
        if (!(job.sizes[sample * s.length + s.guarded + i] > 0.0f)) {
            for (int64_t k = 0; k < s.depth; ++k) key[k] = 0.0f;
            x.inverse[i] = 1.0f / __builtin_sqrtf(TINY);
            continue;
        }
        const T* first = static_cast<const T*>(job.metric) + (sample * s.heads * s.length + s.guarded + i) * s.depth;
        const int64_t stride = s.length * s.depth;
        Vec squares = {};
        for (int64_t k = 0; k < wide; k += W) {
            Vec sum = {};
            for (int64_t h = 0; h < s.heads; ++h) {
                Vec v = load(first + h * stride + k);
                v = v == v ? v : Vec{};
                v = v > bound ? bound : v;
                v = v < -bound ? -bound : v;
                sum += v;
            }
            store(key + k, sum);
            squares += sum * sum;
        }
        float square = 0.0f;
        for (int lane = 0; lane < W; ++lane) square += squares[lane];
        for (int64_t k = wide; k < s.depth; ++k) {
            float sum = 0.0f;
            for (int64_t h = 0; h < s.heads; ++h) {
                float v = number(first[h * stride + k]);
                v = v == v ? v : 0.0f;
                v = v > BOUND ? BOUND : v;
                v = v < -BOUND ? -BOUND : v;
                sum += v;
            }
            key[k] = sum;
            square += sum * sum;
        }
        x.inverse[i] = 1.0f / __builtin_sqrtf(square > TINY ? square : TINY);
    }
}

// Keys of the seekers begin … end - 1 as columns; the padding beyond them repeats zeros.
void pack_columns(const Job& job, const Scratch& x, int64_t begin, int64_t end) {
    const int64_t width = padded(job.shape.length), depth = job.shape.depth;
    const int64_t filled = smaller(end, job.seeking);
    constexpr int64_t TILE = 16;
    for (int64_t c = begin; c < filled; c += TILE) {
        const int64_t stop = smaller(c + TILE, filled);
        for (int64_t k = 0; k < depth; ++k) {
            float* column = x.columns + k * width;
            for (int64_t i = c; i < stop; ++i) column[i] = x.keys[x.seekers[i] * depth + k];
        }
    }
    for (int64_t i = begin; i < filled; ++i) x.scale[i] = x.inverse[x.seekers[i]];
    for (int64_t i = filled > begin ? filled : begin; i < end; ++i) {
        for (int64_t k = 0; k < depth; ++k) x.columns[k * width + i] = 0.0f;
        x.scale[i] = 0.0f;
    }
}

// Keeps the compiler from fusing a product with the sum it goes into, where the definition rounds both.
inline Vec rounded(Vec v) {
    __asm__("" : "+x"(v));
    return v;
}

constexpr float ENERGY_UNIT = 65536.0f;

// One token's pull on another in units, a whole number below 2^24: x above 0, x / (1 + |x|) below.
inline Int pull(Vec cosine, float margin) {
    const Vec x = cosine - margin;
    const Vec bent = x / ((x > Vec{} ? x : -x) + 1.0f);
    const Vec units = rounded((x > Vec{} ? x : bent) * ENERGY_UNIT);
    constexpr float MAGIC = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number, half to even
    return __builtin_convertvector((units + MAGIC) - MAGIC, Int);
}

// A sum that wraps, as the definition's does: a margin that is no number has pulls of any size.
inline Int wrapped(Int a, Int b) { return reinterpret_cast<Int>(reinterpret_cast<Bits>(a) + reinterpret_cast<Bits>(b)); }

// Dot products of V vectors of seekers with J hosts at a time.
template <int V, int J>
inline void products(const float* column, int64_t width, const float* const* host, int64_t depth,
                     Vec (&sum)[J][V]) {
    for (int j = 0; j < J; ++j)
        for (int v = 0; v < V; ++v) sum[j][v] = Vec{};
    for (int64_t k = 0; k < depth; ++k) {
        Vec a[V];
        for (int v = 0; v < V; ++v) a[v] = load(column + k * width + v * W);
        for (int j = 0; j < J; ++j) {
            const Vec b = splat(host[j][k]);
            for (int v = 0; v < V; ++v) sum[j][v] += a[v] * b;
        }
    }
}

enum class Want { Partner, Energy };

template <int V, int J, Want want>
inline void hosts_step(const Job& job, const Scratch& x, int64_t c, int64_t j0, Vec (&best)[V],
                       Int (&partner)[V]) {
    const int64_t width = padded(job.shape.length), depth = job.shape.depth;
    const float* host[J];
    for (int j = 0; j < J; ++j) host[j] = x.keys + x.hosts[j0 + j] * depth;
    Vec sum[J][V];
    products<V, J>(x.columns + c, width, host, depth, sum);
    for (int j = 0; j < J; ++j) {
        const Vec scale = splat(x.inverse[x.hosts[j0 + j]]);
        for (int v = 0; v < V; ++v) {
            const Vec alike = sum[j][v] * scale;
            if constexpr (want == Want::Partner) {
                const Int better = alike > best[v];
                best[v] = better ? alike : best[v];
                partner[v] = better ? splat(x.hosts[j0 + j]) : partner[v];
            } else {
                partner[v] = wrapped(partner[v], pull(rounded(alike * load(x.scale + c + v * W)), job.margin));
            }
        }
    }
}

template <int V, Want want>
inline void columns_step(const Job& job, const Scratch& x, int64_t c) {
    Vec best[V];
    Int partner[V];
    for (int v = 0; v < V; ++v) {
        best[v] = splat(-__builtin_huge_valf());
        partner[v] = splat(static_cast<int32_t>(0));
    }
    int64_t j = 0;
    constexpr int J = V >= 4 ? 5 : V >= 2 ? 8 : 12;  // about twenty sums fit the 32 registers of AVX-512
    constexpr int STEP = W == 16 ? J : 2;
    for (; j + STEP <= job.hosting; j += STEP) hosts_step<V, STEP, want>(job, x, c, j, best, partner);
    for (; j < job.hosting; ++j) hosts_step<V, 1, want>(job, x, c, j, best, partner);
    for (int v = 0; v < V; ++v) {
        if constexpr (want == Want::Partner) store(x.best + c + v * W, best[v]);
        store(x.partner + c + v * W, partner[v]);
    }
}

// For seekers begin … end - 1 (both multiples of PAD): the likeness to their best host and which it is, or
// their energy in place of the partner.
template <Want want>
void match(const Job& job, const Scratch& x, int64_t begin, int64_t end) {
    int64_t c = begin;
    for (; c + 4 * W <= end; c += 4 * W) columns_step<4, want>(job, x, c);
    for (; c + 2 * W <= end; c += 2 * W) columns_step<2, want>(job, x, c);
    for (; c + W <= end; c += W) columns_step<1, want>(job, x, c);
}

// Ranks: highest first, the lower index first among equals. `values` has room up to a multiple of PAD.
template <typename V, typename S>
void rank_all(const S* values, int32_t* rank, int64_t count) {
    for (int64_t c = 0; c < count; c += W) {
        const V mine = load(values + c);
        Int index;
        for (int lane = 0; lane < W; ++lane) index[lane] = static_cast<int32_t>(c) + lane;
        Int ahead = {};
        for (int64_t j = 0; j < count; ++j) {
            const V other = splat(values[j]);
            const Int first = splat(static_cast<int32_t>(j)) < index;
            ahead -= (other > mine) | ((other == mine) & first);
        }
        store(rank + c, ahead);
    }
}

// Assignment, sizes, and the members of each output slot, in the order of their indices.
void place(const Job& job, const Scratch& x, int64_t sample) {
    const auto& s = job.shape;
    int32_t* assignment = job.assignment + sample * s.length;
    const int64_t kept = s.length - s.r, free_count = s.length - s.guarded;
    int32_t slot = 0;
    for (; slot < s.guarded; ++slot) assignment[slot] = slot;
    for (int64_t i = 0; i < free_count; ++i)
        if (x.target[i] < 0) assignment[s.guarded + i] = slot++;
    for (int64_t i = 0; i < free_count; ++i)
        if (x.target[i] >= 0) assignment[s.guarded + i] = assignment[s.guarded + x.target[i]];
    for (int64_t m = 0; m < kept; ++m) x.head[m] = -1;
    const float* sizes = job.sizes + sample * s.length;
    float* mass = job.merged_sizes + sample * kept;
    for (int64_t m = 0; m < kept; ++m) mass[m] = 0.0f;
    for (int64_t i = s.length - 1; i >= 0; --i) {
        if (job.drop && i >= s.guarded && x.target[i - s.guarded] >= 0) continue;
        const int32_t m = assignment[i];
        x.next[i] = x.head[m];
        x.head[m] = static_cast<int32_t>(i);
        mass[m] += sizes[i];
    }
}

// Output rows begin … end - 1.
template <typename T>
void average(const Job& job, const Scratch& x, int64_t sample, int64_t begin, int64_t end) {
    const auto& s = job.shape;
    const int64_t kept = s.length - s.r, channels = s.channels, wide = channels / W * W;
    const T* tokens = static_cast<const T*>(job.tokens) + sample * s.length * channels;
    const float* sizes = job.sizes + sample * s.length;
    const float* mass = job.merged_sizes + sample * kept;
    for (int64_t m = begin; m < end; ++m) {
        T* out = static_cast<T*>(job.merged) + (sample * kept + m) * channels;
        const int64_t first = x.head[m], second = x.next[first];
        const T* row = tokens + first * channels;
        if (second < 0 && sizes[first] > 0.0f) {
            __builtin_memcpy(out, row, static_cast<uint64_t>(channels) * sizeof(T));
            continue;
        }
        const float weight = sizes[first], scale = 1.0f / (mass[m] > TINY ? mass[m] : TINY);
        if (second >= 0 && x.next[second] < 0) {
            const T* other = tokens + second * channels;
            const float mine = weight * scale, theirs = sizes[second] * scale;
            int64_t k = 0;
            for (; k < wide; k += W) store(out + k, load(row + k) * mine + load(other + k) * theirs);
            for (; k < channels; ++k) put(out + k, number(row[k]) * mine + number(other[k]) * theirs);
            continue;
        }
        int64_t k = 0;
        for (; k < wide; k += W) {
            Vec sum = load(row + k) * weight;
            for (int64_t i = second; i >= 0; i = x.next[i]) sum += load(tokens + i * channels + k) * sizes[i];
            store(out + k, sum * scale);
        }
        for (; k < channels; ++k) {
            float sum = number(row[k]) * weight;
            for (int64_t i = second; i >= 0; i = x.next[i]) sum += number(tokens[i * channels + k]) * sizes[i];
            put(out + k, sum * scale);
        }
    }
}

typedef void (*Phase)(const Job& job, const Scratch& x, int64_t sample, int64_t part);

struct Run {
    const Job* job;
    Phase phase;
};

void run_task(int64_t index, void* data) {
    const Run& run = *static_cast<Run*>(data);
    const int64_t sample = index / run.job->parts;
    run.phase(*run.job, scratch_of(run.job->shape, run.job->workspace, sample), sample, index % run.job->parts);
}

// Runs a phase on all parts of all samples.
void each(const Job& job, Phase phase) {
    Run run{&job, phase};
    const int64_t count = job.shape.batch * job.parts;
    if (job.parallel != nullptr && count > 1) {
        job.parallel(count, run_task, &run, 0);
    } else {
        for (int64_t index = 0; index < count; ++index) run_task(index, &run);
    }
}

// Runs a phase once a sample.
void each_sample(Job job, Phase phase) {
    job.parts = 1;
    each(job, phase);
}

struct Span {
    int64_t begin, end;
};

// Part `part` of `parts` of 0 … count - 1, cut at multiples of `grain`.
inline Span cut(int64_t count, int64_t parts, int64_t part, int64_t grain) {
    const int64_t grains = (count + grain - 1) / grain;
    return {smaller(grains * part / parts * grain, count), smaller(grains * (part + 1) / parts * grain, count)};
}

void keys_phase(const Job& job, const Scratch& x, int64_t sample, int64_t part) {
    const Span span = cut(job.shape.length - job.shape.guarded, job.parts, part, 1);
    if (job.half)
        sum_keys<uint16_t>(job, x, sample, span.begin, span.end);
    else
        sum_keys<float>(job, x, sample, span.begin, span.end);
}

template <Want want>
void match_phase(const Job& job, const Scratch& x, int64_t, int64_t part) {
    const Span span = cut(padded(job.seeking), job.parts, part, PAD);
    pack_columns(job, x, span.begin, span.end);
    match<want>(job, x, span.begin, span.end);
}

void average_phase(const Job& job, const Scratch& x, int64_t sample, int64_t part) {
    const Span span = cut(job.shape.length - job.shape.r, job.parts, part, 1);
    if (job.half)
        average<uint16_t>(job, x, sample, span.begin, span.end);
    else
        average<float>(job, x, sample, span.begin, span.end);
}

void alternate_lists(const Job& job, const Scratch& x, int64_t, int64_t) {
    for (int64_t i = 0; i < job.seeking; ++i) x.seekers[i] = static_cast<int32_t>(2 * i);
    for (int64_t j = 0; j < job.hosting; ++j) x.hosts[j] = static_cast<int32_t>(2 * j + 1);
}

void alternate_choice(const Job& job, const Scratch& x, int64_t sample, int64_t) {
    const auto& s = job.shape;
    const float* sizes = job.sizes + sample * s.length + s.guarded;
    for (int64_t i = 0; i < job.seeking; ++i)
        x.ranked[i] = sizes[2 * i] > 0.0f ? x.best[i] * x.scale[i] : 2.0f;
    rank_all<Vec>(x.ranked, x.rank, job.seeking);
    for (int64_t i = 0; i < s.length - s.guarded; ++i) x.target[i] = -1;
    for (int64_t i = 0; i < job.seeking; ++i)
        if (x.rank[i] < s.r) x.target[2 * i] = x.partner[i];
    place(job, x, sample);
}

void everyone(const Job& job, const Scratch& x, int64_t, int64_t) {
    for (int64_t i = 0; i < job.shape.length - job.shape.guarded; ++i)
        x.seekers[i] = x.hosts[i] = static_cast<int32_t>(i);
}

void energy_lists(const Job& job, const Scratch& x, int64_t sample, int64_t) {
    const auto& s = job.shape;
    const int64_t free_count = s.length - s.guarded;
    const float* sizes = job.sizes + sample * s.length + s.guarded;
    for (int64_t i = 0; i < free_count; ++i)
        if (!(sizes[i] > 0.0f)) x.partner[i] = 1 << 30;
    rank_all<Int>(x.partner, x.rank, free_count);
    int64_t seeking = 0, hosting = 0;
    for (int64_t i = 0; i < free_count; ++i) {
        if (x.rank[i] >= 2 * s.r) continue;
        if (x.rank[i] % 2 == 0)
            x.seekers[seeking++] = static_cast<int32_t>(i);
        else
            x.hosts[hosting++] = static_cast<int32_t>(i);
    }
}

void prune_lists(const Job& job, const Scratch& x, int64_t sample, const float* score) {
    const auto& s = job.shape;
    const int64_t free_count = s.length - s.guarded;
    const float* sizes = job.sizes + sample * s.length + s.guarded;
    const float* mine = score + sample * s.length + s.guarded;
    for (int64_t i = 0; i < free_count; ++i) {
        float value = mine[i] == mine[i] ? mine[i] : -2.0e38f;
        value = value > 2.0e38f ? 2.0e38f : value;
        value = value < -2.0e38f ? -2.0e38f : value;
        x.ranked[i] = sizes[i] > 0.0f ? value : -3.0e38f;
    }
    rank_all<Vec>(x.ranked, x.rank, free_count);
    int64_t seeking = 0, hosting = 0;
    for (int64_t i = 0; i < free_count; ++i) {
        if (x.rank[i] >= free_count - s.r)
            x.seekers[seeking++] = static_cast<int32_t>(i);
        else
            x.hosts[hosting++] = static_cast<int32_t>(i);
    }
}

void listed_choice(const Job& job, const Scratch& x, int64_t sample, int64_t) {
    const auto& s = job.shape;
    for (int64_t i = 0; i < s.length - s.guarded; ++i) x.target[i] = -1;
    for (int64_t i = 0; i < job.seeking; ++i) x.target[x.seekers[i]] = x.partner[i];
    place(job, x, sample);
}

bool valid(const Sizes& s, bool pairs) {
    const int64_t free_count = s.length - s.guarded;
    const int64_t limit = pairs ? free_count / 2 : free_count - 1;
    return s.batch >= 0 && s.channels >= 0 && s.heads >= 1 && s.depth >= 1 && s.guarded >= 0 &&
           free_count >= 2 && s.r >= 0 && s.r <= limit && s.length < (int64_t(1) << 30);
}

template <typename T>
T* data_of(const edgec_tensor& tensor) {
    return static_cast<T*>(tensor.data);
}

// The job of a call whose last two inputs are metric and sizes; false where its sizes are refused.
bool job_of(const edgec_cpu_call& call, int64_t metric, bool pairs, Job& job) {
    const edgec_tensor &tokens = call.inputs[0], &keys = call.inputs[metric];
    const Sizes s{tokens.sizes[0], tokens.sizes[1], tokens.sizes[2], keys.sizes[1],
                  keys.sizes[3],   attribute(call, "r").integer, attribute(call, "protected").integer};
    if (!valid(s, pairs)) return false;
    const int64_t work = s.batch * s.length * (s.length * s.depth / 4 + s.channels + s.heads * s.depth);
    const bool together = call.parallel != nullptr && call.threads > 1 && work >= WORTH_A_THREAD;
    job = {};
    job.shape = s;
    job.half = tokens.type == EDGEC_BFLOAT16;
    job.tokens = tokens.data;
    job.metric = keys.data;
    job.sizes = data_of<const float>(call.inputs[metric + 1]);
    job.merged = call.outputs[0].data;
    job.merged_sizes = data_of<float>(call.outputs[1]);
    job.assignment = data_of<int32_t>(call.outputs[2]);
    job.workspace = call.scratch(s.batch * sample_floats(s) * static_cast<int64_t>(sizeof(float)));
    job.parallel = together ? call.parallel : nullptr;
    job.parts = together ? call.threads : 1;
    return true;
}

}  // namespace

EDGEC_CPU_KERNEL(TokenMerge) {
    Job job;
    if (!job_of(*call, 1, true, job)) return EDGEC_REFUSED;
    const int64_t free_count = job.shape.length - job.shape.guarded;
    job.seeking = (free_count + 1) / 2;
    job.hosting = free_count / 2;
    each_sample(job, alternate_lists);
    each(job, keys_phase);
    each(job, match_phase<Want::Partner>);
    each_sample(job, alternate_choice);
    each(job, average_phase);
    return EDGEC_DONE;
}

EDGEC_CPU_KERNEL(TokenMergeEnergy) {
    Job job;
    if (!job_of(*call, 1, true, job)) return EDGEC_REFUSED;
    job.seeking = job.hosting = job.shape.length - job.shape.guarded;
    job.margin = static_cast<float>(attribute(*call, "margin").number);
    each_sample(job, everyone);
    each(job, keys_phase);
    each(job, match_phase<Want::Energy>);
    each_sample(job, energy_lists);
    job.seeking = job.hosting = job.shape.r;
    each(job, match_phase<Want::Partner>);
    each_sample(job, listed_choice);
    each(job, average_phase);
    return EDGEC_DONE;
}

EDGEC_CPU_KERNEL(TokenPrune) {
    Job job;
    if (!job_of(*call, 2, false, job)) return EDGEC_REFUSED;
    job.seeking = job.shape.r;
    job.hosting = job.shape.length - job.shape.guarded - job.shape.r;
    job.drop = attribute(*call, "merge").integer == 0;
    const float* score = data_of<const float>(call->inputs[1]);
    for (int64_t sample = 0; sample < job.shape.batch; ++sample)
        prune_lists(job, scratch_of(job.shape, job.workspace, sample), sample, score);
    each(job, keys_phase);
    each(job, match_phase<Want::Partner>);
    each_sample(job, listed_choice);
    each(job, average_phase);
    return EDGEC_DONE;
}
