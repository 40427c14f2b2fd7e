// Many threads on one session of the library as it is installed: each run gives what it gives alone.
//
//   cpp_threads BUNDLE ENGINE        of a model y = relu(x·w + b), n = ids + 1, of two rows
#include <edgec_runtime.h>

#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

static std::vector<char> answer(edgec_session *session, int seed) {
    float x[8];
    std::int64_t ids[2] = {seed, -seed};
    for (int at = 0; at < 8; ++at) x[at] = static_cast<float>((seed * 7 + at * 3) % 11) - 5;
    const std::int64_t shape[2] = {2, 4};
    const edgec_array feeds[2] = {{"float32", 2, shape, x, sizeof x}, {"int64", 1, shape, ids, sizeof ids}};
    edgec_result *result = nullptr;
    if (edgec_run(session, feeds, 2, &result) != EDGEC_OK) return {};
    std::vector<char> found;
    for (std::size_t index = 0; index < edgec_output_count(session); ++index) {
        const edgec_array array = edgec_result_array(result, index);
        const auto *bytes = static_cast<const char *>(array.data);
        found.insert(found.end(), bytes, bytes + array.bytes);
    }
    edgec_free(result);
    return found;
}

int main(int, char **words) {
    edgec_session *session = nullptr;
    if (edgec_open(words[1], words[2], &session) != EDGEC_OK) return std::puts(edgec_message()), 1;
    std::vector<std::vector<char>> alone;
    for (int seed = 0; seed < 16; ++seed) alone.push_back(answer(session, seed));
    std::vector<int> wrong(8, 0);
    std::vector<std::thread> threads;
    for (int at = 0; at < 8; ++at) {
        threads.emplace_back([&, at] {
            for (int run = 0; run < 200; ++run) {
                const int seed = (run + at) % 16;
                wrong[at] += answer(session, seed) != alone[static_cast<std::size_t>(seed)];
            }
        });
    }
    for (std::thread &thread : threads) thread.join();
    edgec_close(session);
    int all = 0;
    for (const int one : wrong) all += one;
    std::printf("%d wrong, %zu bytes each\n", all, alone[0].size());
    return all != 0;
}
