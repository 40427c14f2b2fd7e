#include "node.hpp"

#include <cstdio>
#include <stdexcept>

namespace edgec {

void report(const char* who, const char* what) noexcept {
    try {
        const std::string text = std::string(who) + ": " + what;
        nvinfer1::ILogger* const logger = getLogger();
        if (logger != nullptr)
            logger->log(nvinfer1::ILogger::Severity::kERROR, text.c_str());
        else
            std::fprintf(stderr, "%s\n", text.c_str());
    } catch (...) {
        std::fputs("edgec: an error that cannot be reported\n", stderr);
    }
}

Node::Node(const Op& op, std::string layer, Attributes attributes)
    : op_(&op), attributes_(std::move(attributes)), who_(op.name() + (" '" + layer + "'")) {}

std::size_t Node::workspace(const Shapes& largest) const { return op_->workspace(largest, attributes_); }

void Node::enqueue(const nvinfer1::PluginTensorDesc* given, const void* const* inputs, void* const* outputs,
                   void* workspace, cudaStream_t stream) const {
    const Shapes shapes = op_->shapes_of(given, [](const nvinfer1::PluginTensorDesc& one) { return one.dims; });
    op_->check(shapes, attributes_);
    for (std::size_t axis = 0; axis < static_cast<std::size_t>(shapes[0].rank); ++axis)
        if (shapes[0].size[axis] == 0) return;  // nothing goes in, nothing comes out, and a grid of 0 is an error
    const int status = op_->launch({shapes, given[0].type, inputs, outputs, workspace, stream}, attributes_);
    if (status == EDGEC_DONE) return;
    if (status >= EDGEC_CUDA_ERROR)
        throw std::runtime_error("the launch failed with CUDA error " + std::to_string(status - EDGEC_CUDA_ERROR));
    std::string text = "the kernel does not take these sizes:";
    for (std::size_t place = 0; place < op_->inputs().size(); ++place) {
        text += std::string(" ") + op_->inputs()[place].name + " (";
        for (int32_t axis = 0; axis < shapes[place].rank; ++axis)
            text += (axis == 0 ? "" : ", ") + std::to_string(shapes[place].size[static_cast<std::size_t>(axis)]);
        text += ")";
    }
    throw std::runtime_error(text + " " + attributes_.text());
}

}  // namespace edgec
