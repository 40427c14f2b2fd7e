// The part of ONNX Runtime's C interface that is used here, so that its headers need not be installed.
//
// OrtApi is a table of functions that only ever grows at its end (onnxruntime_c_api.h: "All APIs are ABI stable"), so a
// function's place is the same in every release; all that are used here are in version 3 of the table, of 2020.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgec::ort {

struct Status;
struct Env;
struct Session;
struct SessionOptions;
struct RunOptions;
struct Value;
struct MemoryInfo;
struct TensorInfo;

constexpr std::uint32_t kApiVersion = 3;
constexpr int kErrorsOnly = 3, kAllOptimisations = 99, kArenaAllocator = 1, kDefaultMemory = 0, kSequential = 0;

struct Base {
    const void *const *(*get_api)(std::uint32_t version);
    const char *(*version)();
};

// A function of the table: its place, and its type.
template <std::size_t Place, typename Type>
struct Slot {
    template <typename... Arguments>
    auto operator()(const void *const *table, Arguments... arguments) const {
        return reinterpret_cast<Type *>(const_cast<void *>(table[Place]))(arguments...);
    }
};

inline constexpr Slot<2, const char *(const Status *)> message{};
inline constexpr Slot<3, Status *(int severity, const char *name, Env **)> create_env{};
inline constexpr Slot<7, Status *(const Env *, const char *path, const SessionOptions *, Session **)> create_session{};
inline constexpr Slot<9, Status *(Session *, const RunOptions *, const char *const *names, const Value *const *inputs,
                                  std::size_t count, const char *const *output_names, std::size_t output_count,
                                  Value **outputs)> run{};
inline constexpr Slot<10, Status *(SessionOptions **)> create_options{};
inline constexpr Slot<13, Status *(SessionOptions *, int mode)> set_execution_mode{};
inline constexpr Slot<22, Status *(SessionOptions *, int severity)> set_severity{};
inline constexpr Slot<23, Status *(SessionOptions *, int level)> set_optimisation{};
inline constexpr Slot<24, Status *(SessionOptions *, int threads)> set_threads{};
inline constexpr Slot<25, Status *(SessionOptions *, int threads)> set_threads_between{};
inline constexpr Slot<49, Status *(const MemoryInfo *, void *data, std::size_t bytes, const std::int64_t *shape,
                                   std::size_t rank, int type, Value **)> make_tensor{};
inline constexpr Slot<51, Status *(Value *, void **data)> data_of{};
inline constexpr Slot<60, Status *(const TensorInfo *, int *type)> type_of{};
inline constexpr Slot<61, Status *(const TensorInfo *, std::size_t *rank)> rank_of{};
inline constexpr Slot<62, Status *(const TensorInfo *, std::int64_t *shape, std::size_t rank)> shape_of{};
inline constexpr Slot<65, Status *(const Value *, TensorInfo **)> tensor_info{};
inline constexpr Slot<69, Status *(int allocator, int memory, MemoryInfo **)> create_cpu_memory{};
inline constexpr Slot<92, void(Env *)> release_env{};
inline constexpr Slot<93, void(Status *)> release_status{};
inline constexpr Slot<94, void(MemoryInfo *)> release_memory{};
inline constexpr Slot<95, void(Session *)> release_session{};
inline constexpr Slot<96, void(Value *)> release_value{};
inline constexpr Slot<99, void(TensorInfo *)> release_tensor_info{};
inline constexpr Slot<100, void(SessionOptions *)> release_options{};
inline constexpr Slot<130, Status *(SessionOptions *, const char *key, const char *value)> add_setting{};

}  // namespace edgec::ort
