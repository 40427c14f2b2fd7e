#include "machine.hpp"

#include <sched.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>
#include <vector>

#include "arrays.hpp"
#include "error.hpp"
#include "needs.hpp"

namespace edgec {

namespace {

constexpr char kElsewhere[] = "; compile the model on a machine like this one";

std::string here() {
    utsname system{};
    uname(&system);
    return system.machine;
}

std::string joined(const std::set<std::string> &words) {
    std::string text;
    for (const std::string &word : words) text += (text.empty() ? "" : ", ") + word;
    return text;
}

// The processor's flags; none where the system does not tell them.
std::set<std::string> features() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);) {
        if (line.compare(0, 5, "flags") != 0 && line.compare(0, 8, "Features") != 0) continue;
        std::istringstream words(line.substr(std::min(line.find(':'), line.size() - 1) + 1));
        std::set<std::string> found;
        for (std::string word; words >> word;) found.insert(word);
        return found;
    }
    return {};
}

std::set<std::string> common(const std::set<std::string> &some, const std::set<std::string> &others) {
    std::set<std::string> both;
    std::set_intersection(some.begin(), some.end(), others.begin(), others.end(), std::inserter(both, both.end()));
    return both;
}

void check_processor(const Bundle &bundle, const std::string &precision) {
    const auto &manifest = bundle.manifest.object();
    if (manifest.count("device") == 0) return;
    const auto &device = manifest.at("device").object();
    if (device.count("architecture") != 0 && device.at("architecture").text() != here()) {
        throw Error("it was compiled and verified on " + device.at("architecture").text() + ", and this machine is " +
                    here() + kElsewhere);
    }
    std::set<std::string> made_with;
    if (device.count("isa") != 0) {
        for (const Json &name : device.at("isa").list()) made_with.insert(name.text());
    }
    const std::set<std::string> present = features();
    for (const Need &need : kNeeds) {
        const std::set<std::string> any_of(need.any_of.begin(), need.any_of.end());
        const std::set<std::string> had = common(any_of, made_with);
        if (precision != need.precision || had.empty() || present.empty() || !common(any_of, present).empty()) continue;
        throw Error("its " + precision + " engine was verified with " + joined(had) + ", which this processor lacks; " +
                    need.why + kElsewhere);
    }
}

void check_plugin(const Bundle &bundle, const Description &engine, const std::string &name) {
    const std::string path = engine.folder + "/" + name;
    if (bundle.manifest.at("files").object().count("engine/" + name) == 0) {
        throw Error(path + ": is not part of the bundle; do not run this bundle");
    }
    const std::vector<char> head = read_file(path);
    const auto byte = [&head](std::size_t at) { return static_cast<unsigned char>(head[at]); };
    // `e_machine` of the ELF header (System V ABI).
    const bool is_elf = head.size() > 20 && byte(0) == 0x7F && byte(1) == 'E' && byte(2) == 'L' && byte(3) == 'F';
    const unsigned machine = is_elf ? byte(18) | byte(19) << 8 : 0u;
    if ((machine == 0x3E && here() == "x86_64") || (machine == 0xB7 && here() == "aarch64")) return;
    throw Error(path + ": is a library for another processor than " + here() + kElsewhere);
}

// The release of a version, as far as it is numbers: 1.32.0 of `1.32.0+cpu`.
std::vector<long> numbers(const std::string &version) {
    std::vector<long> found;
    for (const char *at = version.c_str(); *at >= '0' && *at <= '9';) {
        char *end = nullptr;
        found.push_back(std::strtol(at, &end, 10));
        at = *end == '.' ? end + 1 : end;
    }
    return found;
}

std::string read_line(const std::string &path) {
    std::string line;
    std::ifstream file(path);
    std::getline(file, line);
    return line;
}

// CPUs that the control group allows at once (cgroup v2 `cpu.max`), rounded up.
long quota() {
    std::istringstream words(read_line("/sys/fs/cgroup/cpu.max"));
    long allowed = 0, period = 0;
    return words >> allowed >> period && period > 0 ? (allowed + period - 1) / period : 1 << 16;
}

int physical_cores() {
    cpu_set_t usable;
    CPU_ZERO(&usable);
    if (sched_getaffinity(0, sizeof usable, &usable) != 0) return 1;
    std::set<std::string> cores;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (!CPU_ISSET(cpu, &usable)) continue;
        const std::string number = std::to_string(cpu);
        const std::string core = read_line("/sys/devices/system/cpu/cpu" + number + "/topology/thread_siblings_list");
        cores.insert(core.empty() ? number : core);
    }
    return static_cast<int>(std::max(1L, std::min(static_cast<long>(cores.size()), quota())));
}

}  // namespace

void check_machine(const Bundle &bundle, const Description &engine) {
    for (const std::string &precision : {engine.precision, engine.rest}) check_processor(bundle, precision);
    for (const std::string &name : engine.extensions) check_plugin(bundle, engine, name);
}

void check_version(const std::string &name, const std::string &installed, const Description &engine) {
    if (engine.made_with.empty()) return;
    const std::string fix = "; install " + name + " " + engine.made_with + ", or compile the model again";
    if (!engine.extensions.empty() && numbers(installed) != numbers(engine.made_with)) {
        throw Error("its plugins were built for " + name + " " + engine.made_with + ", and " + installed +
                    " is installed" + fix);
    }
    if (numbers(installed) < numbers(engine.made_with)) {
        throw Error("it was verified with " + name + " " + engine.made_with + ", and " + installed +
                    ", which is older, is installed" + fix);
    }
}

int worker_threads(int described) {
    const char *text = std::getenv("EDGEC_THREADS");
    if (text == nullptr || *text == '\0') return described > 0 ? described : physical_cores();
    char *end = nullptr;
    const long count = std::strtol(text, &end, 10);
    if (*end != '\0' || count < 1 || count > 4096) {
        throw Error(std::string("EDGEC_THREADS='") + text + "' is not a number of threads; set it to 1 or more", 2);
    }
    return static_cast<int>(count);
}

}  // namespace edgec
