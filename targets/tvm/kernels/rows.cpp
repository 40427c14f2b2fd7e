// What works along the last axis, a row at a time, and number by number.
#include <stddef.h>

#include "functions.h"

namespace {

struct Rows {
    const float *x, *scale, *bias;
    float* y;
    int64_t length, count, together;
    float epsilon;
    int64_t kind;
};

constexpr int64_t LEAST = 4096;  // numbers of a task: below, sharing costs more than it brings

inline float sum_of(Vec v) {
    float total = 0.0f;
    for (int lane = 0; lane < W; ++lane) total += v[lane];
    return total;
}

template <typename F>
inline void for_rows(int64_t index, const Rows& job, const F& f) {
    const int64_t first = index * job.together;
    for (int64_t row = first; row < at_most(first + job.together, job.count); ++row)
        f(job.x + row * job.length, job.y + row * job.length);
}

void layer_norm(int64_t index, void* data) {
    const Rows& job = *static_cast<const Rows*>(data);
    const int64_t n = job.length;
    for_rows(index, job, [&](const float* x, float* y) {
        // The mean first, then the squares of what is left: one pass over both cancels.
        Vec sums = splat(0.0f);
        int64_t i = 0;
        for (; i + W <= n; i += W) sums += load(x + i);
        float mean = sum_of(sums);
        for (; i < n; ++i) mean += x[i];
        mean = job.kind == 1 ? 0.0f : mean / static_cast<float>(n);
        Vec squares = splat(0.0f);
        for (i = 0; i + W <= n; i += W) {
            const Vec d = load(x + i) - mean;
            squares += d * d;
        }
        float variance = sum_of(squares);
        for (; i < n; ++i) variance += (x[i] - mean) * (x[i] - mean);
        const float inverse = 1.0f / __builtin_sqrtf(variance / static_cast<float>(n) + job.epsilon);
        for (i = 0; i + W <= n; i += W) {
            Vec v = (load(x + i) - mean) * inverse * load(job.scale + i);
            if (job.bias != nullptr) v += load(job.bias + i);
            store(y + i, v);
        }
        for (; i < n; ++i) y[i] = (x[i] - mean) * inverse * job.scale[i] + (job.bias == nullptr ? 0.0f : job.bias[i]);
    });
}

void softmax(int64_t index, void* data) {
    const Rows& job = *static_cast<const Rows*>(data);
    const int64_t n = job.length;
    for_rows(index, job, [&](const float* x, float* y) {
        float top = x[0];
        Vec tops = splat(x[0]);
        int64_t i = 0;
        for (; i + W <= n; i += W) {
            const Vec v = load(x + i);
            tops = tops < v ? v : tops;
        }
        for (int lane = 0; lane < W; ++lane) top = top < tops[lane] ? tops[lane] : top;
        for (; i < n; ++i) top = top < x[i] ? x[i] : top;
        Vec sums = splat(0.0f);
        for (i = 0; i + W <= n; i += W) {
            const Vec e = exponential(load(x + i) - top);
            store(y + i, e);
            sums += e;
        }
        float total = sum_of(sums);
        if (i < n) {
            float rest[W] = {};
            for (int64_t j = i; j < n; ++j) rest[j - i] = x[j] - top;
            store(rest, exponential(load(rest)));
            for (int64_t j = i; j < n; ++j) total += y[j] = rest[j - i];
        }
        const float inverse = 1.0f / total;
        for_each_vector(y, y, n, [&](Vec v) { return v * inverse; });
    });
}

void activation(int64_t index, void* data) {
    const Rows& job = *static_cast<const Rows*>(data);
    for_rows(index, job, [&](const float* x, float* y) {
        __builtin_memcpy(y, x, static_cast<size_t>(job.length) * sizeof(float));
        activate(job.kind, y, job.length);
    });
}

Rows rows_of(const edgec_cpu_call& call, int64_t rank) {
    const edgec_tensor& x = call.inputs[0];
    Rows job{};
    job.x = static_cast<const float*>(x.data);
    job.y = static_cast<float*>(call.outputs[0].data);
    job.length = job.count = 1;
    for (int64_t axis = 0; axis < x.rank; ++axis) (axis < x.rank - rank ? job.count : job.length) *= x.sizes[axis];
    return job;
}

int run(const edgec_cpu_call& call, Rows& job, edgec_task task) {
    if (job.length == 0 || job.count == 0) return EDGEC_DONE;
    const int64_t least = rounded_up(LEAST, job.length), even = rounded_up(job.count, 4 * call.threads);
    job.together = least > even ? least : even;
    run_all(call, rounded_up(job.count, job.together), task, &job, 0);
    return EDGEC_DONE;
}

}  // namespace

// x, scale and bias (length of the last `rank` axes) or (0) without one.
EDGEC_CPU_KERNEL(LayerNorm) {
    Rows job = rows_of(*call, attribute(*call, "rank").integer);
    job.scale = static_cast<const float*>(call->inputs[1].data);
    job.bias = call->inputs[2].sizes[0] == 0 ? nullptr : static_cast<const float*>(call->inputs[2].data);
    job.epsilon = static_cast<float>(attribute(*call, "epsilon").number);
    job.kind = attribute(*call, "is_rms").integer;
    return run(*call, job, layer_norm);
}

EDGEC_CPU_KERNEL(Softmax) {
    Rows job = rows_of(*call, 1);
    return run(*call, job, softmax);
}

EDGEC_CPU_KERNEL(Activation) {
    Rows job = rows_of(*call, call->inputs[0].rank);
    job.kind = attribute(*call, "kind").integer;
    // Cut into rows of one task each.
    const int64_t total = job.length;
    job.length = LEAST;
    job.count = total / LEAST;
    run(*call, job, activation);
    job.x += job.count * LEAST;
    job.y += job.count * LEAST;
    job.length = total - job.count * LEAST;
    job.count = job.length > 0;
    return run(*call, job, activation);
}
