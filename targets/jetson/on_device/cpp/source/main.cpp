// edgec-engine build|run|bench BUNDLE ENGINE: a bundle's engine without Python.
//
//   edgec-engine build BUNDLE ENGINE [--variant NAME]
//   edgec-engine run   BUNDLE ENGINE --input NAME=FILE.npy … [--output FOLDER]
//   edgec-engine bench BUNDLE ENGINE --input NAME=FILE.npy … [--blocks N] [--runs N]
//
// ENGINE is BUNDLE.device/model.engine where edgec_engine built it.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>

#include "builder.hpp"
#include "error.hpp"
#include "runner.hpp"

namespace {

using edgec::Error;

struct Options {
    std::string command, bundle, engine, output, variant;
    edgec::Arrays feeds;
    int blocks = 7, runs = 100;
};

int positive(const std::string &text) {
    if (text.empty() || text.size() > 6 || text.find_first_not_of("0123456789") != std::string::npos || std::stoi(text) == 0) {
        throw Error("'" + text + "' is not a positive number", 2);
    }
    return std::stoi(text);
}

Options read(const std::vector<std::string> &words) {
    if (words.size() < 3) throw Error("usage: edgec-engine build|run|bench BUNDLE ENGINE [--input NAME=FILE.npy …]", 2);
    Options options{words[0], words[1], words[2], "", "", {}};
    for (std::size_t at = 3; at < words.size(); at += 2) {
        if (at + 1 == words.size()) throw Error(words[at] + " needs a value", 2);
        const std::string &value = words[at + 1];
        if (words[at] == "--input") {
            const std::size_t equals = value.rfind('=');
            if (equals == std::string::npos) throw Error("write --input NAME=FILE.npy", 2);
            options.feeds[value.substr(0, equals)] = edgec::read_npy(value.substr(equals + 1));
        } else if (words[at] == "--output") {
            options.output = value;
        } else if (words[at] == "--variant") {
            options.variant = value;
        } else if (words[at] == "--blocks") {
            options.blocks = positive(value);
        } else if (words[at] == "--runs") {
            options.runs = positive(value);
        } else {
            throw Error("there is no option " + words[at], 2);
        }
    }
    return options;
}

double at_share(std::vector<double> values, double share) {
    std::sort(values.begin(), values.end());
    return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1) + 0.5)];
}

void run(edgec::Runner &runner, const Options &options) {
    for (const auto &[name, array] : runner.run(options.feeds)) {
        std::cout << name << " " << array.dtype << " " << edgec::to_text(array.shape) << "\n";
        if (options.output.empty()) continue;
        std::string file = name;
        std::replace(file.begin(), file.end(), '/', '_');
        edgec::write_npy(options.output + "/" + file + ".npy", array);
    }
}

// Prints one JSON object: milliseconds of whole runs with their copies, and of the GPU alone.
void bench(edgec::Runner &runner, const Options &options) {
    std::vector<double> all, medians;
    for (int warmup = 0; warmup < 10; ++warmup) runner.run(options.feeds);
    for (int block = 0; block < options.blocks; ++block) {
        std::vector<double> times;
        for (int count = 0; count < options.runs; ++count) {
            const auto start = std::chrono::steady_clock::now();
            runner.run(options.feeds);
            const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - start;
            times.push_back(taken.count());
        }
        medians.push_back(at_share(times, 0.5));
        all.insert(all.end(), times.begin(), times.end());
    }
    const std::vector<float> measured = runner.time(options.runs);
    const std::vector<double> gpu(measured.begin(), measured.end());
    std::printf("{\"latency\": {\"p50\": %.6f, \"p90\": %.6f, \"blocks\": [", at_share(medians, 0.5), at_share(all, 0.9));
    for (std::size_t block = 0; block < medians.size(); ++block) std::printf("%s%.6f", block == 0 ? "" : ", ", medians[block]);
    std::printf("]}, \"gpu\": {\"p50\": %.6f, \"p90\": %.6f}}\n", at_share(gpu, 0.5), at_share(gpu, 0.9));
}

}  // namespace

int main(int count, char **words) {
    try {
        const Options options = read(std::vector<std::string>(words + 1, words + count));
        const edgec::Plan plan = edgec::Plan::read(options.bundle, options.variant);
        if (options.command == "build") {
            edgec::build(plan, options.engine);
        } else if (options.command == "run" || options.command == "bench") {
            edgec::Runner runner(plan, options.engine);
            options.command == "run" ? run(runner, options) : bench(runner, options);
        } else {
            throw Error("there is no command " + options.command + ", there are build, run and bench", 2);
        }
        return 0;
    } catch (const Error &error) {
        std::cerr << "edgec-engine: " << error.what() << std::endl;
        return error.status();
    } catch (const std::exception &error) {
        std::cerr << "edgec-engine: unexpected: " << error.what() << std::endl;
        return 1;
    }
}
