// Functions of vectors: the exponential and what is made of it, and the activations that follow a product.
#ifndef EDGEC_TVM_FUNCTIONS_H
#define EDGEC_TVM_FUNCTIONS_H

#include "kernel.h"
#include "vectors.h"

namespace {

inline Vec smaller_of(Vec a, Vec b) { return a < b ? a : b; }
inline Vec larger_of(Vec a, Vec b) { return a > b ? a : b; }

// e^x within 2e-7 of itself; 0 and infinity where float32 has no more, NaN stays NaN.
inline Vec exponential(Vec x) {
    // 2^f on [-1/2, 1/2], the highest power first: the smallest largest relative error, 1e-7.
    constexpr float P[] = {1.3264700537547469e-3f, 9.6715148538351059e-3f, 5.5507339537143707e-2f,
                           2.4022242426872253e-1f, 6.9314700365066528e-1f, 1.0f};
    constexpr float MAGIC = 12582912.0f;  // 1.5 * 2^23 rounds to whole numbers
    // Comparisons are written so that NaN passes through.
    const Vec low = splat(-87.3f), high = splat(88.7f);
    Vec y = low > x ? low : x;
    y = high < y ? high : y;
    const Vec whole = (y * 1.44269504088896341f + MAGIC) - MAGIC;
    // x - n ln 2 in two parts, so that nothing is lost for large n.
    const Vec rest = (y - whole * 0.693145751953125f) - whole * 1.42860682030941723e-6f;
    const Vec f = rest * 1.44269504088896341f;
    Vec p = splat(P[0]);
    for (int power = 1; power < 6; ++power) p = p * f + P[power];
    // The exponent in two steps: 2^128 does not fit one.
    const Int n = __builtin_convertvector(whole, Int);
    const Int half = n >> 1;
    p = p * reinterpret_cast<Vec>((half + 127) << 23) * reinterpret_cast<Vec>((n - half + 127) << 23);
    p = x < low ? splat(0.0f) : p;
    return x > high ? splat(__builtin_inff()) : p;
}

// The error function within 2e-7 (Abramowitz and Stegun 7.1.26).
inline Vec error_function(Vec x) {
    const Vec size = x < 0.0f ? -x : x;
    const Vec t = 1.0f / (1.0f + 0.3275911f * size);
    const Vec p = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    const Vec y = 1.0f - p * exponential(-size * size);
    return x < 0.0f ? -y : y;
}

inline Vec logistic(Vec x) { return 1.0f / (1.0f + exponential(-x)); }

inline Vec hyperbolic_tangent(Vec x) {
    // Near 0 the quotient cancels: a polynomial there, 1e-7 of itself below 1/4.
    const Vec square = x * x;
    const Vec near =
        x * (1.0f + square * (-0.333333333f + square * (0.133333333f + square * (-0.053968254f + square * 0.021869489f))));
    const Vec e = exponential(-2.0f * (x < 0.0f ? -x : x));
    const Vec far = (1.0f - e) / (1.0f + e);
    return square < 0.0625f ? near : (x < 0.0f ? -far : far);
}

// In the order of `ACTIVATIONS` in targets/tvm/kernels/__init__.py.
enum Activation { NONE, RELU, GELU, GELU_TANH, SILU, SIGMOID, TANH, HARD_SWISH, HARD_SIGMOID, RELU6, EXP, ERF };

template <int KIND>
inline Vec activated(Vec x) {
    if constexpr (KIND == RELU) return x < 0.0f ? splat(0.0f) : x;
    if constexpr (KIND == GELU) return 0.5f * x * (1.0f + error_function(x * 0.70710678118654752f));
    if constexpr (KIND == GELU_TANH)
        return 0.5f * x * (1.0f + hyperbolic_tangent(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    if constexpr (KIND == SILU) return x * logistic(x);
    if constexpr (KIND == SIGMOID) return logistic(x);
    if constexpr (KIND == TANH) return hyperbolic_tangent(x);
    if constexpr (KIND == HARD_SIGMOID || KIND == HARD_SWISH) {
        Vec gate = x * 0.166666667f + 0.5f;
        gate = gate < 0.0f ? splat(0.0f) : gate;
        gate = gate > 1.0f ? splat(1.0f) : gate;
        return KIND == HARD_SWISH ? x * gate : gate;
    }
    if constexpr (KIND == RELU6) {
        const Vec y = x < 0.0f ? splat(0.0f) : x;
        return y > 6.0f ? splat(6.0f) : y;
    }
    if constexpr (KIND == EXP) return exponential(x);
    if constexpr (KIND == ERF) return error_function(x);
    return x;
}

// f(v) for numbers in a row, in place of them or elsewhere.
template <typename F>
inline void for_each_vector(const float* from, float* to, int64_t count, const F& f) {
    int64_t i = 0;
    for (; i + W <= count; i += W) store(to + i, f(load(from + i)));
    if (i == count) return;
    float rest[W] = {};
    for (int64_t j = i; j < count; ++j) rest[j - i] = from[j];
    store(rest, f(load(rest)));
    for (int64_t j = i; j < count; ++j) to[j] = rest[j - i];
}

template <int KIND>
__attribute__((noinline)) void activate_all(float* numbers, int64_t count) {
    for_each_vector(numbers, numbers, count, [](Vec v) { return activated<KIND>(v); });
}

// An activation known at run time, in place.
inline void activate(int64_t kind, float* numbers, int64_t count) {
    constexpr void (*ALL[])(float*, int64_t) = {
        activate_all<NONE>, activate_all<RELU>,       activate_all<GELU>,         activate_all<GELU_TANH>,
        activate_all<SILU>, activate_all<SIGMOID>,    activate_all<TANH>,         activate_all<HARD_SWISH>,
        activate_all<HARD_SIGMOID>, activate_all<RELU6>, activate_all<EXP>,       activate_all<ERF>};
    ALL[kind](numbers, count);
}

inline void run_all(const edgec_cpu_call& call, int64_t count, edgec_task task, void* data, int by_turns) {
    if (call.parallel != nullptr && count > 1) {
        call.parallel(count, task, data, by_turns);
    } else {
        for (int64_t index = 0; index < count; ++index) task(index, data);
    }
}

inline int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t rounded_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

}  // namespace

#endif
