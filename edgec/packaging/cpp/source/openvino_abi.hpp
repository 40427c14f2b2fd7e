// The part of OpenVINO's C interface that is used here (openvino/c/openvino.h), found when the library is loaded, so
// that its headers need not be installed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "library.hpp"

namespace edgec::ov {

struct Core;
struct Model;
struct Compiled;
struct Request;
struct Tensor;

struct Version {
    const char *number;
    const char *description;
};

struct Shape {
    std::int64_t rank;
    std::int64_t *sizes;
};

using Status = int;

struct Api {
    explicit Api(const Library &library);

    Status (*get_version)(Version *);
    void (*free_version)(Version *);
    const char *(*last_message)();
    Status (*create_core)(Core **);
    void (*free_core)(Core *);
    Status (*add_extension)(const Core *, const char *path);
    Status (*read_model)(const Core *, const char *path, const char *weights, Model **);
    void (*free_model)(Model *);
    Status (*compile)(const Core *, const Model *, const char *device, std::size_t words, Compiled **, ...);
    void (*free_compiled)(Compiled *);
    Status (*input_count)(const Compiled *, std::size_t *);
    Status (*output_count)(const Compiled *, std::size_t *);
    Status (*create_request)(const Compiled *, Request **);
    void (*free_request)(Request *);
    Status (*input)(const Request *, std::size_t index, Tensor **);
    Status (*output)(const Request *, std::size_t index, Tensor **);
    Status (*infer)(Request *);
    Status (*set_shape)(Tensor *, Shape);
    Status (*get_shape)(const Tensor *, Shape *);
    Status (*free_shape)(Shape *);
    Status (*byte_size)(const Tensor *, std::size_t *);
    Status (*data)(const Tensor *, void **);
    void (*free_tensor)(Tensor *);
};

}  // namespace edgec::ov
