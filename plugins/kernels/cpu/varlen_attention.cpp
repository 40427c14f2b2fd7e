// Attention within sequences by vectors of float32, for one instruction set; see token_reduction.cpp.
//
// bf16 is widened as it is read. AVX-512's own product of bf16 pairs was tried and dropped: on a Sapphire Rapids it
// was slower than float32, and it rounds the weights.

#include "varlen_attention.h"

namespace {

// Keys and values are broadcast, so they lie as they came.
template <typename T>
struct Lanes {
    using Element = T;
    using Number = float;
    static constexpr int V = 2;
    static constexpr int64_t ROWS = W == 16 ? 8 : 6;  // rows of sums that the registers hold beside a panel's vectors
    static constexpr int64_t TILE = 120;
    static constexpr int TOGETHER = 1;
    static_assert(TILE % ROWS == 0, "whole rows of keys");
    static constexpr int64_t QUERIES = V * W;
    struct Session {
        Session() {}
    };

    static int64_t padded(int64_t depth) { return depth; }

    static void take_keys(float* to, const T* from, int64_t stride, int64_t count, int64_t depth) {
        for (int64_t j = 0; j < count; ++j) {
            prefetch_row(from + smaller(j + AHEAD, count - 1) * stride, depth);
            int64_t k = 0;
            for (; k + W <= depth; k += W) store(to + j * depth + k, load(from + j * stride + k));
            for (; k < depth; ++k) to[j * depth + k] = number(from[j * stride + k]);
        }
    }
    static void take_values(float* to, const T* from, int64_t stride, int64_t count, int64_t depth) {
        take_keys(to, from, stride, count, depth);
    }
    static void take_queries(float* to, const T* query, int64_t stride, int64_t count, int64_t depth) {
        for (int64_t v = 0; v < V; ++v) {
            const int64_t rows = count - v * W;
            const T* from = query + v * W * stride;
            int64_t k = 0;
            for (; rows >= W && k + W <= depth; k += W) {
                Vec block[W];
                for (int64_t i = 0; i < W; ++i) block[i] = load(from + i * stride + k);
                transpose(block);
                for (int64_t i = 0; i < W; ++i) store(to + (k + i) * QUERIES + v * W, block[i]);
            }
            for (; k < depth; ++k)
                for (int64_t i = 0; i < W; ++i)
                    to[k * QUERIES + v * W + i] = i < rows ? number(from[i * stride + k]) : 0.0f;
        }
    }

    static void logits(float* to, const float* queries, const float* keys, int64_t count, int64_t depth) {
        products(to, nullptr, queries, keys, count, depth, 1, depth);
    }
    static Vec weight(Vec x) { return power_of_two(x, EXACT); }
    static void give_weights(float* logits, int64_t j, int v, const Vec (&weight)[1]) {
        store(logits + j * QUERIES + v * W, weight[0]);
    }
    static void end_weights(float*, int64_t) {}
    static void mix(float* mixed, const Vec* shrink, const float* weights, const float* values, int64_t count,
                    int64_t depth) {
        products(mixed, shrink, weights, values, depth, 1, depth, count);
    }

private:
    // sums (R rows, QUERIES) = sums * first + the product of `steps` rows of `lanes` (QUERIES each) with R columns
    // of `all`: element s of column r is at all[r * column + s * row]. Without `first` the sums begin at zero.
    template <int64_t R>
    static inline void product(float* sums, const Vec* first, const float* lanes, const float* all, int64_t column,
                               int64_t row, int64_t steps) {
        Vec sum[R][V];
        for (int64_t r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v)
                sum[r][v] = first == nullptr ? Vec{} : load(sums + r * QUERIES + v * W) * first[v];
#pragma GCC unroll 4
        for (int64_t s = 0; s < steps; ++s) {
            for (int64_t r = 0; r < R; ++r)
                for (int v = 0; v < V; ++v)
                    sum[r][v] += load(lanes + s * QUERIES + v * W) * splat(all[r * column + s * row]);
        }
        for (int64_t r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v) store(sums + r * QUERIES + v * W, sum[r][v]);
    }

    // All `count` rows of sums, in groups that the registers hold.
    static void products(float* sums, const Vec* first, const float* lanes, const float* all, int64_t count,
                         int64_t column, int64_t row, int64_t steps) {
        int64_t done = 0;
        for (; done + ROWS <= count; done += ROWS)
            product<ROWS>(sums + done * QUERIES, first, lanes, all + done * column, column, row, steps);
        for (; done + 4 <= count; done += 4)
            product<4>(sums + done * QUERIES, first, lanes, all + done * column, column, row, steps);
        for (; done < count; ++done)
            product<1>(sums + done * QUERIES, first, lanes, all + done * column, column, row, steps);
    }
};

int run(const edgec_cpu_call& call, bool windowed) {
    if (call.inputs[0].type == EDGEC_BFLOAT16) return attend_call<Lanes<uint16_t>>(call, windowed);
    return attend_call<Lanes<float>>(call, windowed);
}

}  // namespace

EDGEC_CPU_KERNEL(VarlenAttention) { return run(*call, false); }

EDGEC_CPU_KERNEL(VarlenWindowAttention) { return run(*call, true); }
