// What stops the program: one sentence, and what to do.
#pragma once

#include <stdexcept>
#include <string>

namespace edgec {

class Error : public std::runtime_error {
public:
    explicit Error(const std::string &what, int status = 1) : std::runtime_error(what), status_(status) {}

    // 1 where the job failed, 2 where the request was wrong.
    int status() const noexcept { return status_; }

private:
    int status_;
};

}  // namespace edgec
