#include "arrays.hpp"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <regex>

#include "error.hpp"

namespace edgec {

namespace {

constexpr char kMagic[] = "\x93NUMPY";
constexpr std::size_t kMagicSize = 6;
constexpr std::size_t kLongestHeader = 10000;
constexpr std::ptrdiff_t kMostDigits = 15;

std::string captured(const std::string &header, const std::string &pattern, const std::string &path) {
    std::smatch match;
    if (!std::regex_search(header, match, std::regex(pattern))) throw Error(path + ": not an .npy file", 2);
    return match[1];
}

template <typename To, typename From>
void narrow(const Array &array, Array &made, const std::string &name) {
    const std::size_t count = array.data.size() / sizeof(From);
    made.data.resize(count * sizeof(To));
    for (std::size_t at = 0; at < count; ++at) {
        From number;
        std::memcpy(&number, array.data.data() + at * sizeof(From), sizeof(From));
        if (number < std::numeric_limits<To>::min() || number > std::numeric_limits<To>::max()) {
            throw Error("input '" + name + "' holds " + std::to_string(number) + ", too large for " + made.dtype, 2);
        }
        const To fitted = static_cast<To>(number);
        std::memcpy(made.data.data() + at * sizeof(To), &fitted, sizeof(To));
    }
}

}  // namespace

Array narrowed(const Array &array, const std::string &dtype, const std::string &name) {
    Array made{dtype, array.shape, {}};
    if (array.dtype == "<i8" && dtype == "<i4") {
        narrow<std::int32_t, std::int64_t>(array, made, name);
    } else if (array.dtype == "<i8" && dtype == "|u1") {
        narrow<std::uint8_t, std::int64_t>(array, made, name);
    } else if (array.dtype == "<i4" && dtype == "|u1") {
        narrow<std::uint8_t, std::int32_t>(array, made, name);
    } else {
        return array;
    }
    return made;
}

std::vector<char> read_file(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw Error(path + ": cannot be read (" + std::strerror(errno) + ")", 2);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void write_file(const std::string &path, const void *data, std::size_t size) {
    const std::string scratch = path + ".partial-" + std::to_string(getpid());
    {
        std::ofstream file(scratch, std::ios::binary);
        file.write(static_cast<const char *>(data), static_cast<std::streamsize>(size));
        file.close();
        if (!file) {
            std::remove(scratch.c_str());
            throw Error(path + ": cannot be written; free some space there");
        }
    }
    if (std::rename(scratch.c_str(), path.c_str()) != 0) {
        std::remove(scratch.c_str());
        throw Error(path + ": cannot be written (" + std::strerror(errno) + ")");
    }
}

Array read_npy(const std::string &path) {
    const std::vector<char> file = read_file(path);
    if (file.size() < 12 || std::memcmp(file.data(), kMagic, kMagicSize) != 0) throw Error(path + ": not an .npy file", 2);
    const auto byte = [&file](std::size_t at) { return static_cast<std::size_t>(static_cast<unsigned char>(file[at])); };
    const bool narrow = file[6] == 1;
    const std::size_t begin = narrow ? 10 : 12;
    std::size_t length = byte(8) | byte(9) << 8;
    if (!narrow) length |= byte(10) << 16 | byte(11) << 24;
    if (begin + length > file.size()) throw Error(path + ": the .npy file is cut", 2);
    // A regular expression takes stack for each character.
    if (length > kLongestHeader) throw Error(path + ": its header is longer than numpy reads", 2);
    const std::string header(file.data() + begin, length);
    if (captured(header, "'fortran_order': (True|False)", path) == "True") {
        throw Error(path + ": the array is in Fortran order; write numpy.ascontiguousarray of it", 2);
    }
    Array array;
    array.dtype = captured(header, "'descr': '([<|=>][a-z]\\d{1,3})'", path);
    const std::string sizes = captured(header, "'shape': \\(([^)]*)\\)", path);
    const std::regex digits("\\d+");
    for (std::sregex_iterator at(sizes.begin(), sizes.end(), digits), end; at != end; ++at) {
        if (at->length() > kMostDigits) throw Error(path + ": the .npy file says that it is larger than any memory", 2);
        array.shape.push_back(std::stoll(at->str()));
    }
    array.data.assign(file.begin() + static_cast<std::ptrdiff_t>(begin + length), file.end());
    std::vector<std::int64_t> bytes = array.shape;
    bytes.push_back(std::stol(array.dtype.substr(2)));
    if (array.data.size() != static_cast<std::size_t>(elements(bytes))) throw Error(path + ": the .npy file is cut", 2);
    return array;
}

void write_npy(const std::string &path, const Array &array) {
    std::string shape;
    for (const std::int64_t size : array.shape) shape += std::to_string(size) + ", ";
    std::string header = "{'descr': '" + array.dtype + "', 'fortran_order': False, 'shape': (" + shape + "), }";
    header.append(63 - (10 + header.size()) % 64, ' ');
    header += '\n';
    std::vector<char> file(kMagic, kMagic + kMagicSize);
    file.push_back(1), file.push_back(0);
    file.push_back(static_cast<char>(header.size() & 0xFF)), file.push_back(static_cast<char>(header.size() >> 8));
    file.insert(file.end(), header.begin(), header.end());
    file.insert(file.end(), array.data.begin(), array.data.end());
    write_file(path, file.data(), file.size());
}

std::int64_t elements(const std::vector<std::int64_t> &shape) {
    std::int64_t count = 1;
    for (const std::int64_t size : shape) {
        if (__builtin_mul_overflow(count, size, &count)) throw Error(to_text(shape) + ": more elements than any memory holds", 2);
    }
    return count;
}

std::string to_text(const std::vector<std::int64_t> &shape) {
    std::string text = "[";
    for (const std::int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
    return text + "]";
}

}  // namespace edgec
