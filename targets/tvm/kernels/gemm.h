// The product of matrices: a block of rows with a panel of columns, in registers.
//
// Columns lie in panels: PANEL of them side by side for each k, the next panel behind. The left matrix is read as it
// is, row by row. (Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", without its packing
// of the left matrix: at the sizes of one picture or one sentence it never pays for itself.)
#ifndef EDGEC_TVM_GEMM_H
#define EDGEC_TVM_GEMM_H

#include "functions.h"

namespace {

#if defined(__AVX512F__)
constexpr int ROWS = 12, VECTORS = 2;
#elif defined(__AVX2__)
constexpr int ROWS = 6, VECTORS = 2;
#elif defined(__aarch64__)
constexpr int ROWS = 8, VECTORS = 2;
#else
constexpr int ROWS = 4, VECTORS = 2;
#endif

#if defined(__aarch64__)
constexpr int64_t PANEL = 8;
#else
constexpr int64_t PANEL = 32;  // for all instruction sets: weights are laid out once
#endif

constexpr int64_t COLUMNS = VECTORS * W;  // of a tile; a panel holds one or more
constexpr int64_t DEPTH = 512;            // of a panel at a time: it stays in the nearest caches

// What becomes of a sum when it is complete: an addend, an activation, another addend.
struct Epilogue {
    const float* column;   // one number a column, or NULL
    const float* row;      // one number a row, or NULL
    const float* residual; // as the result lies, or NULL: added behind the activation
    int64_t activation;
};

struct Tile {
    float* c;
    int64_t stride;
    int64_t rows, columns;  // of the result, from here; a tile may reach beyond
    int64_t row, column;    // in the whole result, for what the epilogue reads
    bool first, last;       // block of k
    const Epilogue* epilogue;
};

// Adds what the epilogue says to the sums of a tile and puts them where they belong.
inline void finish(float* sums, const Tile& tile) {
    const Epilogue& e = *tile.epilogue;
    const int64_t whole = tile.columns / W * W;
    for (int64_t i = 0; i < tile.rows; ++i) {
        float *row = sums + i * COLUMNS, *to = tile.c + i * tile.stride;
        const float shift = e.row == nullptr ? 0.0f : e.row[tile.row + i];
        const float* column = tile.last && e.column != nullptr ? e.column + tile.column : nullptr;
        for (int64_t j = 0; j < whole; j += W) {
            Vec v = load(row + j) + shift;
            if (!tile.first) v += load(to + j);
            if (column != nullptr) v += load(column + j);
            store(row + j, v);
        }
        for (int64_t j = whole; j < tile.columns; ++j)
            row[j] += shift + (tile.first ? 0.0f : to[j]) + (column == nullptr ? 0.0f : column[j]);
    }
    if (tile.last && e.activation != NONE) activate(e.activation, sums, tile.rows * COLUMNS);
    for (int64_t i = 0; i < tile.rows; ++i) {
        const float* row = sums + i * COLUMNS;
        float* to = tile.c + i * tile.stride;
        const float* residual = tile.last && e.residual != nullptr ? e.residual + i * tile.stride : nullptr;
        for (int64_t j = 0; j < whole; j += W)
            store(to + j, residual == nullptr ? load(row + j) : load(row + j) + load(residual + j));
        for (int64_t j = whole; j < tile.columns; ++j) to[j] = row[j] + (residual == nullptr ? 0.0f : residual[j]);
    }
}

// One tile: R rows of a, from k = 0, times COLUMNS columns of a panel.
template <int R>
__attribute__((noinline)) void multiply(const float* const* a, const float* panel, int64_t depth, float* sums) {
    Vec sum[R][VECTORS];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) sum[i][v] = splat(0.0f);
    int64_t k = 0;
#if defined(__aarch64__)
    // Four numbers of a row at a time: products take them by lane.
    for (; k + 4 <= depth; k += 4, panel += 4 * PANEL) {
        Vec left[R];
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) left[i] = load(a[i] + k);
#pragma GCC unroll 4
        for (int step = 0; step < 4; ++step) {
            Vec right[VECTORS];
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; ++v) right[v] = load(panel + step * PANEL + v * W);
#pragma GCC unroll 16
            for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; ++v) sum[i][v] += right[v] * left[i][step];
        }
    }
#endif
    for (; k < depth; ++k, panel += PANEL) {
        Vec right[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) right[v] = load(panel + v * W);
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) {
            const Vec left = splat(a[i][k]);
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; ++v) sum[i][v] += left * right[v];
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) store(sums + i * COLUMNS + v * W, sum[i][v]);
}

struct Left {
    const float* data;
    int64_t stride;
};

// c[row …, column …] of a block of rows with one panel, finished where the last k is in it.
__attribute__((noinline)) void multiply_panel(const Left& a, int64_t first_row, int64_t rows, const float* panel, int64_t depth, float* c,
                    int64_t stride, int64_t column, int64_t columns, const Epilogue& epilogue) {
    alignas(64) float sums[ROWS * COLUMNS];
    for (int64_t k = 0; k < depth; k += DEPTH) {
        const int64_t part = at_most(DEPTH, depth - k);
        for (int64_t across = 0; across < columns; across += COLUMNS) {
            for (int64_t i = 0; i < rows; i += ROWS) {
                const int64_t here = at_most(ROWS, rows - i), row = first_row + i;
                const float* lines[ROWS];
                for (int64_t line = 0; line < ROWS; ++line)
                    lines[line] = a.data + (row + at_most(line, here - 1)) * a.stride + k;
                const float* right = panel + k * PANEL + across;
                if (here == 1)
                    multiply<1>(lines, right, part, sums);
                else if (here <= ROWS / 2)
                    multiply<ROWS / 2>(lines, right, part, sums);
                else
                    multiply<ROWS>(lines, right, part, sums);
                float* to = c + row * stride + column + across;
                Epilogue ended = epilogue;
                if (ended.residual != nullptr) ended.residual += to - c;
                if (k > 0) ended.row = nullptr;
                const Tile tile{to,  stride,           here,   at_most(COLUMNS, columns - across),
                                row, column + across,  k == 0, k + part == depth,
                                &ended};
                finish(sums, tile);
            }
        }
    }
}

}  // namespace

#endif
