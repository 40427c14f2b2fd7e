// VarlenAttention in fp16: one block a tile of queries, a head and a sequence.
//
// FlashAttention-2's order (arXiv 2307.08691): a block keeps its queries and its output in registers and
// walks over the keys in tiles, with the running maximum and sum of each row. Each warp has whole rows, so
// rows are reduced over four lanes only. Tiles arrive by asynchronous copies, two deep, in shared memory
// whose 16-byte chunks are swizzled by row: ldmatrix then meets every bank once.

#include "kernel.h"

#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace {

constexpr int WARP = 32;
constexpr float LOG2E = 1.4426950408889634f;

struct Arguments {
    const __half *query, *key, *value;
    __half* output;
    const int32_t* cu_seqlens;
    int64_t row;  // numbers of one token
    int depth;
    float scale;  // of the logits, in powers of two
};

// What a launch is cut into.
struct Grid {
    int64_t sequences, heads;
    int64_t longest;  // at least the longest sequence's length
};

__device__ inline uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 16 bytes; zeros where `valid` is false.
__device__ inline void copy_async(void* to, const void* from, bool valid) {
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes));
}
__device__ inline void commit() { asm volatile("cp.async.commit_group;"); }
template <int PENDING>
__device__ inline void wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING));
}

__device__ inline void load_matrices(uint32_t (&r)[4], const __half* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(p)));
}
__device__ inline void load_transposed(uint32_t (&r)[4], const __half* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(p)));
}
__device__ inline void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline uint32_t pack(float low, float high) {
    const __half2 both = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&both);
}

// 2^x, 0 for -inf; denormal results are 0.
__device__ inline float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// A tile of ROWS rows of DEPTH halves in shared memory, its chunks of eight swizzled.
template <int DEPTH>
__device__ inline __half* chunk_at(__half* tile, int row, int chunk) {
    constexpr int CHUNKS = DEPTH / 8;
    constexpr int MASK = CHUNKS >= 8 ? 7 : CHUNKS - 1;
    const int spread = CHUNKS >= 8 ? row : row * CHUNKS / 8;  // rows that share the banks of one line
    return tile + row * DEPTH + ((chunk ^ (spread & MASK)) * 8);
}

template <int DEPTH, int ROWS, int THREADS>
__device__ inline void load_tile(__half* tile, const __half* from, int64_t stride, int rows, int depth) {
    constexpr int CHUNKS = DEPTH / 8;
    static_assert(ROWS * CHUNKS % THREADS == 0, "every thread copies as many chunks");
#pragma unroll
    for (int step = 0; step < ROWS * CHUNKS / THREADS; ++step) {
        const int index = step * THREADS + threadIdx.x, row = index / CHUNKS, chunk = index % CHUNKS;
        const bool valid = row < rows && chunk * 8 < depth;
        copy_async(chunk_at<DEPTH>(tile, row, chunk), valid ? from + row * stride + chunk * 8 : from, valid);
    }
}

// DEPTH: the depth rounded up. M: tiles of 16 queries a warp. KEYS: keys a tile.
template <int DEPTH, int WARPS, int M, int KEYS>
__global__ void __launch_bounds__(WARPS* WARP) attention(const Arguments a) {
    constexpr int THREADS = WARPS * WARP, QUERIES = WARPS * M * 16;
    constexpr int K_STEPS = DEPTH / 16, N_TILES = KEYS / 8, D_TILES = DEPTH / 8;
    const int sequence = blockIdx.z, head = blockIdx.y;
    const int begin = a.cu_seqlens[sequence], length = a.cu_seqlens[sequence + 1] - begin;
    const int first = blockIdx.x * QUERIES;
    if (first >= length) return;

    extern __shared__ __align__(128) __half memory[];
    __half* const query_tile = memory;                      // QUERIES x DEPTH
    __half* const key_tiles = memory + QUERIES * DEPTH;     // 2 x KEYS x DEPTH
    __half* const value_tiles = key_tiles + 2 * KEYS * DEPTH;

    const __half* const query = a.query + (begin + first) * a.row + head * a.depth;
    const __half* const key = a.key + begin * a.row + head * a.depth;
    const __half* const value = a.value + begin * a.row + head * a.depth;

    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int group = lane / 4, pair = lane % 4;
    const int tiles = (length + KEYS - 1) / KEYS;

    load_tile<DEPTH, QUERIES, THREADS>(query_tile, query, a.row, length - first, a.depth);
    load_tile<DEPTH, KEYS, THREADS>(key_tiles, key, a.row, length, a.depth);
    commit();
    load_tile<DEPTH, KEYS, THREADS>(value_tiles, value, a.row, length, a.depth);
    commit();

    float out[M][D_TILES][4] = {};
    float most[M][2], sum[M][2];
#pragma unroll
    for (int m = 0; m < M; ++m) most[m][0] = most[m][1] = -INFINITY, sum[m][0] = sum[m][1] = 0.0f;
    uint32_t q[M][K_STEPS][4];

    for (int tile = 0; tile < tiles; ++tile) {
        __half* const keys = key_tiles + (tile & 1) * KEYS * DEPTH;
        __half* const values = value_tiles + (tile & 1) * KEYS * DEPTH;
        wait<1>();  // the keys of this tile; its values may still be on their way
        __syncthreads();
        if (tile == 0) {
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
                for (int k = 0; k < K_STEPS; ++k)
                    load_matrices(q[m][k], chunk_at<DEPTH>(query_tile, (warp * M + m) * 16 + (lane & 15),
                                                           k * 2 + lane / 16));
        }
        const bool more = tile + 1 < tiles;
        const int next = (tile + 1) * KEYS;
        if (more)
            load_tile<DEPTH, KEYS, THREADS>(key_tiles + ((tile + 1) & 1) * KEYS * DEPTH, key + next * a.row,
                                            a.row, length - next, a.depth);
        commit();

        float logits[M][N_TILES][4] = {};
#pragma unroll
        for (int k = 0; k < K_STEPS; ++k)
#pragma unroll
            for (int n = 0; n < N_TILES; n += 2) {
                uint32_t b[4];
                load_matrices(b, chunk_at<DEPTH>(keys, n * 8 + (lane / 16) * 8 + (lane & 7), k * 2 + (lane / 8 & 1)));
#pragma unroll
                for (int m = 0; m < M; ++m) {
                    multiply(logits[m][n], q[m][k], b[0], b[1]);
                    multiply(logits[m][n + 1], q[m][k], b[2], b[3]);
                }
            }

        const int left = length - tile * KEYS;
        if (left < KEYS) {
#pragma unroll
            for (int n = 0; n < N_TILES; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    if (n * 8 + pair * 2 + (i & 1) >= left)
#pragma unroll
                        for (int m = 0; m < M; ++m) logits[m][n][i] = -INFINITY;
        }

        uint32_t weights[M][N_TILES][2];
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float top = most[m][half];
#pragma unroll
                for (int n = 0; n < N_TILES; ++n)
                    top = fmaxf(top, fmaxf(logits[m][n][half * 2], logits[m][n][half * 2 + 1]));
                top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
                top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
                // A tile has at least one key, so `top` is a number unless a logit is -inf or NaN.
                const float base = top == -INFINITY ? 0.0f : top * a.scale;
                const float shrink = power_of_two(most[m][half] * a.scale - base);
                most[m][half] = top;
                float total = 0.0f;
#pragma unroll
                for (int n = 0; n < N_TILES; ++n) {
                    const float low = power_of_two(fmaf(logits[m][n][half * 2], a.scale, -base));
                    const float high = power_of_two(fmaf(logits[m][n][half * 2 + 1], a.scale, -base));
                    total += low + high;
                    weights[m][n][half] = pack(low, high);
                }
                sum[m][half] = sum[m][half] * shrink + total;
#pragma unroll
                for (int d = 0; d < D_TILES; ++d) {
                    out[m][d][half * 2] *= shrink;
                    out[m][d][half * 2 + 1] *= shrink;
                }
            }

        wait<1>();  // the values of this tile; the next keys may still be on their way
        __syncthreads();
        if (more)
            load_tile<DEPTH, KEYS, THREADS>(value_tiles + ((tile + 1) & 1) * KEYS * DEPTH,
                                            value + next * a.row, a.row, length - next, a.depth);
        commit();
#pragma unroll
        for (int k = 0; k < KEYS / 16; ++k)
#pragma unroll
            for (int d = 0; d < D_TILES; d += 2) {
                uint32_t b[4];
                load_transposed(b, chunk_at<DEPTH>(values, k * 16 + (lane & 15), d + lane / 16));
#pragma unroll
                for (int m = 0; m < M; ++m) {
                    const uint32_t p[4] = {weights[m][2 * k][0], weights[m][2 * k][1], weights[m][2 * k + 1][0],
                                           weights[m][2 * k + 1][1]};
                    multiply(out[m][d], p, b[0], b[1]);
                    multiply(out[m][d + 1], p, b[2], b[3]);
                }
            }
    }

#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float total = sum[m][half];
            total += __shfl_xor_sync(0xffffffffu, total, 1);
            total += __shfl_xor_sync(0xffffffffu, total, 2);
            const float scale = 1.0f / total;
            const int row = first + (warp * M + m) * 16 + half * 8 + group;
            if (row >= length) continue;
            __half* const to = a.output + (begin + row) * a.row + head * a.depth;
#pragma unroll
            for (int d = 0; d < D_TILES; ++d)
                if (d * 8 < a.depth)
                    *reinterpret_cast<__half2*>(to + d * 8 + pair * 2) =
                        __floats2half2_rn(out[m][d][half * 2] * scale, out[m][d][half * 2 + 1] * scale);
        }
}

template <int DEPTH, int WARPS, int M, int KEYS>
int launch(const Arguments& arguments, const Grid& size, cudaStream_t stream) {
    constexpr int QUERIES = WARPS * M * 16;
    constexpr int BYTES = (QUERIES + 4 * KEYS) * DEPTH * static_cast<int>(sizeof(__half));
    const auto kernel = attention<DEPTH, WARPS, M, KEYS>;
    if (BYTES > 48 * 1024) {
        const cudaError_t raised = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, BYTES);
        if (raised != cudaSuccess) return EDGEC_CUDA_ERROR + static_cast<int>(raised);
    }
    const dim3 grid(static_cast<unsigned>((size.longest + QUERIES - 1) / QUERIES), static_cast<unsigned>(size.heads),
                    static_cast<unsigned>(size.sequences));
    kernel<<<grid, WARPS * WARP, BYTES, stream>>>(arguments);
    const cudaError_t launched = cudaGetLastError();
    return launched == cudaSuccess ? EDGEC_DONE : EDGEC_CUDA_ERROR + static_cast<int>(launched);
}

}  // namespace

EDGEC_CUDA_KERNEL(VarlenAttention) {
    const int64_t* const query = call->inputs[0].sizes;
    const int64_t tokens = query[0], heads = query[1], depth = query[2], sequences = call->inputs[3].sizes[0] - 1;
    // The lengths are numbers on the device, and to read them would wait for it. The attribute bounds them;
    // without it no sequence is longer than all tokens, and blocks behind a sequence's end return at once.
    const int64_t bound = attribute(*call, "max_length").integer;
    const Grid size{sequences, heads, bound > 0 && bound < tokens ? bound : tokens};
    if (sequences < 0 || sequences > 65535 || heads < 1 || heads > 65535 || depth < 8 || depth > 128 ||
        depth % 8 != 0 || bound < 0)
        return EDGEC_REFUSED;
    if (sequences == 0 || size.longest == 0) return EDGEC_DONE;
    const auto given = static_cast<float>(attribute(*call, "scale").number);
    const float scale = given > 0.0f ? given : 1.0f / sqrtf(static_cast<float>(depth));
    const Arguments arguments{static_cast<const __half*>(call->inputs[0].data),
                              static_cast<const __half*>(call->inputs[1].data),
                              static_cast<const __half*>(call->inputs[2].data),
                              static_cast<__half*>(call->outputs[0].data),
                              static_cast<const int32_t*>(call->inputs[3].data),
                              heads * depth,
                              static_cast<int>(depth),
                              scale * LOG2E};
    const auto on = static_cast<cudaStream_t>(call->stream);
    if (depth <= 32) return launch<32, 4, 1, 64>(arguments, size, on);
    // Two tiles of queries a warp read each key once for both, and leave more of a short sequence's tile empty:
    // of 512 keys 0.95 of the time, of 257 on average 1.06 (H100).
    if (depth <= 64 && size.longest > 256) return launch<64, 4, 2, 64>(arguments, size, on);
    if (depth <= 64) return launch<64, 4, 1, 64>(arguments, size, on);
    return launch<128, 4, 1, 64>(arguments, size, on);
}
