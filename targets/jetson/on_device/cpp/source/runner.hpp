// Running the engine: arrays in, arrays out, shapes held to the profiles.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "arrays.hpp"
#include "cuda.hpp"
#include "plan.hpp"
#include "tensorrt.hpp"

namespace edgec {

using Arrays = std::map<std::string, Array>;

class Runner {
public:
    // Throws Error where the engine is not built, or not for this machine, or changed.
    Runner(Plan plan, const std::string &engine);

    // Throws Error where an input is missing, does not become the engine's dtype without loss, or has a shape
    // outside every profile.
    Arrays run(const Arrays &feeds);

    // Milliseconds of each of `runs` runs on the GPU alone, on what was fed last.
    std::vector<float> time(int runs);

private:
    void upload(const Arrays &given);
    void choose_profile(const Arrays &feeds);
    void enqueue();
    Arrays download();

    Plan plan_;
    Logger logger_;
    // Each needs the ones before it, and is destroyed before them.
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    Stream stream_;
    std::map<std::string, Buffer> buffers_;
    std::vector<std::string> inputs_, outputs_;
    std::size_t profile_ = 0;
};

}  // namespace edgec
