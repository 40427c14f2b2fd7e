// A node of a network: an op with its attributes. Both plugin interfaces are thin covers of it.
#pragma once

#include "op.hpp"

#include <cstddef>
#include <exception>
#include <string>
#include <utility>

namespace edgec {

constexpr const char* NAMESPACE = "ai.edgec";
constexpr const char* VERSION = "1";

// Log an error through TensorRT's logger, on stderr where there is none.
void report(const char* who, const char* what) noexcept;

class Node {
public:
    Node(const Op& op, std::string layer, Attributes attributes);

    const Op& op() const { return *op_; }
    const Attributes& attributes() const { return attributes_; }

    // What to name in an error: "TokenMerge '/blocks.3/merge'".
    const char* who() const { return who_.c_str(); }

    // Bytes that a launch with inputs of at most these sizes needs.
    std::size_t workspace(const Shapes& largest) const;

    // Launch on these tensors. Throws std::runtime_error with the reason where it cannot.
    void enqueue(const nvinfer1::PluginTensorDesc* given, const void* const* inputs, void* const* outputs,
                 void* workspace, cudaStream_t stream) const;

private:
    const Op* op_;
    Attributes attributes_;
    std::string who_;
};

// Run what TensorRT called: no exception leaves it, the error is logged and `failed` returned.
template <typename Result, typename Body>
Result guarded(const char* who, Result failed, Body&& body) noexcept {
    try {
        return std::forward<Body>(body)();
    } catch (const std::exception& error) {
        report(who, error.what());
    } catch (...) {
        report(who, "an unknown error");
    }
    return failed;
}

}  // namespace edgec
