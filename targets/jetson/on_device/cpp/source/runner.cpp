#include "runner.hpp"

#include <algorithm>

#include "engine_file.hpp"

namespace edgec {

namespace {

// As .npy writes it; a bfloat16 or a narrower type has no name there.
std::string dtype_of(nvinfer1::DataType type, const std::string &name) {
    switch (type) {
        case nvinfer1::DataType::kFLOAT: return "<f4";
        case nvinfer1::DataType::kHALF: return "<f2";
        case nvinfer1::DataType::kINT8: return "|i1";
        case nvinfer1::DataType::kINT32: return "<i4";
        case nvinfer1::DataType::kBOOL: return "|b1";
#if NV_TENSORRT_MAJOR >= 10
        case nvinfer1::DataType::kUINT8: return "|u1";
        case nvinfer1::DataType::kINT64: return "<i8";
#endif
        default: throw Error("the engine's tensor '" + name + "' is of a type that .npy does not have");
    }
}

std::size_t width_of(const std::string &dtype) { return std::stoul(dtype.substr(2)); }

bool within(const std::vector<std::int64_t> &shape, const Range &range) {
    if (shape.size() != range.min.size()) return false;
    for (std::size_t axis = 0; axis < shape.size(); ++axis) {
        if (shape[axis] < range.min[axis] || shape[axis] > range.max[axis]) return false;
    }
    return true;
}

std::string ranges_of(const Profile &profile) {
    std::string text;
    for (const auto &[name, range] : profile) {
        text += (text.empty() ? "" : ", ") + name + " " + to_text(range.min) + " to " + to_text(range.max);
    }
    return text;
}

}  // namespace

Runner::Runner(Plan plan, const std::string &engine) : plan_(std::move(plan)) {
    const std::vector<char> data = read_engine(engine, plan_, Gpu::here());
    load_plugins(plan_.libraries, engine.substr(0, engine.rfind('/') + 1) + ".", plan_.bundle);
    runtime_.reset(nvinfer1::createInferRuntime(logger_));
    if (runtime_ == nullptr) throw Error("TensorRT makes no runtime: " + logger_.said());
    engine_.reset(runtime_->deserializeCudaEngine(data.data(), data.size()));
    if (engine_ == nullptr) throw Error("TensorRT does not load the engine: " + logger_.said());
    context_.reset(engine_->createExecutionContext());
    if (context_ == nullptr) throw Error("TensorRT has no room to run the engine: " + logger_.said());
    for (std::int32_t index = 0; index < engine_->getNbIOTensors(); ++index) {
        const std::string name = engine_->getIOTensorName(index);
        const bool input = engine_->getTensorIOMode(name.c_str()) == nvinfer1::TensorIOMode::kINPUT;
        (input ? inputs_ : outputs_).push_back(name);
    }
}

Arrays Runner::run(const Arrays &feeds) {
    upload(feeds);
    enqueue();
    return download();
}

std::vector<float> Runner::time(int runs) {
    std::vector<float> times;
    Event start, stop;
    for (int run = 0; run < runs; ++run) {
        start.record(stream_);
        enqueue();
        stop.record(stream_);
        times.push_back(start.until(stop));
    }
    return times;
}

void Runner::upload(const Arrays &given) {
    Arrays feeds;
    for (const auto &[name, array] : given) {
        if (std::find(inputs_.begin(), inputs_.end(), name) == inputs_.end()) {
            throw Error("the model has no input '" + name + "'", 2);
        }
        const std::string wanted = dtype_of(engine_->getTensorDataType(name.c_str()), name);
        // The model's int64 is int32 in engines of TensorRT 8.
        Array &fed = feeds[name] = array.dtype == wanted ? array : narrowed(array, wanted, name);
        if (fed.dtype != wanted) {
            throw Error("input '" + name + "' is " + array.dtype + ", the engine takes " + wanted, 2);
        }
    }
    for (const std::string &name : inputs_) {
        if (feeds.count(name) == 0) throw Error("no array for input '" + name + "'; give --input " + name + "=F.npy", 2);
    }
    choose_profile(feeds);
    for (const auto &[name, array] : feeds) {
        nvinfer1::Dims dims{};
        dims.nbDims = static_cast<std::int32_t>(array.shape.size());
        std::copy(array.shape.begin(), array.shape.end(), dims.d);
        if (!context_->setInputShape(name.c_str(), dims)) {
            throw Error("TensorRT refuses shape " + to_text(array.shape) + " of '" + name + "': " + logger_.said(), 2);
        }
        Buffer &buffer = buffers_[name];
        buffer.reserve(array.data.size());
        check(cudaMemcpyAsync(buffer.get(), array.data.data(), array.data.size(), cudaMemcpyHostToDevice, stream_.get()),
              "cudaMemcpyAsync");
        context_->setTensorAddress(name.c_str(), buffer.get());
    }
    for (const std::string &name : outputs_) {
        const nvinfer1::Dims dims = context_->getTensorShape(name.c_str());
        const std::vector<std::int64_t> shape(dims.d, dims.d + std::max<std::int32_t>(dims.nbDims, 0));
        if (elements(shape) < 0) throw Error("the shape of output '" + name + "' depends on the data");
        Buffer &buffer = buffers_[name];
        const std::string dtype = dtype_of(engine_->getTensorDataType(name.c_str()), name);
        buffer.reserve(static_cast<std::size_t>(elements(shape)) * width_of(dtype));
        context_->setTensorAddress(name.c_str(), buffer.get());
    }
    // The arrays are the caller's, and may be gone after this.
    stream_.synchronize();
}

void Runner::choose_profile(const Arrays &feeds) {
    const auto fits = [&feeds](const Profile &profile) {
        return std::all_of(profile.begin(), profile.end(), [&feeds](const auto &entry) {
            const auto fed = feeds.find(entry.first);
            return fed == feeds.end() || within(fed->second.shape, entry.second);
        });
    };
    if (plan_.profiles.empty() || fits(plan_.profiles[profile_])) return;
    const auto found = std::find_if(plan_.profiles.begin(), plan_.profiles.end(), fits);
    if (found == plan_.profiles.end()) {
        std::string fed, allowed;
        for (const auto &[name, array] : feeds) fed += (fed.empty() ? "" : ", ") + name + " " + to_text(array.shape);
        for (const Profile &profile : plan_.profiles) allowed += (allowed.empty() ? "" : " or ") + ranges_of(profile);
        throw Error(fed + ": outside the engine's profiles; feed " + allowed, 2);
    }
    profile_ = static_cast<std::size_t>(found - plan_.profiles.begin());
    if (!context_->setOptimizationProfileAsync(static_cast<std::int32_t>(profile_), stream_.get())) {
        throw Error("TensorRT does not take the shape profile: " + logger_.said());
    }
    stream_.synchronize();
}

void Runner::enqueue() {
    if (!context_->enqueueV3(stream_.get())) throw Error("TensorRT failed to run the engine: " + logger_.said());
}

Arrays Runner::download() {
    Arrays outputs;
    for (const std::string &name : outputs_) {
        const nvinfer1::Dims dims = context_->getTensorShape(name.c_str());
        Array &array = outputs[name];
        array.dtype = dtype_of(engine_->getTensorDataType(name.c_str()), name);
        array.shape.assign(dims.d, dims.d + dims.nbDims);
        array.data.resize(static_cast<std::size_t>(elements(array.shape)) * width_of(array.dtype));
        check(cudaMemcpyAsync(array.data.data(), buffers_[name].get(), array.data.size(), cudaMemcpyDeviceToHost,
                              stream_.get()),
              "cudaMemcpyAsync");
    }
    stream_.synchronize();
    return outputs;
}

}  // namespace edgec
