// The CUDA kernels' C entries on the host, over the kernels for processors: what a plugin passes them is what is
// computed with. They use all of the workspace that they ask for, and every stride and bound that they are given.
#include "token_cuda.h"
#include "varlen_cuda.h"

#include "token_kernels.h"
#include "varlen_kernels.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

namespace {

std::vector<float> wide(const void *data, int64_t count, bool half) {
    std::vector<float> made(static_cast<std::size_t>(count));
    for (int64_t place = 0; place < count; ++place)
        made[static_cast<std::size_t>(place)] = half ? static_cast<float>(static_cast<const _Float16 *>(data)[place])
                                                     : static_cast<const float *>(data)[place];
    return made;
}

void narrow(const std::vector<float> &from, void *data, bool half) {
    for (std::size_t place = 0; place < from.size(); ++place)
        if (half)
            static_cast<_Float16 *>(data)[place] = static_cast<_Float16>(from[place]);
        else
            static_cast<float *>(data)[place] = from[place];
}

struct Freed {
    void operator()(void *data) const { std::free(data); }
};

template <typename Call>
int reduced(const edgec_cuda_token_shape &s, bool half, const void *tokens, const void *metric, void *merged,
            void *workspace, Call &&call) {
    const edgec_token_shape shape{s.batch, s.length, s.channels, s.heads, s.depth, s.r, s.guarded, 0};
    const auto given = wide(tokens, s.batch * s.length * s.channels, half);
    const auto keys = wide(metric, s.batch * s.heads * s.length * s.depth, half);
    std::vector<float> result(static_cast<std::size_t>(s.batch * (s.length - s.r) * s.channels));
    std::memset(workspace, 0x5A, static_cast<std::size_t>(edgec_cuda_token_workspace(&s)));
    const int64_t bytes = (edgec_token_workspace(&shape) + 63) / 64 * 64 + 64;
    const std::unique_ptr<void, Freed> room(std::aligned_alloc(64, static_cast<std::size_t>(bytes)));
    const int status = call(shape, given.data(), keys.data(), result.data(), room.get());
    if (status == 0) narrow(result, merged, half);
    return status;
}

}  // namespace

extern "C" {

int64_t edgec_cuda_token_workspace(const edgec_cuda_token_shape *s) {
    return 4 * s->batch * (s->length - s->guarded) * (s->depth + 5);
}

int edgec_cuda_token_merge(const edgec_cuda_token_shape *shape, int half, const void *tokens, const void *metric,
                           const float *sizes, void *merged, float *merged_sizes, int32_t *assignment,
                           void *workspace, void *) {
    return reduced(*shape, half != 0, tokens, metric, merged, workspace,
                   [&](const auto &s, auto *given, auto *keys, auto *out, void *room) {
                       return edgec_token_merge(&s, given, keys, sizes, out, merged_sizes, assignment, room, nullptr, 1);
                   });
}

int edgec_cuda_token_merge_energy(const edgec_cuda_token_shape *shape, int half, float margin, const void *tokens,
                                  const void *metric, const float *sizes, void *merged, float *merged_sizes,
                                  int32_t *assignment, void *workspace, void *) {
    return reduced(*shape, half != 0, tokens, metric, merged, workspace,
                   [&](const auto &s, auto *given, auto *keys, auto *out, void *room) {
                       return edgec_token_merge_energy(&s, margin, given, keys, sizes, out, merged_sizes, assignment,
                                                       room, nullptr, 1);
                   });
}

int edgec_cuda_token_prune(const edgec_cuda_token_shape *shape, int half, int merge, const void *tokens,
                           const float *score, const void *metric, const float *sizes, void *merged,
                           float *merged_sizes, int32_t *assignment, void *workspace, void *) {
    return reduced(*shape, half != 0, tokens, metric, merged, workspace,
                   [&](const auto &s, auto *given, auto *keys, auto *out, void *room) {
                       return edgec_token_prune(&s, merge, given, score, keys, sizes, out, merged_sizes, assignment,
                                                room, nullptr, 1);
                   });
}

int edgec_cuda_token_restore(int64_t batch, int64_t kept, int64_t length, int64_t channels, int half,
                             const void *tokens, const int32_t *assignment, void *restored, void *) {
    const auto given = wide(tokens, batch * kept * channels, half != 0);
    std::vector<float> result(static_cast<std::size_t>(batch * length * channels));
    const int status = edgec_token_restore(batch, kept, length, channels, given.data(), assignment, result.data());
    narrow(result, restored, half != 0);
    return status;
}

int edgec_cuda_varlen_attention(const edgec_cuda_varlen_shape *shape, const void *query, const void *key,
                                const void *value, const int32_t *cu_seqlens, void *output, void *) {
    const auto &s = *shape;
    if (s.depth % 8 != 0 || s.depth > 128 || s.sequences < 1) return 1;
    const auto *const q = static_cast<const _Float16 *>(query), *const k = static_cast<const _Float16 *>(key);
    const auto *const v = static_cast<const _Float16 *>(value);
    auto *const out = static_cast<_Float16 *>(output);
    const float scale = s.scale > 0.0f ? s.scale : 1.0f / std::sqrt(static_cast<float>(s.depth));
    for (int64_t sequence = 0; sequence < s.sequences; ++sequence) {
        const int64_t begin = cu_seqlens[sequence], end = cu_seqlens[sequence + 1];
        for (int64_t head = 0; head < s.heads; ++head)
            for (int64_t row = begin; row < end && row - begin < s.max_length; ++row) {
                std::vector<float> weights;
                float most = -INFINITY, total = 0.0f;
                for (int64_t other = begin; other < end; ++other) {
                    float sum = 0.0f;
                    for (int64_t d = 0; d < s.depth; ++d)
                        sum += static_cast<float>(q[row * s.query_stride + head * s.depth + d]) *
                               static_cast<float>(k[other * s.key_stride + head * s.depth + d]);
                    weights.push_back(sum * scale);
                    most = std::fmax(most, weights.back());
                }
                for (float &weight : weights) total += weight = std::exp(weight - most);
                for (int64_t d = 0; d < s.depth; ++d) {
                    float sum = 0.0f;
                    for (int64_t other = begin; other < end; ++other)
                        sum += weights[static_cast<std::size_t>(other - begin)] *
                               static_cast<float>(v[other * s.value_stride + head * s.depth + d]);
                    out[row * s.output_stride + head * s.depth + d] = static_cast<_Float16>(sum / total);
                }
            }
    }
    return 0;
}

}  // extern "C"
