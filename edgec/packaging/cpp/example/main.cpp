// edgec-run: a bundle for x86 without Python.
//
//   edgec-run run   BUNDLE NAME=FILE.npy … [--output FOLDER] [--engine LIBRARY]
//   edgec-run bench BUNDLE NAME=FILE.npy … [--seconds N]     [--engine LIBRARY]
//
// LIBRARY is libonnxruntime.so or libopenvino_c.so; without it, the system's own is taken.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <memory>

#include "arrays.hpp"
#include "edgec_runtime.h"
#include "error.hpp"

namespace {

using edgec::Array;
using edgec::Error;
using Session = std::unique_ptr<edgec_session, decltype(&edgec_close)>;
using Result = std::unique_ptr<edgec_result, decltype(&edgec_free)>;

// .npy's short names of dtypes, and the long ones.
const std::map<std::string, std::string> kNames = {
    {"<f4", "float32"}, {"<f8", "float64"}, {"<f2", "float16"}, {"<i8", "int64"},  {"<i4", "int32"},  {"<i2", "int16"},
    {"|i1", "int8"},    {"|u1", "uint8"},   {"|b1", "bool"},    {"<u2", "uint16"}, {"<u4", "uint32"}, {"<u8", "uint64"},
};

struct Options {
    std::string command, bundle, output, engine;
    double seconds = 3;
    std::map<std::string, Array> feeds;
};

Options read(const std::vector<std::string> &words) {
    if (words.size() < 2) throw Error("usage: edgec-run run|bench BUNDLE NAME=FILE.npy … [--output FOLDER] [--engine LIBRARY]", 2);
    Options options;
    options.command = words[0], options.bundle = words[1];
    for (std::size_t at = 2; at < words.size(); ++at) {
        const std::string &word = words[at];
        if (word.compare(0, 2, "--") == 0) {
            if (at + 1 == words.size()) throw Error(word + " needs a value", 2);
            const std::string &value = words[++at];
            if (word == "--output") options.output = value;
            else if (word == "--engine") options.engine = value;
            else if (word == "--seconds") options.seconds = std::atof(value.c_str());
            else throw Error("there is no option " + word, 2);
            continue;
        }
        const std::size_t equals = word.rfind('=');
        if (equals == std::string::npos) throw Error("'" + word + "': write NAME=FILE.npy", 2);
        options.feeds[word.substr(0, equals)] = edgec::read_npy(word.substr(equals + 1));
    }
    return options;
}

void check(edgec_status status) {
    if (status != EDGEC_OK) throw Error(edgec_message(), status);
}

// The arrays in the model's order, over the memory that was read.
std::vector<edgec_array> feeds_of(const edgec_session *session, const Options &options) {
    std::vector<edgec_array> feeds;
    for (std::size_t index = 0; index < edgec_input_count(session); ++index) {
        const std::string name = edgec_input(session, index).name;
        const auto found = options.feeds.find(name);
        if (found == options.feeds.end()) throw Error("there is no array for input '" + name + "'; add " + name + "=FILE.npy", 2);
        const Array &array = found->second;
        const auto dtype = kNames.find(array.dtype);
        if (dtype == kNames.end()) throw Error("input '" + name + "' is of the type " + array.dtype + ", which no model takes", 2);
        feeds.push_back({dtype->second.c_str(), array.shape.size(), array.shape.data(), array.data.data(), array.data.size()});
    }
    if (feeds.size() != options.feeds.size()) throw Error("an array was given that the model has no input for", 2);
    return feeds;
}

Result run(edgec_session *session, const std::vector<edgec_array> &feeds) {
    edgec_result *result = nullptr;
    check(edgec_run(session, feeds.data(), feeds.size(), &result));
    return {result, edgec_free};
}

void show(edgec_session *session, const std::vector<edgec_array> &feeds, const std::string &folder) {
    const Result result = run(session, feeds);
    for (std::size_t index = 0; index < edgec_output_count(session); ++index) {
        const edgec_array array = edgec_result_array(result.get(), index);
        std::string file = edgec_output(session, index).name;
        const std::vector<std::int64_t> shape(array.shape, array.shape + array.rank);
        std::cout << file << " " << array.dtype << " " << edgec::to_text(shape) << "\n";
        if (folder.empty()) continue;
        const auto *bytes = static_cast<const char *>(array.data);
        Array copy{"", shape, {bytes, bytes + array.bytes}};
        for (const auto &[brief, name] : kNames) copy.dtype = name == array.dtype ? brief : copy.dtype;
        std::replace(file.begin(), file.end(), '/', '_');
        edgec::write_npy(folder + "/" + file + ".npy", copy);
    }
}

// Prints one JSON object: milliseconds of whole runs.
void bench(edgec_session *session, const std::vector<edgec_array> &feeds, double seconds) {
    using Clock = std::chrono::steady_clock;
    for (int warmup = 0; warmup < 3; ++warmup) run(session, feeds);
    std::vector<double> times;
    const auto begin = Clock::now();
    while (times.empty() || std::chrono::duration<double>(Clock::now() - begin).count() < seconds) {
        const auto start = Clock::now();
        run(session, feeds);
        times.push_back(std::chrono::duration<double, std::milli>(Clock::now() - start).count());
    }
    std::sort(times.begin(), times.end());
    const auto at = [&times](double share) { return times[static_cast<std::size_t>(share * static_cast<double>(times.size() - 1))]; };
    std::printf("{\"runs\": %zu, \"p50\": %.6f, \"p90\": %.6f, \"p99\": %.6f}\n", times.size(), at(0.5), at(0.9), at(0.99));
}

}  // namespace

int main(int count, char **words) {
    try {
        const Options options = read(std::vector<std::string>(words + 1, words + count));
        if (options.command != "run" && options.command != "bench") {
            throw Error("there is no command " + options.command + ", there are run and bench", 2);
        }
        edgec_session *opened = nullptr;
        check(edgec_open(options.bundle.c_str(), options.engine.empty() ? nullptr : options.engine.c_str(), &opened));
        const Session session(opened, edgec_close);
        const std::vector<edgec_array> feeds = feeds_of(session.get(), options);
        options.command == "run" ? show(session.get(), feeds, options.output) : bench(session.get(), feeds, options.seconds);
        return 0;
    } catch (const Error &error) {
        std::cerr << "edgec-run: " << error.what() << std::endl;
        return error.status();
    } catch (const std::exception &error) {
        std::cerr << "edgec-run: unexpected: " << error.what() << std::endl;
        return 1;
    }
}
