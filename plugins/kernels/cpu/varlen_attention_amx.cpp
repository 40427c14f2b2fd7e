// Attention within sequences by the tiles of Intel's AMX: bf16 products, sums and softmax in float32.
//
// A tile product takes its right side in pairs of rows (Intel 64 and IA-32 Architectures Software Developer's
// Manual, TDPBF16PS): queries are brought there once a task, and weights as they are rounded. Keys and values are
// the left side: keys lie as they came, values are turned. Lanes run over queries in both products.
//
// Compiled without AMX the same products are plain loops: that is how tests run this file on any processor.

#ifdef __AMX_BF16__
#include <immintrin.h>
#endif

#include "varlen_attention.h"

namespace {

constexpr int64_t BLOCK = 32;  // rows, columns, and pairs' numbers a step of the product: two tiles each way

#ifdef __AMX_BF16__

struct alignas(64) TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileShapes) == 64, "as LDTILECFG reads it");

// Compilers know only part of what the tile instructions read and write (GCC's amxtileintrin.h).
inline void all_memory() { asm volatile("" ::: "memory"); }

// Other code on this thread may count on the shapes that it has set, so they come back.
class TileSession {
public:
    TileSession() {
        _tile_storeconfig(&m_before);
        const TileShapes all;
        all_memory();
        _tile_loadconfig(&all);
    }
    ~TileSession() {
        all_memory();
        _tile_loadconfig(&m_before);
    }
    TileSession(const TileSession&) = delete;
    TileSession& operator=(const TileSession&) = delete;

private:
    TileShapes m_before;
};

// sums (32, 32) = sums, or zero, + rows (32, 32 steps) · the right side, in pairs (16 steps, 32, 2).
inline void block_product(float* sums, bool begun, const uint16_t* rows, int64_t stride, const uint16_t* pairs,
                          int64_t steps) {
    constexpr int64_t BYTES = BLOCK * 4;
    all_memory();
    if (begun) {
        _tile_loadd(0, sums, BYTES);
        _tile_loadd(1, sums + 16, BYTES);
        _tile_loadd(2, sums + 16 * BLOCK, BYTES);
        _tile_loadd(3, sums + 16 * BLOCK + 16, BYTES);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t s = 0; s < steps; ++s) {
        _tile_loadd(4, rows + s * BLOCK, stride * 2);
        _tile_loadd(5, rows + 16 * stride + s * BLOCK, stride * 2);
        _tile_loadd(6, pairs + s * BLOCK * BLOCK, BYTES);
        _tile_loadd(7, pairs + s * BLOCK * BLOCK + BLOCK, BYTES);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, BYTES);
    _tile_stored(1, sums + 16, BYTES);
    _tile_stored(2, sums + 16 * BLOCK, BYTES);
    _tile_stored(3, sums + 16 * BLOCK + 16, BYTES);
}

#else

struct TileSession {
    TileSession() {}
};

inline void block_product(float* sums, bool begun, const uint16_t* rows, int64_t stride, const uint16_t* pairs,
                          int64_t steps) {
    for (int64_t row = 0; row < BLOCK; ++row)
        for (int64_t column = 0; column < BLOCK; ++column) {
            float sum = begun ? load(sums + row * BLOCK + column)[0] : 0.0f;
            for (int64_t k = 0; k < BLOCK * steps; ++k)
                sum += number(rows[row * stride + k]) * number(pairs[(k / 2 * BLOCK + column) * 2 + k % 2]);
            sums[row * BLOCK + column] = sum;
        }
}

#endif

// Vectors of 32 bits that hold two bf16 numbers each, wherever they begin.
typedef float Words __attribute__((vector_size(W * 4), aligned(2), may_alias));
inline Bits load_words(const uint16_t* p) { return reinterpret_cast<Bits>(*reinterpret_cast<const Words*>(p)); }
inline void store_words(uint16_t* p, Bits words) { *reinterpret_cast<Words*>(p) = reinterpret_cast<Vec>(words); }
inline void turn(Bits (&block)[W]) {
    Vec turned[W];
    for (int i = 0; i < W; ++i) turned[i] = reinterpret_cast<Vec>(block[i]);
    transpose(turned);
    for (int i = 0; i < W; ++i) block[i] = reinterpret_cast<Bits>(turned[i]);
}

struct Tiles {
    using Element = uint16_t;
    using Number = uint16_t;
    using Session = TileSession;
    static constexpr int V = BLOCK / W;
    static constexpr int64_t ROWS = BLOCK;
    static constexpr int64_t TILE = 8 * BLOCK;
    static constexpr int TOGETHER = 2;

    static int64_t padded(int64_t depth) { return divided_up(depth, BLOCK) * BLOCK; }

    static void take_keys(uint16_t* to, const uint16_t* from, int64_t stride, int64_t count, int64_t depth) {
        const int64_t all = padded(depth), rows = padded(count);
        for (int64_t j = 0; j < count; ++j) {
            prefetch_row(from + smaller(j + AHEAD, count - 1) * stride, depth);
            __builtin_memcpy(to + j * all, from + j * stride, static_cast<size_t>(depth) * 2);
            __builtin_memset(to + j * all + depth, 0, static_cast<size_t>(all - depth) * 2);
        }
        __builtin_memset(to + count * all, 0, static_cast<size_t>((rows - count) * all) * 2);
    }

    // To (padded depth, TILE).
    static void take_values(uint16_t* to, const uint16_t* from, int64_t stride, int64_t count, int64_t depth) {
        constexpr int64_t SIDE = 2 * W;
        const auto words = [=](int64_t j, int64_t k) {
            if (j >= count || k >= depth) return Bits{};
            const uint16_t* at = from + j * stride + k;
            if (k + SIDE <= depth) return load_words(at);
            uint16_t part[SIDE] = {};
            for (int64_t i = 0; i < depth - k; ++i) part[i] = at[i];
            return load_words(part);
        };
        for (int64_t j = 0; j < padded(count); j += SIDE) {
            for (int64_t r = 0; r < SIDE; ++r) prefetch_row(from + smaller(j + SIDE + r, count - 1) * stride, depth);
            for (int64_t k = 0; k < padded(depth); k += SIDE) {
                // A word of two depths of a key, and the same of the next key, become two words of two keys of a depth.
                Bits even[W], odd[W];
                for (int64_t r = 0; r < W; ++r) {
                    const Bits here = words(j + 2 * r, k), next = words(j + 2 * r + 1, k);
                    even[r] = (here & 0xffffu) | (next << 16);
                    odd[r] = (here >> 16) | (next & 0xffff0000u);
                }
                turn(even);
                turn(odd);
                for (int64_t r = 0; r < W; ++r) {
                    store_words(to + (k + 2 * r) * TILE + j, even[r]);
                    store_words(to + (k + 2 * r + 1) * TILE + j, odd[r]);
                }
            }
        }
    }

    // To (padded depth / 2, BLOCK, 2).
    static void take_queries(uint16_t* to, const uint16_t* query, int64_t stride, int64_t count, int64_t depth) {
        for (int64_t v = 0; v < V; ++v) {
            const int64_t rows = count - v * W;
            const uint16_t* from = query + v * W * stride;
            uint16_t* at = to + v * W * 2;
            int64_t k = 0;
            for (; rows >= W && k + 2 * W <= depth; k += 2 * W) {
                Bits block[W];
                for (int64_t i = 0; i < W; ++i) block[i] = load_words(from + i * stride + k);
                turn(block);
                for (int64_t i = 0; i < W; ++i) store_words(at + (k / 2 + i) * BLOCK * 2, block[i]);
            }
            for (; k < padded(depth); ++k)
                for (int64_t i = 0; i < W; ++i)
                    at[(k / 2 * BLOCK + i) * 2 + k % 2] =
                        i < rows && k < depth ? from[i * stride + k] : static_cast<uint16_t>(0);
        }
    }

    static void logits(float* to, const uint16_t* queries, const uint16_t* keys, int64_t count, int64_t depth) {
        const int64_t all = padded(depth);
        for (int64_t j = 0; j < count; j += BLOCK)
            block_product(to + j * BLOCK, false, keys + j * all, all, queries, all / BLOCK);
    }

    static Vec weight(Vec x) { return power_of_two(x, COARSE); }

    // Two rows of weights to one row of pairs, over what has been read. To the nearest, half away from zero.
    static void give_weights(float* logits, int64_t j, int v, const Vec (&weight)[2]) {
        const Bits first = reinterpret_cast<Bits>(weight[0]) + 0x8000u;
        const Bits second = reinterpret_cast<Bits>(weight[1]) + 0x8000u;
        store(logits + j / 2 * BLOCK + v * W, reinterpret_cast<Vec>((first >> 16) | (second & 0xffff0000u)));
    }
    static void end_weights(float* logits, int64_t count) {
        for (int64_t pair = divided_up(count, 2); pair < padded(count) / 2; ++pair)
            for (int v = 0; v < V; ++v) store(logits + pair * BLOCK + v * W, Vec{});
    }

    static void mix(float* mixed, const Vec* shrink, const float* weights, const uint16_t* values, int64_t count,
                    int64_t depth) {
        const int64_t all = padded(depth);
        if (shrink != nullptr && shrinks(shrink))
            for (int64_t k = 0; k < depth; ++k)
                for (int v = 0; v < V; ++v) {
                    float* at = mixed + k * BLOCK + v * W;
                    store(at, load(at) * shrink[v]);
                }
        const auto* pairs = reinterpret_cast<const uint16_t*>(weights);
        for (int64_t k = 0; k < all; k += BLOCK)
            block_product(mixed + k * BLOCK, shrink != nullptr, values + k * TILE, TILE, pairs, padded(count) / BLOCK);
    }

private:
    // Most tiles raise no query's largest logit.
    static bool shrinks(const Vec* shrink) {
        Int any = {};
        for (int v = 0; v < V; ++v) any |= shrink[v] != splat(1.0f);
        int32_t found = 0;
        for (int lane = 0; lane < W; ++lane) found |= any[lane];
        return found != 0;
    }
};

// Tiles multiply bf16 only.
int run(const edgec_cpu_call& call, bool windowed) {
    return call.inputs[0].type == EDGEC_BFLOAT16 ? attend_call<Tiles>(call, windowed) : EDGEC_NOT_MINE;
}

}  // namespace

EDGEC_CPU_KERNEL(VarlenAttention) { return run(*call, false); }

EDGEC_CPU_KERNEL(VarlenWindowAttention) { return run(*call, true); }
