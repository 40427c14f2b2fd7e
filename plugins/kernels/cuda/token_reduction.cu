// TokenMerge, TokenMergeEnergy, TokenPrune and TokenRestore on an NVIDIA GPU: three launches a merge.
//
//   keys     sums the metric over heads and takes the inverse norms            (one warp a token)
//   match    finds every seeker's most alike host                              (16 seekers a block)
//   average  ranks the seekers, places the tokens, averages and writes them    (one warp an output row)
//
// Ranking and placing cost less than a launch, so every block of `average` does them again for its sample.
// Pruning and merging by energy put one launch between, which lists who leaves and who stays.
//
// Sizes and scores are fp32 always, so that a size is exact.

#include "kernel.h"

#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace {

constexpr int THREADS = 256, WARP = 32, WARPS = THREADS / WARP;
constexpr int SEEKERS = 16;                 // seekers a block of `match`
constexpr int LANES = THREADS / SEEKERS;    // threads a seeker
constexpr int HOSTS = 8;                    // hosts a thread
constexpr int TILE = LANES * HOSTS;         // hosts a tile
constexpr int DEPTH = 64;                   // depth a tile
static_assert(THREADS / (DEPTH / 4) == LANES && LANES == SEEKERS, "a load takes one row of each");
constexpr int ROW = DEPTH + 4;              // padded: eight threads read eight rows without a bank twice
constexpr int LONGEST = 2304;                // tokens; `average` then fits 48 KB of shared memory
constexpr float BOUND = 1.0e15f, TINY = 1.0e-30f;
constexpr unsigned ALL = 0xffffffffu;

enum Kind { ALTERNATE, LISTED };

struct Sizes {
    int batch, length, channels, heads, depth, r, guarded, free_count, seekers, hosts;
};

// Device memory of one call, sample after sample.
struct Work {
    float* keys;     // (batch, free, depth)
    float* inverse;  // (batch, free)
    float* best;     // (batch, free): likeness to the partner
    int* partner;    // (batch, free): of seeker i, a free token; or its energy
    int* seekers;    // (batch, free)
    int* hosts;      // (batch, free)
};

__host__ __device__ inline int64_t aligned(int64_t count) { return (count + 63) / 64 * 64; }

Work work_of(const Sizes& s, void* workspace) {
    const int64_t rows = aligned(int64_t(s.batch) * s.free_count);
    Work w;
    w.keys = static_cast<float*>(workspace);
    w.inverse = w.keys + aligned(int64_t(s.batch) * s.free_count * s.depth);
    w.best = w.inverse + rows;
    w.partner = reinterpret_cast<int*>(w.best + rows);
    w.seekers = w.partner + rows;
    w.hosts = w.seekers + rows;
    return w;
}

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__half x) { return __half2float(x); }
__device__ inline void from_float(float x, float& out) { out = x; }
__device__ inline void from_float(float x, __half& out) { out = __float2half_rn(x); }

__device__ inline float clean(float x) { return x == x ? fminf(fmaxf(x, -BOUND), BOUND) : 0.0f; }

template <typename T>
__global__ void __launch_bounds__(THREADS)
    keys_kernel(Sizes s, Work w, const T* metric, const float* sizes) {
    const int lane = threadIdx.x % WARP, row = blockIdx.x * WARPS + threadIdx.x / WARP;
    if (row >= s.free_count) return;
    const int64_t stride = int64_t(s.length) * s.depth;
    const T* first = metric + int64_t(blockIdx.y) * s.heads * stride + int64_t(s.guarded + row) * s.depth;
    float* key = w.keys + (int64_t(blockIdx.y) * s.free_count + row) * s.depth;
    const bool there = sizes[int64_t(blockIdx.y) * s.length + s.guarded + row] > 0.0f;  // padding has no key
    float square = 0.0f;
    for (int k = lane; k < s.depth; k += WARP) {
        float sum = 0.0f;
#pragma unroll 8
        for (int h = 0; there && h < s.heads; ++h) sum += clean(to_float(first[h * stride + k]));
        key[k] = sum;
        square = fmaf(sum, sum, square);
    }
    for (int step = WARP / 2; step > 0; step /= 2) square += __shfl_xor_sync(ALL, square, step);
    if (lane == 0)
        w.inverse[int64_t(blockIdx.y) * s.free_count + row] = __fdiv_rn(1.0f, __fsqrt_rn(fmaxf(square, TINY)));
}

// Every seeker's best host (ENERGY false), or its energy over all free tokens (true).
template <Kind KIND, bool ENERGY>
__global__ void __launch_bounds__(THREADS, 2) match_kernel(Sizes s, Work w, float margin) {
    __shared__ __align__(16) float mine[SEEKERS][ROW];
    __shared__ __align__(16) float theirs[TILE][ROW];
    const int64_t base = int64_t(blockIdx.y) * s.free_count;
    const float* keys = w.keys + base * s.depth;
    const float* inverse = w.inverse + base;
    const int lane = threadIdx.x % LANES, slot = threadIdx.x / LANES;
    const int seeker = blockIdx.x * SEEKERS + slot;
    const auto seeker_token = [&](int i) { return KIND == ALTERNATE ? 2 * i : w.seekers[base + i]; };
    const auto host_token = [&](int j) { return KIND == ALTERNATE ? 2 * j + 1 : w.hosts[base + j]; };
    float best = -INFINITY;
    int partner = 0;  // or the energy
    for (int tile = 0; tile < s.hosts; tile += TILE) {
        float sum[HOSTS];
#pragma unroll
        for (int j = 0; j < HOSTS; ++j) sum[j] = 0.0f;
        for (int deep = 0; deep < s.depth; deep += DEPTH) {
            __syncthreads();
            const int column = static_cast<int>(threadIdx.x) % (DEPTH / 4) * 4, depth = min(DEPTH, s.depth - deep);
            const auto four = [&](int token) {
                const float* from = keys + int64_t(token) * s.depth + deep + column;
                if (s.depth % 4 == 0 && column + 4 <= depth) return *reinterpret_cast<const float4*>(from);
                return make_float4(column < depth ? from[0] : 0.0f, column + 1 < depth ? from[1] : 0.0f,
                                   column + 2 < depth ? from[2] : 0.0f, column + 3 < depth ? from[3] : 0.0f);
            };
            const int row = static_cast<int>(threadIdx.x) / (DEPTH / 4);  // LANES rows at a time
            float4 part[HOSTS];
#pragma unroll
            for (int j = 0; j < HOSTS; ++j) {
                const int host = tile + j * LANES + row;
                part[j] = host < s.hosts ? four(host_token(host)) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            }
            const int own_row = static_cast<int>(blockIdx.x) * SEEKERS + row;
            *reinterpret_cast<float4*>(&mine[row][column]) =
                own_row < s.seekers ? four(seeker_token(own_row)) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
            for (int j = 0; j < HOSTS; ++j)
                *reinterpret_cast<float4*>(&theirs[j * LANES + row][column]) = part[j];
            __syncthreads();
#pragma unroll 4
            for (int k = 0; k < DEPTH; k += 4) {
                const float4 a = *reinterpret_cast<const float4*>(&mine[slot][k]);
#pragma unroll
                for (int j = 0; j < HOSTS; ++j) {
                    const float4 b = *reinterpret_cast<const float4*>(&theirs[j * LANES + lane][k]);
                    sum[j] = fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, sum[j]))));
                }
            }
        }
        if (seeker < s.seekers) {
            const float own = ENERGY ? inverse[seeker_token(seeker)] : 0.0f;
#pragma unroll
            for (int j = 0; j < HOSTS; ++j) {
                const int host = tile + j * LANES + lane;
                if (host >= s.hosts) continue;
                const int token = host_token(host);
                const float alike = __fmul_rn(sum[j], inverse[token]);
                if (ENERGY) {
                    const float x = __fsub_rn(__fmul_rn(alike, own), margin);
                    const float pull = x > 0.0f ? x : __fdiv_rn(x, __fadd_rn(fabsf(x), 1.0f));
                    partner += __float2int_rn(__fmul_rn(pull, 65536.0f));
                } else if (alike > best) {
                    best = alike;
                    partner = token;
                }
            }
        }
    }
    for (int step = LANES / 2; step > 0; step /= 2) {
        const float other = __shfl_xor_sync(ALL, best, step, LANES);
        const int other_partner = __shfl_xor_sync(ALL, partner, step, LANES);
        if (ENERGY) {
            partner += other_partner;
        } else if (other > best || (other == best && other_partner < partner)) {
            best = other;
            partner = other_partner;
        }
    }
    if (lane == 0 && seeker < s.seekers) {
        if (!ENERGY) w.best[base + seeker] = best;
        w.partner[base + seeker] = partner;
    }
}

template <typename Value>
__device__ inline int rank_of(const Value* value, int count, int i) {
    int rank = 0;
    const Value own = value[i];
#pragma unroll 8
    for (int j = 0; j < count; ++j) {
        const Value other = value[j];
        rank += other > own || (other == own && j < i);
    }
    return rank;
}

// Lists who leaves and who stays, by energy (score null) or by score. One block a sample.
__global__ void __launch_bounds__(1024) lists_kernel(Sizes s, Work w, const float* score, const float* sizes) {
    extern __shared__ float value[];
    int* energy = reinterpret_cast<int*>(value);
    __shared__ int words[2][LONGEST / WARP];
    const int64_t base = int64_t(blockIdx.x) * s.free_count;
    const float* size = sizes + int64_t(blockIdx.x) * s.length + s.guarded;
    for (int i = threadIdx.x; i < s.free_count; i += blockDim.x) {
        if (score == nullptr) {
            energy[i] = size[i] > 0.0f ? w.partner[base + i] : 1 << 30;
        } else {
            const float x = score[int64_t(blockIdx.x) * s.length + s.guarded + i];
            const float number = x == x ? fminf(fmaxf(x, -2.0e38f), 2.0e38f) : -2.0e38f;
            value[i] = size[i] > 0.0f ? number : -3.0e38f;
        }
    }
    __syncthreads();
    const int whole = (s.free_count + WARP - 1) / WARP * WARP;
    for (int i = threadIdx.x; i < whole; i += blockDim.x) {
        bool leaves = false, stays = false;
        if (i < s.free_count) {
            const int rank = score == nullptr ? rank_of(energy, s.free_count, i) : rank_of(value, s.free_count, i);
            leaves = score == nullptr ? rank < 2 * s.r && rank % 2 == 0 : rank >= s.free_count - s.r;
            stays = score == nullptr ? rank < 2 * s.r && rank % 2 == 1 : !leaves;
        }
        const unsigned leaving = __ballot_sync(ALL, leaves), staying = __ballot_sync(ALL, stays);
        if (i % WARP == 0) {
            words[0][i / WARP] = static_cast<int>(leaving);
            words[1][i / WARP] = static_cast<int>(staying);
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < s.free_count; i += blockDim.x) {
        for (int list = 0; list < 2; ++list) {
            const unsigned word = static_cast<unsigned>(words[list][i / WARP]);
            if ((word >> (i % WARP) & 1u) == 0u) continue;
            int place = __popc(word & ((1u << (i % WARP)) - 1u));
            for (int before = 0; before < i / WARP; ++before) place += __popc(words[list][before]);
            (list == 0 ? w.seekers : w.hosts)[base + place] = i;
        }
    }
}

// Lists all free tokens, as seekers and hosts of the energy.
__global__ void everyone_kernel(Sizes s, Work w) {
    const int64_t base = int64_t(blockIdx.y) * s.free_count;
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < s.free_count) w.seekers[base + i] = w.hosts[base + i] = i;
}

template <typename T>
struct Pack {
    static constexpr int COUNT = 16 / sizeof(T);
    union {
        uint4 raw;
        T item[COUNT];
    };
};

// One warp: the average of a slot's members, ITEMS channels a lane and step.
template <typename T, int ITEMS>
__device__ inline void average_row(const Sizes& s, const T* tokens, const float* size, const int* slot_of,
                                   const int* gone, int gone_count, int row, int keeper, bool drop, T* out,
                                   float* out_size) {
    const int lane = threadIdx.x % WARP;
    float mass = size[keeper];
    int members = 1;
    if (!drop) {
        for (int start = 0; start < gone_count; start += WARP) {
            const int token = start + lane < gone_count ? gone[start + lane] : -1;
            unsigned found = __ballot_sync(ALL, token >= 0 && slot_of[token] == row);
            members += __popc(found);
            for (; found != 0u; found &= found - 1u)
                mass += size[__shfl_sync(ALL, token, __ffs(static_cast<int>(found)) - 1)];
        }
    }
    if (lane == 0) *out_size = mass;
    const bool alone = members == 1 && mass > 0.0f;
    const float scale = 1.0f / fmaxf(mass, TINY), own = size[keeper] * scale;
    for (int c = 0; c < s.channels; c += WARP * ITEMS) {
        const int at = c + lane * ITEMS;
        const bool inside = at < s.channels;
        float sum[ITEMS];
        Pack<T> pack;
        const auto fetch = [&](int token) {
            const T* from = tokens + int64_t(token) * s.channels + at;
            if constexpr (ITEMS == Pack<T>::COUNT)
                pack.raw = __ldg(reinterpret_cast<const uint4*>(from));
            else
                pack.item[0] = *from;
        };
        if (inside) {
            fetch(keeper);
#pragma unroll
            for (int i = 0; i < ITEMS; ++i) sum[i] = alone ? to_float(pack.item[i]) : to_float(pack.item[i]) * own;
        }
        if (members > 1) {
            for (int start = 0; start < gone_count; start += WARP) {
                const int token = start + lane < gone_count ? gone[start + lane] : -1;
                unsigned found = __ballot_sync(ALL, token >= 0 && slot_of[token] == row);
                for (; found != 0u; found &= found - 1u) {
                    const int member = __shfl_sync(ALL, token, __ffs(static_cast<int>(found)) - 1);
                    if (!inside) continue;
                    const float weight = size[member] * scale;
                    fetch(member);
#pragma unroll
                    for (int i = 0; i < ITEMS; ++i) sum[i] = fmaf(to_float(pack.item[i]), weight, sum[i]);
                }
            }
        }
        if (inside) {
#pragma unroll
            for (int i = 0; i < ITEMS; ++i) from_float(sum[i], pack.item[i]);
            if constexpr (ITEMS == Pack<T>::COUNT)
                *reinterpret_cast<uint4*>(out + at) = pack.raw;
            else
                out[at] = pack.item[0];
        }
    }
}

template <typename T, Kind KIND, int ITEMS>
__global__ void __launch_bounds__(THREADS)
    average_kernel(Sizes s, Work w, int rows, bool drop, const T* tokens, const float* sizes, T* merged,
                   float* merged_sizes, int32_t* assignment) {
    extern __shared__ int shared[];
    int* target = shared;                  // (free): the free token it goes into, -1 if it stays
    int* slot_of = target + s.free_count;  // (length): the output row of each token
    int* gone = slot_of + s.length;        // (r): the tokens that leave, in order
    int* keeper = gone + s.r;              // (rows): the token that each of this block's rows is of
    float* value = reinterpret_cast<float*>(keeper + rows);  // (seekers)
    __shared__ int words[LONGEST / WARP];
    const int64_t sample = blockIdx.y, base = sample * s.free_count;
    const float* size = sizes + sample * s.length;
    const int kept = s.length - s.r, first_row = blockIdx.x * rows;

    for (int i = threadIdx.x; i < s.free_count; i += THREADS) target[i] = -1;
    if (KIND == ALTERNATE)
        for (int i = threadIdx.x; i < s.seekers; i += THREADS)
            value[i] = size[s.guarded + 2 * i] > 0.0f ? __fmul_rn(w.best[base + i], w.inverse[base + 2 * i]) : 2.0f;
    __syncthreads();
    for (int i = threadIdx.x; i < s.seekers; i += THREADS) {
        if (KIND == ALTERNATE) {
            if (rank_of(value, s.seekers, i) < s.r) target[2 * i] = w.partner[base + i];
        } else {
            target[w.seekers[base + i]] = w.partner[base + i];
        }
    }
    __syncthreads();
    const int whole = (s.free_count + WARP - 1) / WARP * WARP;
    for (int i = threadIdx.x; i < whole; i += THREADS) {
        const unsigned staying = __ballot_sync(ALL, i < s.free_count && target[i] < 0);
        if (i % WARP == 0) words[i / WARP] = static_cast<int>(staying);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < s.length; i += THREADS) {
        const int own = i - s.guarded;
        int place = i;
        if (own >= 0) {
            int stay = __popc(static_cast<unsigned>(words[own / WARP]) & ((1u << (own % WARP)) - 1u));
            for (int before = 0; before < own / WARP; ++before) stay += __popc(words[before]);
            if (target[own] >= 0) {
                gone[own - stay] = i;
                continue;
            }
            place = s.guarded + stay;
        }
        slot_of[i] = place;
        if (place >= first_row && place < first_row + rows) keeper[place - first_row] = i;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < s.r; i += THREADS)
        slot_of[gone[i]] = slot_of[s.guarded + target[gone[i] - s.guarded]];
    __syncthreads();
    if (blockIdx.x == 0)
        for (int i = threadIdx.x; i < s.length; i += THREADS) assignment[sample * s.length + i] = slot_of[i];
    const T* mine = tokens + sample * s.length * s.channels;
    for (int row = first_row + static_cast<int>(threadIdx.x) / WARP; row < min(first_row + rows, kept); row += WARPS)
        average_row<T, ITEMS>(s, mine, size, slot_of, gone, s.r, row, keeper[row - first_row], drop,
                              merged + (sample * kept + row) * s.channels, merged_sizes + sample * kept + row);
}

template <typename Unit>
__global__ void __launch_bounds__(THREADS)
    restore_kernel(int kept, int length, int units, int64_t total, const Unit* tokens, const int32_t* assignment,
                   Unit* restored) {
    for (int64_t index = int64_t(blockIdx.x) * THREADS + threadIdx.x; index < total;
         index += int64_t(gridDim.x) * THREADS) {
        const int64_t row = index / units;
        restored[index] = tokens[(row / length * kept + assignment[row]) * units + index % units];
    }
}

// The call's sizes; its metric is the input at that place. False where they are out of range.
bool sizes_of(const edgec_cuda_call& call, int metric, bool pairs, Sizes& s) {
    const int64_t *tokens = call.inputs[0].sizes, *keys = call.inputs[metric].sizes;
    const int64_t batch = tokens[0], length = tokens[1], channels = tokens[2], heads = keys[1], depth = keys[3];
    const int64_t r = attribute(call, "r").integer, guarded = attribute(call, "protected").integer;
    const int64_t free_count = length - guarded, limit = pairs ? free_count / 2 : free_count - 1;
    if (batch < 1 || batch > 65535 || channels < 1 || heads < 1 || depth < 1 || guarded < 0 || free_count < 2 || r < 0 ||
        r > limit || length > LONGEST || channels > (1 << 24) || depth > (1 << 16))
        return false;
    s.batch = static_cast<int>(batch), s.length = static_cast<int>(length);
    s.channels = static_cast<int>(channels), s.heads = static_cast<int>(heads);
    s.depth = static_cast<int>(depth), s.r = static_cast<int>(r);
    s.guarded = static_cast<int>(guarded), s.free_count = static_cast<int>(free_count);
    s.seekers = (s.free_count + 1) / 2, s.hosts = s.free_count / 2;
    return true;
}

int over(int count, int each) { return (count + each - 1) / each; }
dim3 grid_of(int count, int each, const Sizes& s) {
    return dim3(static_cast<unsigned>(over(count, each)), static_cast<unsigned>(s.batch));
}

int launched() {
    const cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? EDGEC_DONE : EDGEC_CUDA_ERROR + static_cast<int>(error);
}

template <typename T, Kind KIND>
void average(const Sizes& s, const Work& w, bool drop, const T* tokens, const float* sizes, T* merged,
             float* merged_sizes, int32_t* assignment, cudaStream_t stream) {
    const int rows = s.length <= 512 ? WARPS : 8 * WARPS;
    const size_t bytes = sizeof(int) * static_cast<size_t>(s.free_count + s.length + s.r + rows) +
                         sizeof(float) * static_cast<size_t>(s.seekers);
    const dim3 grid = grid_of(s.length - s.r, rows, s);
    constexpr int WIDE = Pack<T>::COUNT;
    const auto whole = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; };
    if (s.channels % WIDE == 0 && whole(tokens) && whole(merged))
        average_kernel<T, KIND, WIDE><<<grid, THREADS, bytes, stream>>>(s, w, rows, drop, tokens, sizes, merged,
                                                                        merged_sizes, assignment);
    else
        average_kernel<T, KIND, 1><<<grid, THREADS, bytes, stream>>>(s, w, rows, drop, tokens, sizes, merged,
                                                                     merged_sizes, assignment);
}

template <typename T>
T* data_of(const edgec_tensor& tensor) {
    return static_cast<T*>(tensor.data);
}

template <typename T>
int merge(const edgec_cuda_call& call, const Sizes& s) {
    const auto stream = static_cast<cudaStream_t>(call.stream);
    const Work w = work_of(s, call.workspace);
    const float* const sizes = data_of<const float>(call.inputs[2]);
    keys_kernel<T>
        <<<grid_of(s.free_count, WARPS, s), THREADS, 0, stream>>>(s, w, data_of<const T>(call.inputs[1]), sizes);
    match_kernel<ALTERNATE, false><<<grid_of(s.seekers, SEEKERS, s), THREADS, 0, stream>>>(s, w, 0.0f);
    average<T, ALTERNATE>(s, w, false, data_of<const T>(call.inputs[0]), sizes, data_of<T>(call.outputs[0]),
                          data_of<float>(call.outputs[1]), data_of<int32_t>(call.outputs[2]), stream);
    return launched();
}

// Merging by energy (score null) or pruning by score; the metric is the input at that place.
template <typename T>
int by_list(const edgec_cuda_call& call, Sizes s, int metric, const float* score, float margin, bool drop) {
    const auto stream = static_cast<cudaStream_t>(call.stream);
    const Work w = work_of(s, call.workspace);
    const float* const sizes = data_of<const float>(call.inputs[metric + 1]);
    keys_kernel<T>
        <<<grid_of(s.free_count, WARPS, s), THREADS, 0, stream>>>(s, w, data_of<const T>(call.inputs[metric]), sizes);
    if (score == nullptr) {
        s.seekers = s.hosts = s.free_count;
        everyone_kernel<<<grid_of(s.free_count, THREADS, s), THREADS, 0, stream>>>(s, w);
        match_kernel<LISTED, true><<<grid_of(s.seekers, SEEKERS, s), THREADS, 0, stream>>>(s, w, margin);
    }
    const size_t bytes = sizeof(float) * static_cast<size_t>(s.free_count);
    lists_kernel<<<static_cast<unsigned>(s.batch), 1024, bytes, stream>>>(s, w, score, sizes);
    s.seekers = s.r;
    s.hosts = score == nullptr ? s.r : s.free_count - s.r;
    if (s.r > 0) match_kernel<LISTED, false><<<grid_of(s.seekers, SEEKERS, s), THREADS, 0, stream>>>(s, w, 0.0f);
    average<T, LISTED>(s, w, drop, data_of<const T>(call.inputs[0]), sizes, data_of<T>(call.outputs[0]),
                       data_of<float>(call.outputs[1]), data_of<int32_t>(call.outputs[2]), stream);
    return launched();
}

int64_t workspace(const edgec_cuda_call& call, int metric) {
    const int64_t *tokens = call.inputs[0].sizes, *keys = call.inputs[metric].sizes;
    const int64_t rows = tokens[0] * (tokens[1] - attribute(call, "protected").integer);
    return 4 * (aligned(rows * keys[3]) + 5 * aligned(rows));
}

bool is_half(const edgec_cuda_call& call) { return call.inputs[0].type == EDGEC_FLOAT16; }

}  // namespace

EDGEC_CUDA_WORKSPACE(TokenMerge) { return workspace(*call, 1); }
EDGEC_CUDA_WORKSPACE(TokenMergeEnergy) { return workspace(*call, 1); }
EDGEC_CUDA_WORKSPACE(TokenPrune) { return workspace(*call, 2); }

EDGEC_CUDA_KERNEL(TokenMerge) {
    Sizes s;
    if (!sizes_of(*call, 1, true, s)) return EDGEC_REFUSED;
    return is_half(*call) ? merge<__half>(*call, s) : merge<float>(*call, s);
}

EDGEC_CUDA_KERNEL(TokenMergeEnergy) {
    Sizes s;
    if (!sizes_of(*call, 1, true, s)) return EDGEC_REFUSED;
    const auto margin = static_cast<float>(attribute(*call, "margin").number);
    return is_half(*call) ? by_list<__half>(*call, s, 1, nullptr, margin, false)
                          : by_list<float>(*call, s, 1, nullptr, margin, false);
}

EDGEC_CUDA_KERNEL(TokenPrune) {
    Sizes s;
    const float* const score = data_of<const float>(call->inputs[1]);
    if (score == nullptr || !sizes_of(*call, 2, false, s)) return EDGEC_REFUSED;
    const bool drop = attribute(*call, "merge").integer == 0;
    return is_half(*call) ? by_list<__half>(*call, s, 2, score, 0.0f, drop)
                          : by_list<float>(*call, s, 2, score, 0.0f, drop);
}

EDGEC_CUDA_KERNEL(TokenRestore) {
    const edgec_tensor &tokens = call->inputs[0], &places = call->inputs[1];
    const int64_t batch = tokens.sizes[0], kept = tokens.sizes[1], channels = tokens.sizes[2];
    const int64_t length = places.sizes[1];
    if (batch < 1 || kept < 1 || length < 1 || channels < 1 || batch * length * channels > (int64_t(1) << 40))
        return EDGEC_REFUSED;
    const auto on = static_cast<cudaStream_t>(call->stream);
    const int32_t* const assignment = data_of<const int32_t>(places);
    void* const restored = call->outputs[0].data;
    const bool half = is_half(*call);
    const int64_t bytes = channels * (half ? 2 : 4);
    const bool wide = bytes % 16 == 0 && reinterpret_cast<uintptr_t>(tokens.data) % 16 == 0 &&
                      reinterpret_cast<uintptr_t>(restored) % 16 == 0;
    const int unit = wide ? 16 : (half ? 2 : 4);
    const int64_t total = batch * length * (bytes / unit);
    const auto blocks = static_cast<unsigned>(total / THREADS + 1 < 65535 ? total / THREADS + 1 : 65535);
    const int units = static_cast<int>(bytes / unit), rows = static_cast<int>(length), few = static_cast<int>(kept);
    if (wide)
        restore_kernel<<<blocks, THREADS, 0, on>>>(few, rows, units, total, data_of<const uint4>(tokens), assignment,
                                                   static_cast<uint4*>(restored));
    else if (half)
        restore_kernel<<<blocks, THREADS, 0, on>>>(few, rows, units, total, data_of<const uint16_t>(tokens),
                                                   assignment, static_cast<uint16_t*>(restored));
    else
        restore_kernel<<<blocks, THREADS, 0, on>>>(few, rows, units, total, data_of<const float>(tokens), assignment,
                                                   static_cast<float*>(restored));
    return launched();
}
