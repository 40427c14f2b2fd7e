// Vectors of the widest registers that a file is compiled for, in float32, int32 and bf16.
//
// Nothing from the C++ library is used here, and everything has internal linkage: an inline function compiled
// for AVX-512 could be the copy that the linker keeps for everyone.
#ifndef EDGEC_VECTORS_H
#define EDGEC_VECTORS_H

#include <stdint.h>

namespace {

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float Vec __attribute__((vector_size(W * 4)));
typedef int32_t Int __attribute__((vector_size(W * 4)));
typedef float VecU __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef int32_t IntU __attribute__((vector_size(W * 4), aligned(4), may_alias));

inline Vec load(const float* p) { return *reinterpret_cast<const VecU*>(p); }
inline Int load(const int32_t* p) { return *reinterpret_cast<const IntU*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<VecU*>(p) = v; }
inline void store(int32_t* p, Int v) { *reinterpret_cast<IntU*>(p) = v; }

// bf16 is the upper half of a float32; stores round to nearest, half to even.
typedef uint16_t Half __attribute__((vector_size(W * 2)));
typedef uint16_t HalfU __attribute__((vector_size(W * 2), aligned(2), may_alias));
typedef uint32_t Bits __attribute__((vector_size(W * 4)));

inline Vec load(const uint16_t* p) {
    return reinterpret_cast<Vec>(__builtin_convertvector(static_cast<Half>(*reinterpret_cast<const HalfU*>(p)), Bits)
                                 << 16);
}
inline void store(uint16_t* p, Vec v) {
    const Bits bits = reinterpret_cast<Bits>(v);
    const Bits even = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const Int number = v == v;
    *reinterpret_cast<HalfU*>(p) =
        __builtin_convertvector(number ? even : ((bits >> 16) | 0x40u), Half);  // NaN stays NaN
}
inline float number(float x) { return x; }
inline float number(uint16_t x) {
    const uint32_t bits = static_cast<uint32_t>(x) << 16;
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}
inline void put(float* p, float x) { *p = x; }
inline void put(uint16_t* p, float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    *p = static_cast<uint16_t>(x == x ? (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16 : (bits >> 16) | 0x40u);
}

inline Vec splat(float x) { return x - Vec{}; }
inline Int splat(int32_t x) { return x - Int{}; }

// W vectors as the rows of a square, turned in log2 W steps: each swaps the off-diagonal halves of its blocks.
template <int STEP>
inline void swap_halves(Vec (&block)[W]) {
    Int low, high;
    for (int lane = 0; lane < W; ++lane) {
        low[lane] = (lane & STEP) == 0 ? lane : W + lane - STEP;
        high[lane] = (lane & STEP) == 0 ? lane + STEP : W + lane;
    }
    for (int i = 0; i < W; ++i) {
        if ((i & STEP) != 0) continue;
        const Vec a = block[i], b = block[i + STEP];
        block[i] = __builtin_shuffle(a, b, low);
        block[i + STEP] = __builtin_shuffle(a, b, high);
    }
}
inline void transpose(Vec (&block)[W]) {
    swap_halves<1>(block);
    swap_halves<2>(block);
    if constexpr (W > 4) swap_halves<4>(block);
    if constexpr (W > 8) swap_halves<8>(block);
}

}  // namespace

#endif
