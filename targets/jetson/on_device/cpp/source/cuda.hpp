// CUDA's handles, owned: each is freed where its owner ends.
#pragma once

#include <cuda_runtime_api.h>

#include <string>
#include <utility>

#include "error.hpp"

namespace edgec {

inline void check(cudaError_t status, const char *call) {
    if (status != cudaSuccess) throw Error(std::string(call) + " failed: " + cudaGetErrorString(status));
}

class Stream {
public:
    Stream() { check(cudaStreamCreate(&stream_), "cudaStreamCreate"); }
    ~Stream() { cudaStreamDestroy(stream_); }
    Stream(const Stream &) = delete;
    Stream &operator=(const Stream &) = delete;

    cudaStream_t get() const noexcept { return stream_; }
    void synchronize() const { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

private:
    cudaStream_t stream_ = nullptr;
};

class Event {
public:
    Event() { check(cudaEventCreate(&event_), "cudaEventCreate"); }
    ~Event() { cudaEventDestroy(event_); }
    Event(const Event &) = delete;
    Event &operator=(const Event &) = delete;

    void record(const Stream &stream) { check(cudaEventRecord(event_, stream.get()), "cudaEventRecord"); }
    // Milliseconds from this event to a later one; waits for that one.
    float until(const Event &later) const {
        float milliseconds = 0;
        check(cudaEventSynchronize(later.event_), "cudaEventSynchronize");
        check(cudaEventElapsedTime(&milliseconds, event_, later.event_), "cudaEventElapsedTime");
        return milliseconds;
    }

private:
    cudaEvent_t event_ = nullptr;
};

class Buffer {
public:
    Buffer() = default;
    ~Buffer() { cudaFree(memory_); }
    Buffer(Buffer &&other) noexcept : memory_(std::exchange(other.memory_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    Buffer &operator=(Buffer &&) = delete;
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;

    void *get() const noexcept { return memory_; }
    // Room for `size` bytes; what was in it is lost where it grows.
    void reserve(std::size_t size) {
        if (memory_ != nullptr && size <= size_) return;
        cudaFree(std::exchange(memory_, nullptr));
        size_ = size == 0 ? 1 : size;
        check(cudaMalloc(&memory_, size_), "cudaMalloc");
    }

private:
    void *memory_ = nullptr;
    std::size_t size_ = 0;
};

struct Gpu {
    std::string name, compute_capability;

    static Gpu here() {
        int count = 0;
        const cudaError_t status = cudaGetDeviceCount(&count);
        if (status != cudaSuccess || count == 0) {
            throw Error("CUDA finds no GPU here; run this on the device, in a container with --runtime nvidia");
        }
        int major = 0, minor = 0;
        check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "cudaDeviceGetAttribute");
        check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0), "cudaDeviceGetAttribute");
        cudaDeviceProp properties{};
        check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
        return {properties.name, std::to_string(major) + "." + std::to_string(minor)};
    }
};

}  // namespace edgec
