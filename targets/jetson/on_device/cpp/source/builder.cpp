#include "builder.hpp"

#include <NvOnnxParser.h>

#include <fstream>
#include <memory>

#include "arrays.hpp"
#include "cuda.hpp"
#include "engine_file.hpp"
#include "tensorrt.hpp"

// TensorRT 10 is the first with strong types, 11 the first with nothing else and no flag for them.
#define EDGEC_WEAK_TYPES (NV_TENSORRT_MAJOR < 11)
#define EDGEC_LAYER_METADATA (NV_TENSORRT_MAJOR >= 10 || (NV_TENSORRT_MAJOR == 8 && NV_TENSORRT_MINOR >= 6))

namespace edgec {

namespace {

std::string folder_of(const std::string &path) {
    const std::size_t slash = path.rfind('/');
    return slash == std::string::npos ? "." : path.substr(0, slash);
}

nvinfer1::Dims dims(const std::vector<std::int64_t> &shape, const std::string &name) {
    nvinfer1::Dims result{};
    if (shape.size() > static_cast<std::size_t>(nvinfer1::Dims::MAX_DIMS)) throw Error(name + " has too many axes");
    result.nbDims = static_cast<std::int32_t>(shape.size());
    for (std::size_t axis = 0; axis < shape.size(); ++axis) {
        result.d[axis] = static_cast<std::remove_reference_t<decltype(result.d[0])>>(shape[axis]);
    }
    return result;
}

std::unique_ptr<nvinfer1::INetworkDefinition> network_for(nvinfer1::IBuilder &builder, const Plan &plan) {
    std::uint32_t flags = 0;
    const auto set = [&flags](nvinfer1::NetworkDefinitionCreationFlag flag) { flags |= 1U << static_cast<std::uint32_t>(flag); };
#if NV_TENSORRT_MAJOR < 10
    set(nvinfer1::NetworkDefinitionCreationFlag::kEXPLICIT_BATCH);
#endif
    if (plan.strongly_typed) {
#if NV_TENSORRT_MAJOR == 10
        set(nvinfer1::NetworkDefinitionCreationFlag::kSTRONGLY_TYPED);
#elif NV_TENSORRT_MAJOR < 10
        throw Error("the plan has its precision in the graph, which TensorRT 8 does not know; compile again");
#endif
    }
    static_cast<void>(set);
    return std::unique_ptr<nvinfer1::INetworkDefinition>(builder.createNetworkV2(flags));
}

void add_profiles(nvinfer1::IBuilder &builder, nvinfer1::IBuilderConfig &config, const Plan &plan) {
    for (const Profile &shapes : plan.profiles) {
        nvinfer1::IOptimizationProfile *profile = builder.createOptimizationProfile();  // the builder owns it
        for (const auto &[name, range] : shapes) {
            using nvinfer1::OptProfileSelector;
            const bool set = profile->setDimensions(name.c_str(), OptProfileSelector::kMIN, dims(range.min, name)) &&
                             profile->setDimensions(name.c_str(), OptProfileSelector::kOPT, dims(range.opt, name)) &&
                             profile->setDimensions(name.c_str(), OptProfileSelector::kMAX, dims(range.max, name));
            if (!set) throw Error("TensorRT refuses the shapes of input '" + name + "' in the plan");
        }
        if (config.addOptimizationProfile(profile) < 0) throw Error("TensorRT refuses a shape profile of the plan");
    }
}

// Weak types are deprecated from 10.12 on, and still what a plan for them asks for.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

#if EDGEC_WEAK_TYPES
nvinfer1::DataType type_named(const std::string &name) {
    if (name == "fp32") return nvinfer1::DataType::kFLOAT;
    if (name == "fp16") return nvinfer1::DataType::kHALF;
    throw Error("the plan names a precision that is unknown here: " + name);
}

// Whether a layer was made for an ONNX node: by its metadata, else by its name with a number behind it.
bool made_for(const nvinfer1::ILayer &layer, const std::string &node) {
#if EDGEC_LAYER_METADATA
    const std::string metadata = layer.getMetadata();
    if (metadata.find("[ONNX Layer: ") != std::string::npos) {
        return metadata.find("[ONNX Layer: " + node + "]") != std::string::npos;
    }
#endif
    const std::string name = layer.getName();
    if (name.compare(0, node.size(), node) != 0) return false;
    const std::string rest = name.substr(node.size());
    return rest.empty() || (rest.size() > 1 && rest[0] == '_' && rest.find_first_not_of("0123456789", 1) == std::string::npos);
}

void keep_precisions(nvinfer1::INetworkDefinition &network, const Plan &plan) {
    for (std::int32_t index = 0; index < network.getNbLayers(); ++index) {
        nvinfer1::ILayer &layer = *network.getLayer(index);
        if (layer.getType() == nvinfer1::LayerType::kCONSTANT) continue;
        for (const auto &[node, name] : plan.layer_precisions) {
            if (!made_for(layer, node)) continue;
            const nvinfer1::DataType kind = type_named(name);
            for (std::int32_t output = 0; output < layer.getNbOutputs(); ++output) {
                const nvinfer1::DataType now = layer.getOutput(output)->getType();
                if (now != nvinfer1::DataType::kFLOAT && now != nvinfer1::DataType::kHALF) continue;
                layer.setPrecision(kind);
                layer.setOutputType(output, kind);
            }
        }
    }
}
#endif

void set_precision(nvinfer1::INetworkDefinition &network, nvinfer1::IBuilderConfig &config, const Plan &plan) {
    if (plan.strongly_typed) return;
#if EDGEC_WEAK_TYPES
    for (const std::string &flag : plan.flags) {
        if (flag == "fp16") {
            config.setFlag(nvinfer1::BuilderFlag::kFP16);
        } else if (flag == "int8") {
            config.setFlag(nvinfer1::BuilderFlag::kINT8);
        } else if (flag == "tf32") {
            config.setFlag(nvinfer1::BuilderFlag::kTF32);
        } else if (flag == "obey_precision_constraints") {
            config.setFlag(nvinfer1::BuilderFlag::kOBEY_PRECISION_CONSTRAINTS);
        } else {
            throw Error("the plan asks for a builder flag that is unknown here: " + flag);
        }
    }
    if (!plan.layer_precisions.empty()) config.setFlag(nvinfer1::BuilderFlag::kOBEY_PRECISION_CONSTRAINTS);
    keep_precisions(network, plan);
#else
    static_cast<void>(network), static_cast<void>(config);
    if (!plan.flags.empty() || !plan.layer_precisions.empty()) {
        throw Error("the plan asks for builder flags that TensorRT 11 no longer has; compile again");
    }
#endif
}

#pragma GCC diagnostic pop

// What was timed before, if it is of this device and release.
std::unique_ptr<nvinfer1::ITimingCache> timing_cache(nvinfer1::IBuilderConfig &config, const std::string &path) {
    if (std::ifstream(path)) {
        const std::vector<char> kept = read_file(path);
        std::unique_ptr<nvinfer1::ITimingCache> cache(config.createTimingCache(kept.data(), kept.size()));
        if (cache != nullptr && config.setTimingCache(*cache, false)) return cache;
    }
    std::unique_ptr<nvinfer1::ITimingCache> empty(config.createTimingCache(nullptr, 0));
    if (empty != nullptr) config.setTimingCache(*empty, false);
    return empty;
}

}  // namespace

void build(const Plan &plan, const std::string &engine) {
    const Gpu gpu = Gpu::here();
    if (gpu.compute_capability != plan.compute_capability) {
        throw Error("the GPU (" + gpu.name + ") has compute capability " + gpu.compute_capability +
                    ", the bundle is for " + plan.compute_capability + "; compile again for this device");
    }
    const std::string folder = folder_of(engine);
    load_plugins(plan.libraries, folder, plan.bundle);
    Logger logger;
    const auto need = [&logger](bool made, const std::string &what) {
        if (!made) throw Error(what + ": " + logger.said());
    };
    const std::unique_ptr<nvinfer1::IBuilder> builder(nvinfer1::createInferBuilder(logger));
    need(builder != nullptr, "TensorRT makes no builder");
    const auto network = network_for(*builder, plan);
    need(network != nullptr, "TensorRT makes no network");
    const std::unique_ptr<nvonnxparser::IParser> parser(nvonnxparser::createParser(*network, logger));
    need(parser != nullptr, "TensorRT makes no parser");
    if (!parser->parseFromFile(plan.model.c_str(), static_cast<int>(nvinfer1::ILogger::Severity::kERROR))) {
        std::string why;
        for (int index = 0; index < parser->getNbErrors(); ++index) why += std::string("; ") + parser->getError(index)->desc();
        throw Error("TensorRT " + tensorrt_version() + " does not take the model" + why);
    }
    const std::unique_ptr<nvinfer1::IBuilderConfig> config(builder->createBuilderConfig());
    need(config != nullptr, "TensorRT makes no builder configuration");
    config->setMemoryPoolLimit(nvinfer1::MemoryPoolType::kWORKSPACE, plan.workspace_bytes);
    config->setProfilingVerbosity(nvinfer1::ProfilingVerbosity::kDETAILED);
    // On by default, and as coarse as fp16: what is fp32 in the graph was judged in fp32.
    config->clearFlag(nvinfer1::BuilderFlag::kTF32);
#if NV_TENSORRT_MAJOR >= 10 || NV_TENSORRT_MINOR >= 6
    config->setBuilderOptimizationLevel(plan.optimization_level);
#endif
    add_profiles(*builder, *config, plan);
    set_precision(*network, *config, plan);
    const std::string cache_path = folder + "/timing.cache";
    const auto cache = timing_cache(*config, cache_path);
    std::cerr << "building the engine with TensorRT " << tensorrt_version() << std::endl;
    const std::unique_ptr<nvinfer1::IHostMemory> plan_file(builder->buildSerializedNetwork(*network, *config));
    need(plan_file != nullptr, "TensorRT does not build the engine");
    if (cache != nullptr) {
        const std::unique_ptr<nvinfer1::IHostMemory> timed(config->getTimingCache()->serialize());
        if (timed != nullptr) write_file(cache_path, timed->data(), timed->size());
    }
    write_engine(engine, plan_file->data(), plan_file->size(), plan, gpu);
}

}  // namespace edgec
