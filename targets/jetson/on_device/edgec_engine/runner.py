"""Running the engine: arrays in, arrays out, shapes held to the profiles."""

from __future__ import annotations

import json
from typing import Any, Mapping

import numpy as np
from edgec_engine import engine_file, plugins
from edgec_engine.builder import this_machine
from edgec_engine.cuda import Buffer, Stream, Timer
from edgec_engine.errors import DeviceError
from edgec_engine.plan import Plan
from edgec_engine.tensorrt_module import PORTABLE, logger, said, tensorrt

# Written out: TensorRT 8.5's own `nptype` uses np.bool, which numpy dropped in 1.24.
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}


class Runner:
    """The built engine, open for running by one thread at a time; a context manager.

    Args:
        plan: the plan.

    Raises:
        DeviceError: the engine is not built, or not for this machine, or changed (see `engine_file.check`).
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.sidecar = engine_file.check(plan, this_machine(plan))
        if self.sidecar["tensorrt_module"] == PORTABLE:
            raise DeviceError(
                "engines of TensorRT-RTX are only built here, not run", "run it with the TensorRT of JetPack"
            )
        plugins.load_recorded(plan, self.sidecar["plugins"])
        trt = self._trt = tensorrt()
        self._log = logger(trt)
        plugins.check_registered(trt, self._log, plan)
        self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(plan.engine.read_bytes())
        if self._engine is None:
            raise DeviceError(
                f"TensorRT does not load the engine: {said(self._log)}",
                "build it again: " + plan.command("build --again"),
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise DeviceError(
                f"TensorRT has no room to run the engine: {said(self._log)}", "close other programs"
            )
        self._stream = Stream()
        self._profile = 0
        self._buffers: dict[str, Buffer] = {}
        self._host: dict[str, np.ndarray] = {}
        self._read_tensors()

    def _read_tensors(self) -> None:
        trt, engine = self._trt, self._engine
        self._inputs: dict[str, np.dtype] = {}
        self._outputs: dict[str, np.dtype] = {}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            kind = engine.get_tensor_dtype(name)
            dtype = next(
                (
                    np.dtype(value)
                    for key, value in _DTYPES.items()
                    if getattr(trt.DataType, key, None) == kind
                ),
                None,
            )
            if dtype is None:
                raise DeviceError(
                    f"the engine's tensor {name!r} is {kind}, which numpy does not have",
                    "compile the model again with other inputs",
                )
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (self._inputs if is_input else self._outputs)[name] = dtype

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once.

        Args:
            feeds: an array for every input, by name; other widths of integer or float are converted.

        Returns:
            the outputs by name, in the dtypes of the model.

        Raises:
            DeviceError: an input is missing or unknown, or its shape is outside every profile.
        """
        self.upload(feeds)
        self.enqueue()
        return self.download()

    def upload(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Check the feeds, choose a profile and copy them to the device."""
        arrays = self._fitted(feeds)
        self._choose_profile(arrays)
        for name, array in arrays.items():
            if not self._context.set_input_shape(name, tuple(array.shape)):
                raise DeviceError(
                    f"TensorRT refuses shape {list(array.shape)} of {name!r}: {said(self._log)}",
                    "feed a shape within the plan's profiles",
                    2,
                )
            self._host[name] = array
            if self._engine.get_tensor_location(name) == self._trt.TensorLocation.HOST:
                self._context.set_tensor_address(name, array.ctypes.data)
                continue
            buffer = self._buffer(name)
            buffer.upload(array, self._stream)
            self._context.set_tensor_address(name, buffer.address)
        for name, dtype in self._outputs.items():
            shape = tuple(self._context.get_tensor_shape(name))
            if any(size < 0 for size in shape):
                raise DeviceError(
                    f"the shape of output {name!r} depends on the data", "compile the model again"
                )
            kept = self._host.get(name)
            if kept is None or kept.shape != shape:
                self._host[name] = np.empty(shape, dtype)
            buffer = self._buffer(name)
            buffer.reserve(self._host[name].nbytes)
            self._context.set_tensor_address(name, buffer.address)

    def enqueue(self) -> None:
        """Start a run on what was uploaded last."""
        if not self._context.execute_async_v3(self._stream.handle):
            raise DeviceError(
                f"TensorRT failed to run the engine: {said(self._log)}",
                "look at dmesg for the GPU's errors",
            )

    def download(self) -> dict[str, np.ndarray]:
        """Wait for the run and copy its outputs, in the model's dtypes."""
        for name in self._outputs:
            self._buffers[name].download(self._host[name], self._stream)
        self._stream.synchronize()
        wanted = {entry["name"]: entry["dtype"] for entry in self.plan.fields["outputs"]}
        return {
            name: self._host[name].astype(wanted.get(name, self._host[name].dtype), copy=True)
            for name in self._outputs
        }

    def timer(self) -> Timer:
        """A timer on the runner's stream."""
        return Timer(self._stream)

    def profile(self, feeds: Mapping[str, np.ndarray], runs: int) -> list[tuple[str, list[float]]]:
        """Time each engine layer with TensorRT's own profiler.

        Returns:
            layer and its times in milliseconds, one a run, in execution order.
        """
        trt = self._trt
        order: list[str] = []
        times: dict[str, list[float]] = {}

        class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                if layer_name not in times:
                    order.append(layer_name)
                times.setdefault(layer_name, []).append(ms)

        self.upload(feeds)
        for _ in range(3):
            self.enqueue()
        self._stream.synchronize()
        # A context keeps its profiler, which slows each run: so it has a context of its own.
        measured, self._context = self._context, self._engine.create_execution_context()
        chosen, self._profile = self._profile, 0
        try:
            self._context.profiler = Profiler()
            self.upload(feeds)
            for _ in range(runs):
                self.enqueue()
                self._stream.synchronize()
        finally:
            self._context, self._profile = measured, chosen
        return [(name, times[name]) for name in order]

    def layers(self) -> dict[str, dict[str, Any]]:
        """What the engine's inspector says of each layer, by name; empty where it says names only."""
        text = self._engine.create_engine_inspector().get_engine_information(
            self._trt.LayerInformationFormat.JSON
        )
        try:
            listed = json.loads(text).get("Layers", [])
        except ValueError:
            return {}
        return {layer["Name"]: layer for layer in listed if isinstance(layer, dict) and "Name" in layer}

    def close(self) -> None:
        """Free the device's memory."""
        for buffer in self._buffers.values():
            buffer.close()
        self._buffers = {}
        self._stream.close()
        self._context = self._engine = self._runtime = None

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _buffer(self, name: str) -> Buffer:
        return self._buffers.setdefault(name, Buffer())

    def _fitted(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        missing, unknown = sorted(set(self._inputs) - set(feeds)), sorted(set(feeds) - set(self._inputs))
        if missing or unknown:
            said_ = [f"no array for input {name!r}" for name in missing]
            said_ += [f"the model has no input {name!r}" for name in unknown]
            raise DeviceError(" and ".join(said_), "feed " + ", ".join(sorted(self._inputs)), 2)
        return {name: _converted(name, feeds[name], dtype) for name, dtype in self._inputs.items()}

    def _choose_profile(self, arrays: Mapping[str, np.ndarray]) -> None:
        profiles = self.plan.profiles or [self.plan.fixed_shapes()]
        fitting = [
            index
            for index, shapes in enumerate(profiles)
            if all(_within(arrays[name].shape, ranges) for name, ranges in shapes.items() if name in arrays)
        ]
        if not fitting:
            fed = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
            allowed = " or ".join(
                ", ".join(_range(name, ranges) for name, ranges in shapes.items()) for shapes in profiles
            )
            raise DeviceError(f"{fed}: outside the engine's profiles", f"feed {allowed}", 2)
        if self._profile not in fitting:
            self._context.set_optimization_profile_async(fitting[0], self._stream.handle)
            self._stream.synchronize()
            self._profile = fitting[0]


def _within(shape: tuple[int, ...], ranges: Mapping[str, list[int]]) -> bool:
    return len(shape) == len(ranges["min"]) and all(
        low <= size <= high for low, size, high in zip(ranges["min"], shape, ranges["max"])
    )


def _range(name: str, ranges: Mapping[str, list[int]]) -> str:
    sizes = (str(low) if low == high else f"{low}..{high}" for low, high in zip(ranges["min"], ranges["max"]))
    return "{} [{}]".format(name, ", ".join(sizes))


def _converted(name: str, value: Any, dtype: np.dtype) -> np.ndarray:
    array = np.ascontiguousarray(value).reshape(np.shape(value))
    if array.dtype == dtype:
        return array
    if array.dtype.kind == "f" and dtype.kind == "f":
        return array.astype(dtype)
    converted = array.astype(dtype)
    if array.dtype.kind in "iu" and dtype.kind in "iu" and np.array_equal(converted, array):
        return converted
    raise DeviceError(
        f"input {name!r} is {array.dtype}, the engine takes {dtype}",
        f"convert it with .astype({dtype.name!r}) if that is what you mean",
        2,
    )
