#include "sha256.hpp"

#include <array>
#include <cstdint>

namespace edgec {

namespace {

using Words = std::array<std::uint32_t, 8>;

std::uint32_t rotated(std::uint32_t value, int by) { return (value >> by) | (value << (32 - by)); }

// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
std::array<std::uint32_t, 64> constants() {
    std::array<std::uint32_t, 64> found{};
    std::size_t count = 0;
    for (int candidate = 2; count < found.size(); ++candidate) {
        bool prime = true;
        for (int divisor = 2; divisor * divisor <= candidate; ++divisor) prime &= candidate % divisor != 0;
        if (!prime) continue;
        // The root in 36.32 fixed point, by bisection on integers: exact on every machine.
        unsigned __int128 low = 0, high = static_cast<unsigned __int128>(8) << 32;
        const unsigned __int128 target = static_cast<unsigned __int128>(candidate) << 96;
        while (high - low > 1) {
            const unsigned __int128 middle = (low + high) / 2;
            (middle * middle * middle <= target ? low : high) = middle;
        }
        found[count++] = static_cast<std::uint32_t>(low);
    }
    return found;
}

void block(Words &state, const unsigned char *bytes) {
    static const std::array<std::uint32_t, 64> k = constants();
    std::array<std::uint32_t, 64> w{};
    for (std::size_t i = 0; i < 16; ++i) {
        w[i] = static_cast<std::uint32_t>(bytes[4 * i] << 24 | bytes[4 * i + 1] << 16 | bytes[4 * i + 2] << 8 |
                                          bytes[4 * i + 3]);
    }
    for (std::size_t i = 16; i < 64; ++i) {
        const std::uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (rotated(a, 7) ^ rotated(a, 18) ^ (a >> 3)) + w[i - 7] +
               (rotated(b, 17) ^ rotated(b, 19) ^ (b >> 10));
    }
    Words s = state;
    for (std::size_t i = 0; i < 64; ++i) {
        const std::uint32_t one = s[7] + (rotated(s[4], 6) ^ rotated(s[4], 11) ^ rotated(s[4], 25)) +
                                  ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
        const std::uint32_t two = (rotated(s[0], 2) ^ rotated(s[0], 13) ^ rotated(s[0], 22)) +
                                  ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        s = {one + two, s[0], s[1], s[2], s[3] + one, s[4], s[5], s[6]};
    }
    for (std::size_t i = 0; i < 8; ++i) state[i] += s[i];
}

}  // namespace

std::string sha256(const std::vector<char> &data) {
    Words state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    const auto *bytes = reinterpret_cast<const unsigned char *>(data.data());
    const std::size_t whole = data.size() / 64 * 64;
    for (std::size_t at = 0; at < whole; at += 64) block(state, bytes + at);
    std::vector<unsigned char> tail(bytes + whole, bytes + data.size());
    tail.push_back(0x80);
    while (tail.size() % 64 != 56) tail.push_back(0);
    const std::uint64_t bits = static_cast<std::uint64_t>(data.size()) * 8;
    for (int shift = 56; shift >= 0; shift -= 8) tail.push_back(static_cast<unsigned char>(bits >> shift));
    for (std::size_t at = 0; at < tail.size(); at += 64) block(state, tail.data() + at);
    std::string hex;
    for (const std::uint32_t word : state) {
        for (int shift = 28; shift >= 0; shift -= 4) hex += "0123456789abcdef"[(word >> shift) & 15];
    }
    return hex;
}

}  // namespace edgec
