// What tensorrt_gpu.py needs of TensorRT 8 besides edgec's own runner.
//
//   tensorrt_gpu build ONNX ENGINE [fp16] [no_tf32] [cache=FILE] [LIBRARY.so …]   a plain build, as trtexec does it
//   tensorrt_gpu time [LIBRARY.so …] -- FOLDER NAME=ENGINE … [-- FOLDER …]        engines in alternating blocks
//
// FOLDER holds INPUT.raw for every input of its engines. `time` writes FOLDER/NAME.OUTPUT.raw, and prints a JSON object
// a line: microseconds a run of each block, in CUDA graphs and in a stream, or why a folder's engines were not timed.
#include <NvInfer.h>
#include <NvInferPlugin.h>
#include <NvOnnxParser.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using namespace nvinfer1;

constexpr int BLOCKS = 31, WARMUPS = 30, LONGEST_BLOCK = 200;
constexpr float BLOCK_MICROSECONDS = 5000.0f;

class Log : public ILogger {
    void log(Severity severity, char const *text) noexcept override {
        if (severity <= Severity::kWARNING) std::fprintf(stderr, "%.600s\n", text);
    }
} logger;

void need(bool made, const std::string &what) {
    if (!made) throw std::runtime_error(what);
}

void check(cudaError_t error, const std::string &what) { need(error == cudaSuccess, what + ": " + cudaGetErrorString(error)); }

std::vector<char> read(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    need(static_cast<bool>(file), path + " cannot be read");
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void write(const std::string &path, const void *data, std::size_t size) {
    std::ofstream file(path, std::ios::binary);
    file.write(static_cast<const char *>(data), static_cast<std::streamsize>(size));
    need(static_cast<bool>(file), path + " cannot be written");
}

void load(const std::string &library) { need(dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL) != nullptr, library + " does not load"); }

std::size_t bytes(const ICudaEngine &engine, const char *tensor) {
    std::size_t count = 1;
    const Dims dims = engine.getTensorShape(tensor);
    for (int axis = 0; axis < dims.nbDims; ++axis) count *= static_cast<std::size_t>(dims.d[axis]);
    switch (engine.getTensorDataType(tensor)) {
        case DataType::kHALF: return count * 2;
        case DataType::kINT8:
        case DataType::kBOOL: return count;
        default: return count * 4;
    }
}

void build(const std::vector<std::string> &words) {
    bool half = false, exact = false;
    std::string cache;
    for (std::size_t at = 2; at < words.size(); ++at) {
        if (words[at] == "fp16") half = true;
        else if (words[at] == "no_tf32") exact = true;
        else if (words[at].rfind("cache=", 0) == 0) cache = words[at].substr(6);
        else load(words[at]);
    }
    const std::unique_ptr<IBuilder> builder(createInferBuilder(logger));
    need(builder != nullptr, "no builder");
    const std::unique_ptr<INetworkDefinition> network(
        builder->createNetworkV2(1U << static_cast<unsigned>(NetworkDefinitionCreationFlag::kEXPLICIT_BATCH)));
    const std::unique_ptr<nvonnxparser::IParser> parser(nvonnxparser::createParser(*network, logger));
    need(parser->parseFromFile(words[0].c_str(), static_cast<int>(ILogger::Severity::kERROR)), words[0] + " is not taken");
    const std::unique_ptr<IBuilderConfig> config(builder->createBuilderConfig());
    config->setProfilingVerbosity(ProfilingVerbosity::kDETAILED);
    // Without cuDNN and cuBLAS, which the machine need not have; 8.5 builds no transformer on a Hopper without cuBLAS.
    const auto source = [](TacticSource one) { return 1U << static_cast<unsigned>(one); };
    unsigned sources = source(TacticSource::kEDGE_MASK_CONVOLUTIONS) | source(TacticSource::kJIT_CONVOLUTIONS);
    if (NV_TENSORRT_MINOR < 6) sources |= source(TacticSource::kCUBLAS) | source(TacticSource::kCUBLAS_LT);
    config->setTacticSources(sources);
    if (half) config->setFlag(BuilderFlag::kFP16);
    if (exact) config->clearFlag(BuilderFlag::kTF32);
    const std::vector<char> known = !cache.empty() && std::ifstream(cache) ? read(cache) : std::vector<char>();
    const std::unique_ptr<ITimingCache> timed(config->createTimingCache(known.data(), known.size()));
    need(timed != nullptr && config->setTimingCache(*timed, false), cache + " is no timing cache");
    const std::unique_ptr<IHostMemory> engine(builder->buildSerializedNetwork(*network, *config));
    need(engine != nullptr, words[0] + " is not built");
    if (!cache.empty()) {
        const std::unique_ptr<IHostMemory> kept(timed->serialize());
        write(cache, kept->data(), kept->size());
    }
    write(words[1], engine->data(), engine->size());
}

struct Engine {
    std::string name, path;
    std::unique_ptr<ICudaEngine> engine;
    std::unique_ptr<IExecutionContext> context;
    std::vector<void *> buffers;
    cudaGraphExec_t graph = nullptr;
    int runs = 0;
    std::vector<float> in_graphs, in_stream;

    Engine(const std::string &called, const std::string &file) : name(called), path(file) {}
    Engine(const Engine &) = delete;
    Engine &operator=(const Engine &) = delete;
    ~Engine() {
        if (graph != nullptr) cudaGraphExecDestroy(graph);
        for (void *const buffer : buffers) cudaFree(buffer);
    }
};

void enqueue(Engine &one, cudaStream_t stream) { need(one.context->enqueueV3(stream), one.name + " does not run"); }

float block(Engine &one, cudaStream_t stream, bool graph, int runs) {
    cudaEvent_t start, stop;
    check(cudaEventCreate(&start), "an event");
    check(cudaEventCreate(&stop), "an event");
    check(cudaEventRecord(start, stream), "an event");
    for (int run = 0; run < runs; ++run) {
        if (graph) check(cudaGraphLaunch(one.graph, stream), one.name);
        else enqueue(one, stream);
    }
    check(cudaEventRecord(stop, stream), "an event");
    check(cudaEventSynchronize(stop), one.name);
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, start, stop), "an event");
    cudaEventDestroy(start), cudaEventDestroy(stop);
    return milliseconds / static_cast<float>(runs) * 1e3f;
}

void prepare(Engine &one, IRuntime &runtime, const std::string &folder, cudaStream_t stream) {
    const std::vector<char> data = read(one.path);
    one.engine.reset(runtime.deserializeCudaEngine(data.data(), data.size()));
    need(one.engine != nullptr, one.path + " does not load");
    one.context.reset(one.engine->createExecutionContext());
    need(one.context != nullptr, one.path + " has no room");
    std::vector<std::pair<std::string, void *>> outputs;
    for (int index = 0; index < one.engine->getNbIOTensors(); ++index) {
        const char *const tensor = one.engine->getIOTensorName(index);
        const std::size_t size = bytes(*one.engine, tensor);
        void *buffer = nullptr;
        check(cudaMalloc(&buffer, std::max<std::size_t>(size, 1)), "memory");
        one.buffers.push_back(buffer);
        if (one.engine->getTensorIOMode(tensor) == TensorIOMode::kINPUT) {
            const std::vector<char> given = read(folder + "/" + tensor + ".raw");
            need(given.size() == size, folder + "/" + tensor + ".raw has another size");
            check(cudaMemcpy(buffer, given.data(), size, cudaMemcpyHostToDevice), "a copy");
        } else {
            check(cudaMemset(buffer, 0x7f, size), "a fill");
            outputs.emplace_back(tensor, buffer);
        }
        one.context->setTensorAddress(tensor, buffer);
    }
    for (int run = 0; run < WARMUPS; ++run) enqueue(one, stream);
    check(cudaStreamSynchronize(stream), one.name);
    cudaGraph_t graph;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), one.name);
    enqueue(one, stream);
    check(cudaStreamEndCapture(stream, &graph), one.name);
    check(cudaGraphInstantiate(&one.graph, graph, 0), one.name);
    cudaGraphDestroy(graph);
    const float once = block(one, stream, true, 10);
    one.runs = std::clamp(static_cast<int>(BLOCK_MICROSECONDS / std::max(once, 1.0f)), 10, LONGEST_BLOCK);
    for (const auto &[tensor, buffer] : outputs) {
        std::vector<char> found(bytes(*one.engine, tensor.c_str()));
        check(cudaMemcpy(found.data(), buffer, found.size(), cudaMemcpyDeviceToHost), "a copy");
        std::string file = tensor;
        std::replace(file.begin(), file.end(), '/', '_');
        write(folder + "/" + one.name + "." + file + ".raw", found.data(), found.size());
    }
}

std::string listed(const std::vector<float> &values) {
    std::string text;
    for (const float value : values) text += (text.empty() ? "" : ", ") + std::to_string(value);
    return "[" + text + "]";
}

void time_group(IRuntime &runtime, cudaStream_t stream, const std::vector<std::string> &words) {
    std::vector<std::unique_ptr<Engine>> engines;
    for (std::size_t at = 1; at < words.size(); ++at) {
        const std::size_t equals = words[at].find('=');
        engines.push_back(std::make_unique<Engine>(words[at].substr(0, equals), words[at].substr(equals + 1)));
        prepare(*engines.back(), runtime, words[0], stream);
    }
    for (int count = 0; count < BLOCKS; ++count) {
        for (const auto &one : engines) {
            block(*one, stream, true, one->runs);  // the caches are the other engine's
            one->in_graphs.push_back(block(*one, stream, true, one->runs));
            if (count % 3 == 0) one->in_stream.push_back(block(*one, stream, false, one->runs));
        }
    }
    for (const auto &one : engines) {
        std::printf("{\"folder\": \"%s\", \"name\": \"%s\", \"layers\": %d, \"graph\": %s, \"stream\": %s}\n", words[0].c_str(),
                    one->name.c_str(), one->engine->getNbLayers(), listed(one->in_graphs).c_str(), listed(one->in_stream).c_str());
    }
}

void time(const std::vector<std::string> &words) {
    std::vector<std::vector<std::string>> groups;
    for (const std::string &word : words) {
        if (word == "--") groups.emplace_back();
        else if (groups.empty()) load(word);
        else groups.back().push_back(word);
    }
    const std::unique_ptr<IRuntime> runtime(createInferRuntime(logger));
    cudaStream_t stream;
    check(cudaStreamCreate(&stream), "a stream");
    for (const auto &group : groups) {
        need(group.size() > 1, "a group is FOLDER NAME=ENGINE …");
        try {
            time_group(*runtime, stream, group);
        } catch (const std::exception &error) {
            std::printf("{\"folder\": \"%s\", \"untimed\": \"%s\"}\n", group[0].c_str(), error.what());
        }
        std::fflush(stdout);
    }
}

}  // namespace

int main(int count, char **given) {
    try {
        const std::vector<std::string> words(given + 1, given + count);
        need(words.size() > 2 && (words[0] == "build" || words[0] == "time"), "usage: build ONNX ENGINE … or time -- FOLDER NAME=ENGINE …");
        need(initLibNvInferPlugins(&logger, ""), "TensorRT's own plugins do not load");
        const std::vector<std::string> rest(words.begin() + 1, words.end());
        words[0] == "build" ? build(rest) : time(rest);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "tensorrt_gpu: %s\n", error.what());
        return 1;
    }
    return 0;
}
