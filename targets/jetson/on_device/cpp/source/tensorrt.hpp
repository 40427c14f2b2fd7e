// TensorRT's headers, its logger, and its version as a text.
#pragma once

#include <NvInfer.h>

#include <iostream>
#include <string>
#include <vector>

namespace edgec {

class Logger : public nvinfer1::ILogger {
public:
    void log(Severity severity, const char *message) noexcept override {
        if (severity > Severity::kERROR) return;
        try {
            last_ = message;
        } catch (...) {  // no memory for the message: the failure itself is still reported
        }
    }

    // What TensorRT said last, for a failure's sentence.
    std::string said() const { return last_.empty() ? "TensorRT gave no reason" : last_; }

private:
    std::string last_;
};

// Of the library that is loaded, 10.3.0. The number's form changed with TensorRT 10.
inline std::string tensorrt_version() {
    const int number = getInferLibVersion();
    const int step = number >= 100000 ? 100 : 10;
    const int major = number / (step == 100 ? 10000 : 1000);
    const int minor = step == 100 ? number / 100 % 100 : number / 100 % 10;
    return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(number % 100);
}

// Load the libraries that hold the plan's plugins; their creators register themselves. From the folder beside
// the engine, else from the bundle.
void load_plugins(const std::vector<std::string> &libraries, const std::string &state, const std::string &bundle);

}  // namespace edgec
