#include "pool.hpp"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace edgec {
namespace {

// Rounds of looking for work before a thread sleeps: some ten microseconds, what lies between two kernels.
constexpr int PATIENCE = 4000;

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

class Pool {
public:
    explicit Pool(int64_t threads) : process_(getpid()) {
        for (int64_t index = 1; index < threads; ++index) workers_.emplace_back([this] { work(); });
    }

    ~Pool() {
        if (getpid() != process_) {
            // A forked child has none of the threads: there is nothing to wait for.
            for (std::thread& worker : workers_) worker.detach();
            return;
        }
        {
            const std::lock_guard<std::mutex> guard(sleep_);
            ending_ = true;
            ++round_;
        }
        wake_.notify_all();
        for (std::thread& worker : workers_) worker.join();
    }

    int64_t threads() const { return static_cast<int64_t>(workers_.size()) + 1; }

    void run(int64_t count, edgec_task task, void* data) {
        const std::unique_lock<std::mutex> mine(turn_, std::try_to_lock);
        if (!mine.owns_lock()) {
            for (int64_t index = 0; index < count; ++index) task(index, data);
            return;
        }
        task_ = task;
        data_ = data;
        count_ = count;
        next_.store(0, std::memory_order_relaxed);
        busy_.store(static_cast<int64_t>(workers_.size()), std::memory_order_relaxed);
        {
            const std::lock_guard<std::mutex> guard(sleep_);
            ++round_;
        }
        if (sleepers_.load() > 0) wake_.notify_all();
        take();
        while (busy_.load(std::memory_order_acquire) > 0) pause();
    }

private:
    void take() {
        for (int64_t index; (index = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) task_(index, data_);
    }

    void work() {
        uint64_t seen = 0;
        for (;;) {
            for (int turn = 0; turn < PATIENCE && round_.load(std::memory_order_acquire) == seen; ++turn) pause();
            if (round_.load(std::memory_order_acquire) == seen) {
                std::unique_lock<std::mutex> guard(sleep_);
                ++sleepers_;
                wake_.wait(guard, [&] { return round_.load() != seen; });
                --sleepers_;
            }
            ++seen;
            if (ending_) return;
            take();
            busy_.fetch_sub(1, std::memory_order_release);
        }
    }

    const pid_t process_;
    std::vector<std::thread> workers_;
    std::mutex turn_, sleep_;
    std::condition_variable wake_;
    std::atomic<uint64_t> round_{0};
    std::atomic<int64_t> next_{0}, busy_{0}, sleepers_{0};
    std::atomic<bool> ending_{false};
    edgec_task task_ = nullptr;
    void* data_ = nullptr;
    int64_t count_ = 0;
};

std::unique_ptr<Pool> pool;

}  // namespace

int64_t pool_threads() { return pool == nullptr ? 1 : pool->threads(); }

void pool_resize(int64_t threads) {
    if (threads == pool_threads()) return;
    pool.reset();
    if (threads > 1) pool = std::make_unique<Pool>(threads);
}

void pool_run(int64_t count, edgec_task task, void* data, int) { pool->run(count, task, data); }

}  // namespace edgec
