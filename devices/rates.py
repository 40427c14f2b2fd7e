"""Rates measured on this machine: matrix products through the engines, and memory copies.

NumPy's own product depends on the BLAS it was built with, so products go through the engines that
run models: ONNX Runtime always, OpenVINO where it is installed, torch for bf16 where it is not.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import importlib.util
from collections.abc import Callable

import numpy as np

from edgec.core.timing import measure
from edgec.runtime.openvino_core import new_core

SIZE = 1024
"""Rows, columns and depth of the measured product: large enough to reach an engine's full rate on a
processor, small enough (2.1 GFLOP) for some milliseconds a call."""

COPY_BYTES = 256 * 2**20
"""Bytes copied at a time: several times the largest cache of the machines met."""


@dataclasses.dataclass(frozen=True)
class ProductRate:
    """Rate of a square matrix product with a constant right side, as in a linear layer.

    Attributes:
        engine: `onnxruntime`, `openvino` or `torch`.
        precision: `fp32`, `bf16` or `int8`.
        gflops: 2·size³ operations over the time of the fastest block, GFLOP/s (GOP/s for int8): what
            the machine does when nothing else runs on it.
        spread: range of the blocks' medians over their median.
    """

    engine: str
    precision: str
    gflops: float
    spread: float


@dataclasses.dataclass(frozen=True)
class Rates:
    """What was measured, all in alternating blocks.

    Attributes:
        size: rows, columns and depth of the product.
        threads: worker threads.
        products: one entry an engine and precision.
        copy_gbps: bytes read and written by copies over the time of the fastest block, GB/s.
        copy_spread: range of the blocks' medians over their median.
    """

    size: int
    threads: int
    products: tuple[ProductRate, ...]
    copy_gbps: float
    copy_spread: float

    def best(self, precision: str) -> ProductRate | None:
        """The fastest product of a precision; None where none was measured."""
        found = [rate for rate in self.products if rate.precision == precision]
        return max(found, key=lambda rate: rate.gflops, default=None)


def measure_rates(threads: int, *, size: int = SIZE, copy_bytes: int = COPY_BYTES) -> Rates:
    """Measure products and copies, about three seconds in all.

    Args:
        threads: worker threads of every engine and of the copy.
        size: rows, columns and depth of the product.
        copy_bytes: bytes of the copied array.
    """
    calls = _products(size, threads)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        timed = measure(
            {**calls, ("copy", ""): _copy(pool, threads, copy_bytes)}, blocks=5, block_seconds=0.1
        )
    copy = timed.pop(("copy", ""))
    products = tuple(
        ProductRate(engine, precision, 2 * size**3 / min(latency.blocks) / 1e6, latency.spread)
        for (engine, precision), latency in timed.items()
    )
    return Rates(size, threads, products, 2 * copy_bytes / min(copy.blocks) / 1e6, copy.spread)


def _products(size: int, threads: int) -> dict[tuple[str, str], Callable[[], object]]:
    rng = np.random.default_rng(0)
    left = rng.standard_normal((size, size), dtype=np.float32)
    right = rng.standard_normal((size, size), dtype=np.float32)
    calls: dict[tuple[str, str], Callable[[], object]] = {
        ("onnxruntime", "fp32"): _ort(_product_model(right), left, threads),
        ("onnxruntime", "int8"): _ort(_integer_model(right), _quantized(left, np.uint8), threads),
    }
    if importlib.util.find_spec("openvino") is not None:
        calls[("openvino", "fp32")] = _openvino(_product_model(right), left, threads, "f32")
        if "BF16" in _openvino_capabilities():
            calls[("openvino", "bf16")] = _openvino(_product_model(right), left, threads, "bf16")
        if "INT8" in _openvino_capabilities():
            calls[("openvino", "int8")] = _openvino(_fake_quantized_model(right), left, threads, "f32")
    elif importlib.util.find_spec("torch") is not None:
        calls[("torch", "bf16")] = _torch_bf16(left, right, threads)
    return calls


def _quantized(values: np.ndarray, dtype: type[np.generic]) -> np.ndarray:
    """Values of drawn normals on the integer grid of `_fake_quantized_model`'s scale."""
    info = np.iinfo(dtype)  # type: ignore[type-var]
    zero = (info.max + info.min + 1) // 2
    return np.clip(np.rint(values * 32) + zero, info.min, info.max).astype(dtype)


def _model(nodes: list, inputs: list, outputs: list, constants: dict[str, np.ndarray]) -> bytes:
    from onnx import helper, numpy_helper

    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "product", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def _product_model(right: np.ndarray) -> bytes:
    from onnx import TensorProto, helper

    return _model(
        [helper.make_node("MatMul", ["left", "right"], ["product"])],
        [helper.make_tensor_value_info("left", TensorProto.FLOAT, right.shape)],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, right.shape)],
        {"right": right},
    )


def _integer_model(right: np.ndarray) -> bytes:
    from onnx import TensorProto, helper

    return _model(
        [helper.make_node("MatMulInteger", ["left", "right", "zero"], ["product"])],
        [helper.make_tensor_value_info("left", TensorProto.UINT8, right.shape)],
        [helper.make_tensor_value_info("product", TensorProto.INT32, right.shape)],
        {"right": _quantized(right, np.int8), "zero": np.array(128, np.uint8)},
    )


def _fake_quantized_model(right: np.ndarray) -> bytes:
    """A product between quantized tensors in the form that engines turn into int8 kernels."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("QuantizeLinear", ["left", "scale", "left_zero"], ["left_q"]),
        helper.make_node("DequantizeLinear", ["left_q", "scale", "left_zero"], ["left_f"]),
        helper.make_node("DequantizeLinear", ["right_q", "scale", "right_zero"], ["right_f"]),
        helper.make_node("MatMul", ["left_f", "right_f"], ["product"]),
    ]
    return _model(
        nodes,
        [helper.make_tensor_value_info("left", TensorProto.FLOAT, right.shape)],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, right.shape)],
        {
            "scale": np.array(1 / 32, np.float32),
            "left_zero": np.array(128, np.uint8),
            "right_q": _quantized(right, np.int8),
            "right_zero": np.array(0, np.int8),
        },
    )


def _ort(model: bytes, left: np.ndarray, threads: int) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"left": left})


def _openvino_capabilities() -> list[str]:
    return new_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _openvino(model: bytes, left: np.ndarray, threads: int, precision: str) -> Callable[[], object]:
    import openvino

    core = new_core()
    config = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(core.read_model(model, b""), "CPU", config).create_infer_request()
    request.set_input_tensor(openvino.Tensor(left, shared_memory=True))
    return request.infer


def _torch_bf16(left: np.ndarray, right: np.ndarray, threads: int) -> Callable[[], object]:
    import torch

    first, second = torch.from_numpy(left).bfloat16(), torch.from_numpy(right).bfloat16()

    def product() -> object:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return first @ second
        finally:
            torch.set_num_threads(before)

    return product


def _copy(pool: concurrent.futures.Executor, threads: int, size: int) -> Callable[[], object]:
    # NumPy copies without holding the interpreter's lock, so one piece a thread runs side by side.
    source = np.ones(size, np.uint8)
    target = np.zeros(size, np.uint8)
    pieces = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    return lambda: list(pool.map(lambda piece: np.copyto(*piece), pieces))
