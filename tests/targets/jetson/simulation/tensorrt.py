"""A simulated `tensorrt`: the names and behaviours of the real module, run by ONNX Runtime on the CPU.

It follows the bindings of NVIDIA/TensorRT (python/src/infer, python/src/parsers) at the releases 8.5, 10.3,
10.13 and 11.0, as far as the builder on the device calls them. What a release lacks is absent here too:
progress monitors and strong types before 10, optimization levels before 8.6, builder flags for precision,
layer precisions and the explicit batch flag from 11 on. Its engines hold the ONNX model itself. It proves
the calls and their order, never a speed or a numeric of TensorRT.

EDGEC_SIMULATED_TENSORRT is the version (10.3.0); EDGEC_SIMULATED_GPU stands for the GPU, as in cudart.c.
EDGEC_SIMULATED_BUILD is `fails`, `fails:GRAPH` for a graph of that name, `memory:BYTES` for a device that has
no more for a workspace, or `off:GRAPH` for one that is switched off there. EDGEC_SIMULATED_SLOW, as
`GRAPH=MS,FLAG=MS`, is what a run takes for a graph's name and a builder flag, by the events' clock: no more
and no less.
"""

import ctypes
import enum
import json
import os
import time

import numpy as np
import onnx
import onnxruntime

__version__ = os.environ.get("EDGEC_SIMULATED_TENSORRT", "10.3.0")
_RELEASE = tuple(int(part) for part in __version__.split(".")[:2])
_MAGIC = b"simulated TensorRT engine\0"


def _enum(name, *values):
    return enum.IntEnum(name, {value: index for index, value in enumerate(values)})


_TYPES = ["FLOAT", "HALF", "INT8", "INT32", "BOOL"]
_TYPES += ["UINT8"] if _RELEASE >= (8, 6) else []
_TYPES += ["INT64", "BF16"] if _RELEASE >= (10, 0) else []
DataType = _enum("DataType", *_TYPES)
float32, float16, int8, int32 = DataType.FLOAT, DataType.HALF, DataType.INT8, DataType.INT32
if _RELEASE >= (10, 0):
    int64, bfloat16 = DataType.INT64, DataType.BF16
_WEAK = ["FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"]
_WEAK += ["BF16"] if _RELEASE >= (10, 0) else []
BuilderFlag = _enum("BuilderFlag", "DEBUG", "TF32", *(_WEAK if _RELEASE < (11, 0) else []))
NetworkDefinitionCreationFlag = _enum(
    "NetworkDefinitionCreationFlag",
    *(["EXPLICIT_BATCH"] if _RELEASE < (11, 0) else []),
    *(["STRONGLY_TYPED"] if _RELEASE >= (10, 0) else []),
)
MemoryPoolType = _enum("MemoryPoolType", "WORKSPACE", "DLA_MANAGED_SRAM")
ProfilingVerbosity = _enum("ProfilingVerbosity", "LAYER_NAMES_ONLY", "NONE", "DETAILED")
TensorIOMode = _enum("TensorIOMode", "NONE", "INPUT", "OUTPUT")
TensorLocation = _enum("TensorLocation", "DEVICE", "HOST")
LayerInformationFormat = _enum("LayerInformationFormat", "ONELINE", "JSON")
LayerType = _enum("LayerType", "ACTIVATION", "CONSTANT")

_NUMPY = {
    "float32": "FLOAT", "float16": "HALF", "int8": "INT8", "int32": "INT32", "int64": "INT64", "bool": "BOOL",
    "uint8": "UINT8",
}  # fmt: skip


def _type_of(value):
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
    # The parser of 8.x makes every int64 an int32, inputs and outputs included.
    return DataType["INT32" if dtype == "int64" and _RELEASE < (10, 0) else _NUMPY[dtype]]


def _shape_of(value):
    return [dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim]


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self):
        pass


class IProfiler:
    def __init__(self):
        pass


if _RELEASE >= (10, 0):

    class IProgressMonitor:
        def __init__(self):
            pass


class IHostMemory:
    """Gives its bytes by the buffer protocol only, as the real one does."""

    def __new__(cls, data):
        return memoryview(data)


class ITimingCache:
    def __init__(self, data):
        self.data = bytes(data)

    def serialize(self):
        return IHostMemory(self.data)


class Profile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, input, min, opt, max):  # noqa: A002
        self.shapes[input] = [list(min), list(opt), list(max)]


class IBuilderConfig:
    __slots__ = ["cache", "flags", "pools", "profiles", "profiling_verbosity"]
    if _RELEASE >= (8, 6):
        __slots__ += ["builder_optimization_level"]
    if _RELEASE >= (10, 0):
        __slots__ += ["progress_monitor"]

    def __init__(self):
        self.flags, self.pools, self.profiles, self.cache = 1 << BuilderFlag.TF32, {}, [], None
        if hasattr(IBuilderConfig, "progress_monitor"):
            self.progress_monitor = None
        if hasattr(IBuilderConfig, "builder_optimization_level"):
            self.builder_optimization_level = 0  # really 3: so that a test sees whether it was set

    def set_flag(self, flag):
        self.flags |= 1 << int(flag)

    def clear_flag(self, flag):
        self.flags &= ~(1 << int(flag))

    def set_memory_pool_limit(self, pool, pool_size):
        self.pools[pool] = pool_size

    def add_optimization_profile(self, profile):
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache):
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache, ignore_mismatch):
        if cache.data and not cache.data.startswith(_stamp()) and not ignore_mismatch:
            return False
        self.cache = cache
        return True

    def get_timing_cache(self):
        return self.cache


def _stamp():
    return "{} {}\n".format(__version__, os.environ.get("EDGEC_SIMULATED_GPU")).encode()


class _Tensor:
    def __init__(self, name, dtype):
        self.name, self.dtype = name, dtype


class _Layer:
    __slots__ = ["dtypes", "name", "outputs", "type"]
    if _RELEASE >= (8, 6):
        __slots__ += ["metadata"]
    if _RELEASE < (11, 0):
        __slots__ += ["precision"]

    def __init__(self, node, outputs):
        self.name, self.outputs, self.dtypes, self.type = node.name, outputs, {}, LayerType.ACTIVATION
        if hasattr(_Layer, "metadata"):
            self.metadata = f"[ONNX Layer: {node.name}]"
        if hasattr(_Layer, "precision"):
            self.precision = None

    num_outputs = property(lambda self: len(self.outputs))

    def get_output(self, index):
        return self.outputs[index]

    if _RELEASE < (11, 0):

        def set_output_type(self, index, dtype):
            self.dtypes[index] = dtype


class INetworkDefinition:
    def __init__(self, flags):
        self.flags, self.model, self.inputs, self.layers = flags, None, [], []

    num_inputs = property(lambda self: len(self.inputs))
    num_layers = property(lambda self: len(self.layers))

    def get_input(self, index):
        return self.inputs[index]

    def get_layer(self, index):
        return self.layers[index]


class _ParserError:
    def __init__(self, text, node):
        self._text, self._node = text, node

    def desc(self):
        return self._text

    if _RELEASE >= (10, 0):

        def node_name(self):
            return self._node.name if self._node else ""

        def node_operator(self):
            return self._node.op_type if self._node else ""


class OnnxParser:
    def __init__(self, network, logger):
        self.network, self.errors = network, []

    num_errors = property(lambda self: len(self.errors))

    def get_error(self, index):
        return self.errors[index]

    def parse_from_file(self, model):
        explicit = getattr(NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
        if _RELEASE < (10, 0) and not self.network.flags & (1 << explicit):
            self.errors.append(
                _ParserError("This version of the ONNX parser only supports EXPLICIT_BATCH", None)
            )
            return False
        loaded = onnx.load(model)
        for node in loaded.graph.node:
            if node.op_type == "Attention" and _RELEASE < (10, 14):
                self.errors.append(_ParserError("No importer registered for op: Attention", node))
        if self.errors:
            return False
        loaded = onnx.shape_inference.infer_shapes(loaded)
        known = {value.name: value for value in [*loaded.graph.value_info, *loaded.graph.output]}
        constants = {tensor.name for tensor in loaded.graph.initializer}
        self.network.model = loaded
        self.network.inputs = [
            _Tensor(value.name, _type_of(value))
            for value in loaded.graph.input
            if value.name not in constants
        ]
        for node in loaded.graph.node:
            outputs = [_Tensor(name, _type_of(known[name])) for name in node.output if name in known]
            self.network.layers.append(_Layer(node, outputs))
        return True


class Builder:
    def __init__(self, logger):
        self.logger = logger

    def create_network(self, flags=0):
        return INetworkDefinition(flags)

    def create_builder_config(self):
        return IBuilderConfig()

    def create_optimization_profile(self):
        return Profile()

    def build_serialized_network(self, network, config):
        what, _, which = os.environ.get("EDGEC_SIMULATED_BUILD", "").partition(":")
        if what == "fails" and which in ("", network.model.graph.name):
            self.logger.log(
                ILogger.ERROR, "[optimizer.cpp::computeCosts] Could not find any implementation for node x"
            )
            return None
        if what == "memory" and config.pools[MemoryPoolType.WORKSPACE] > int(which):
            self.logger.log(ILogger.ERROR, "[virtualMemoryBuffer.cpp] Cuda Runtime (out of memory)")
            return None
        if what == "off" and which == network.model.graph.name:
            os._exit(9)
        monitor = getattr(config, "progress_monitor", None)
        if monitor:
            monitor.phase_start("Building Engine", None, 2)
            monitor.phase_start("Timing graph nodes", "Building Engine", len(network.layers))
            for index in range(len(network.layers)):
                assert monitor.step_complete("Timing graph nodes", index)
            monitor.phase_finish("Timing graph nodes")
            monitor.phase_finish("Building Engine")
        time.sleep(float(os.environ.get("EDGEC_SIMULATED_BUILD_SECONDS", "0")))
        if config.cache is not None:
            config.cache.data = config.cache.data or _stamp() + b"timed"
        header = {
            "stamp": _stamp().decode(),
            "flags": [flag.name for flag in BuilderFlag if config.flags >> flag & 1],
            "network_flags": network.flags,
            "profiles": [profile.shapes for profile in config.profiles],
            "workspace": config.pools.get(MemoryPoolType.WORKSPACE),
            "verbosity": int(config.profiling_verbosity),
            "level": getattr(config, "builder_optimization_level", None),
            "precisions": {
                layer.name: layer.precision.name
                for layer in network.layers
                if getattr(layer, "precision", None) is not None
            },
        }
        return IHostMemory(_MAGIC + json.dumps(header).encode() + b"\0" + network.model.SerializeToString())


class Runtime:
    def __init__(self, logger):
        self.logger = logger

    def deserialize_cuda_engine(self, serialized_engine):
        data = bytes(serialized_engine)
        if not data.startswith(_MAGIC):
            self.logger.log(ILogger.ERROR, "Serialization assertion magicTagRead == kMAGIC_TAG failed.")
            return None
        header, _, model = data[len(_MAGIC) :].partition(b"\0")
        fields = json.loads(header)
        if fields["stamp"] != _stamp().decode():
            self.logger.log(
                ILogger.ERROR, "The engine plan file is not compatible with this version of TensorRT"
            )
            return None
        return ICudaEngine(self.logger, fields, model)


class ICudaEngine:
    def __init__(self, logger, fields, model):
        self.logger, self.fields = logger, fields
        self.model = onnx.load_from_string(model)
        self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        constants = {tensor.name for tensor in self.model.graph.initializer}
        self.inputs = {value.name: value for value in self.model.graph.input if value.name not in constants}
        self.outputs = {value.name: value for value in self.model.graph.output}

    num_io_tensors = property(lambda self: len(self.inputs) + len(self.outputs))
    num_optimization_profiles = property(lambda self: max(1, len(self.fields["profiles"])))

    def get_tensor_name(self, index):
        return [*self.inputs, *self.outputs][index]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return _type_of({**self.inputs, **self.outputs}[name])

    def get_tensor_location(self, name):
        return TensorLocation.DEVICE

    def create_execution_context(self):
        return IExecutionContext(self)

    def create_engine_inspector(self):
        return _Inspector(self)


class _Inspector:
    def __init__(self, engine):
        self.engine = engine

    def get_engine_information(self, format):  # noqa: A002
        assert format == LayerInformationFormat.JSON
        layers = []
        for name, nodes in _fused(self.engine.model):
            layer = {"Name": name, "LayerType": nodes[0].op_type}
            if _RELEASE >= (8, 6):
                layer["Metadata"] = "\x1e".join(f"[ONNX Layer: {node.name}]" for node in nodes)
            layers.append(layer if self.engine.fields["verbosity"] == ProfilingVerbosity.DETAILED else name)
        return json.dumps({"Layers": layers, "Bindings": []})


def _fused(model):
    """Pairs of nodes as one layer, named as TensorRT names fused layers."""
    nodes = list(model.graph.node)
    pairs = [nodes[index : index + 2] for index in range(0, len(nodes), 2)]
    return [(" + ".join(node.name for node in pair), pair) for pair in pairs]


class IExecutionContext:
    def __init__(self, engine):
        self.engine, self.profile, self.profiler = engine, 0, None
        self.shapes, self.addresses = {}, {}

    def set_optimization_profile_async(self, profile_index, stream_handle):
        assert stream_handle
        self.profile, self.shapes = profile_index, {}
        return True

    def set_input_shape(self, name, shape):
        fixed = _shape_of(self.engine.inputs[name])
        fits = len(shape) == len(fixed) and all(want in (-1, size) for want, size in zip(fixed, shape))
        profiles = self.engine.fields["profiles"]
        if fits and profiles and name in profiles[self.profile]:
            low, _, high = profiles[self.profile][name]
            fits = all(a <= size <= b for a, size, b in zip(low, shape, high))
        if not fits:
            self.engine.logger.log(ILogger.ERROR, f"Parameter check failed: setInputShape, {name}")
            return False
        self.shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name):
        if name in self.engine.inputs:
            return self.shapes.get(name, _shape_of(self.engine.inputs[name]))
        zeros = {
            key: np.zeros(self.shapes[key], _feed_dtype(value)) for key, value in self.engine.inputs.items()
        }
        return self.engine.session.run([name], zeros)[0].shape

    def set_tensor_address(self, name, memory):
        assert memory
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle):
        assert stream_handle
        engine, feeds = self.engine, {}
        for name, value in engine.inputs.items():
            dtype = _array_dtype(engine.get_tensor_dtype(name))
            size = int(np.prod(self.shapes[name])) * dtype.itemsize
            data = ctypes.string_at(self.addresses[name], size)
            feeds[name] = np.frombuffer(data, dtype).reshape(self.shapes[name]).astype(_feed_dtype(value))
        names = list(engine.outputs)
        for slow in filter(None, os.environ.get("EDGEC_SIMULATED_SLOW", "").split(",")):
            key, _, milliseconds = slow.partition("=")
            if key == engine.model.graph.name or key in engine.fields["flags"]:
                spend = ctypes.CDLL("libcudart.so").edgec_simulated_spend
                spend.argtypes = [ctypes.c_double]
                spend(float(milliseconds))
        started = time.perf_counter()
        results = engine.session.run(names, feeds)
        elapsed = (time.perf_counter() - started) * 1e3
        for name, array in zip(names, results):
            array = np.ascontiguousarray(array.astype(_array_dtype(engine.get_tensor_dtype(name))))
            ctypes.memmove(self.addresses[name], array.ctypes.data, array.nbytes)
        if self.profiler is not None:
            layers = _fused(engine.model)
            for name, _ in layers:
                self.profiler.report_layer_time(name, elapsed / len(layers))
        return True


def _feed_dtype(value):
    return onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)


def _array_dtype(kind):
    return np.dtype({name: key for key, name in _NUMPY.items()}[kind.name])


class _Creator:
    def __init__(self, name):
        self.name = name


class _Registry:
    @property
    def plugin_creator_list(self):
        """What the loaded plugin libraries register, seen through the process's global symbols."""
        process = ctypes.CDLL(None)
        if not hasattr(process, "edgec_simulated_creators"):
            return []
        process.edgec_simulated_creators.restype = ctypes.c_char_p
        return [_Creator(name) for name in process.edgec_simulated_creators().decode().split()]

    if _RELEASE >= (10, 0):
        all_creators = plugin_creator_list


def get_plugin_registry():
    return _Registry()


def init_libnvinfer_plugins(logger, namespace):
    return True
