// What runs a model: one class for each library, opened from an engine's folder.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "description.hpp"

namespace edgec {

// An array in somebody's memory, in C order.
struct View {
    std::string dtype;
    std::vector<std::int64_t> shape;
    const void *data = nullptr;
    std::size_t bytes = 0;
};

// The outputs of one run, which own their memory.
class Outputs {
public:
    virtual ~Outputs() = default;
    std::vector<View> arrays;
};

class Engine {
public:
    virtual ~Engine() = default;
    // From any number of threads. Feeds and outputs are in the order of io.json; feeds fit the model.
    virtual std::unique_ptr<Outputs> run(const std::vector<View> &feeds) = 0;
};

// What a model takes or gives, as io.json has it.
struct Spec {
    std::string name, dtype;
    std::vector<std::int64_t> shape;         // -1 where a size is open
    std::vector<std::string> open;           // the names of the open sizes, empty for others
};

// The bytes of one element of a dtype by numpy's name; throws Error for one that no model has.
std::size_t width_of(const std::string &dtype);

// Each loads its library. Throws Error where the library is missing, is another than the bundle needs, or does not
// take the model.
std::unique_ptr<Engine> open_onnxruntime(const Description &engine, const std::string &library,
                                         const std::vector<Spec> &inputs, const std::vector<Spec> &outputs);
std::unique_ptr<Engine> open_openvino(const Description &engine, const std::string &library,
                                      const std::vector<Spec> &inputs, const std::vector<Spec> &outputs);

}  // namespace edgec
