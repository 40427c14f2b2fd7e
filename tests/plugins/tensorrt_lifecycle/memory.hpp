// Memory that a plugin computes in: the device's where HARNESS_CUDA is defined, the host's elsewhere. Behind every
// block lie bytes that nothing may touch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

#ifdef HARNESS_CUDA
#include <cuda_runtime_api.h>
#endif

namespace harness {

class Memory {
public:
    static constexpr std::size_t GUARD = 512;
    static constexpr unsigned char MARK = 0xA5, POISON = 0xFF;  // 0xFFFF and 0xFFFFFFFF are NaN

    explicit Memory(std::size_t size) : size_(size) {
        allocate();
        std::vector<unsigned char> start(size + GUARD, POISON);
        std::memset(start.data() + size, MARK, GUARD);
        write(start.data(), start.size());
    }
    ~Memory() { release(); }
    Memory(const Memory &) = delete;
    Memory &operator=(const Memory &) = delete;

    void *data() const { return data_; }
    void fill(const void *from) { write(from, size_); }

    // Copies the block out; false where the bytes behind it were written.
    bool fetch(void *to) const {
        std::vector<unsigned char> all(size_ + GUARD);
        read(all.data(), all.size());
        if (to != nullptr) std::memcpy(to, all.data(), size_);
        for (std::size_t place = size_; place < all.size(); ++place)
            if (all[place] != MARK) return false;
        return true;
    }

private:
#ifdef HARNESS_CUDA
    static void check(cudaError_t status) {
        if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
    }
    void allocate() { check(cudaMalloc(&data_, size_ + GUARD)); }
    void release() { cudaFree(data_); }
    void write(const void *from, std::size_t count) { check(cudaMemcpy(data_, from, count, cudaMemcpyHostToDevice)); }
    void read(void *to, std::size_t count) const { check(cudaMemcpy(to, data_, count, cudaMemcpyDeviceToHost)); }
#else
    void allocate() { data_ = ::operator new(size_ + GUARD, std::align_val_t(256)); }
    void release() { ::operator delete(data_, std::align_val_t(256)); }
    void write(const void *from, std::size_t count) { std::memcpy(data_, from, count); }
    void read(void *to, std::size_t count) const { std::memcpy(to, data_, count); }
#endif

    std::size_t size_;
    void *data_ = nullptr;
};

}  // namespace harness
