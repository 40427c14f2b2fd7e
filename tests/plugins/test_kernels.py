"""Every kernel of every plugin computes what its function body does, on drawn shapes and values."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import bodies
import tensorrt_build
from drawn import as_given, difference, draw
from tensorrt_harness import Harness

from edgec.plugins.bindings import openvino as extension
from edgec.plugins.infra import Kind, Plugin, plugins
from edgec.plugins.kernels.cpu import native

CASES = 250
"""Of each kernel, type and instruction set."""

DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

CPU = [
    (op_type, isa, dtype)
    for op_type, plugin in sorted(plugins().items())
    if "cpu" in plugin.kernels
    for isa in plugin.kernels["cpu"].variants
    for dtype in plugin.kernels["cpu"].types
    if isa != "amx" or dtype == "bfloat16"
]
OPENVINO = sorted({(op_type, dtype) for op_type, _, dtype in CPU})
TENSORRT = [
    (op_type, dtype)
    for op_type, plugin in sorted(plugins().items())
    if "cuda" in plugin.kernels
    for dtype in plugin.kernels["cuda"].types
]


def like_first(ports) -> list[bool]:  # type: ignore[no-untyped-def]
    return [port.kind is Kind.LIKE_FIRST for port in ports]


def check(plugin: Plugin, dtype: str, run, seed: int, cases: int) -> None:  # type: ignore[no-untyped-def]
    """Draws, and compares what `run` makes of inputs and attributes with the body."""
    rng = np.random.default_rng(seed)
    for _ in range(cases):
        feeds, attributes = draw(plugin, rng)
        arrays = [feeds[port.name] for port in plugin.inputs]
        found = run(as_given(arrays, like_first(plugin.inputs), DTYPES[dtype]), attributes)
        expected = bodies.run_body(plugin.op_type, feeds, **attributes)
        wrong = difference(plugin.op_type, found, expected, like_first(plugin.outputs), dtype)
        assert not wrong, (wrong, attributes, {name: array.shape for name, array in feeds.items()})


@pytest.mark.parametrize(("op_type", "isa", "dtype"), CPU)
def test_a_kernel_for_processors(op_type: str, isa: str, dtype: str) -> None:
    if isa not in native.instructions():
        pytest.skip(f"this processor has no {isa}")
    plugin = plugins()[op_type]

    def run(arrays: list[np.ndarray], attributes: dict) -> list[np.ndarray]:
        names = [port.name for port in plugin.inputs]
        call, outputs = native.prepare(plugin, dict(zip(names, arrays, strict=True)), attributes, isa=isa)
        call()
        return outputs

    check(plugin, dtype, run, 3, CASES)


@pytest.fixture(scope="module")
def core():  # type: ignore[no-untyped-def]
    openvino = pytest.importorskip("openvino")
    made = openvino.Core()
    made.add_extension(str(extension.openvino_library()))
    return made


@pytest.mark.parametrize(("op_type", "dtype"), OPENVINO)
def test_an_operation_of_openvino(core, op_type: str, dtype: str) -> None:  # type: ignore[no-untyped-def]
    plugin = plugins()[op_type]
    compiled: dict[tuple, object] = {}

    def run(arrays: list[np.ndarray], attributes: dict) -> list[np.ndarray]:
        key = tuple(sorted(attributes.items()))
        if key not in compiled:
            compiled[key] = compile_one(core, plugin, attributes, dtype)
        feeds = [array.astype(np.float32) if array.dtype == DTYPES[dtype] else array for array in arrays]
        return [np.array(value) for value in compiled[key](feeds).values()]  # type: ignore[operator]

    # Each new setting of the attributes is a model to compile.
    check(plugin, dtype, run, 5, 40)


def compile_one(core, plugin: Plugin, attributes: dict, dtype: str):  # type: ignore[no-untyped-def]
    """The op as OpenVINO runs it, its floats in a type; inputs and outputs are float32."""
    from openvino import opset13

    proto = bodies.model(plugin, attributes)
    del proto.functions[:]
    read = core.read_model(proto.SerializeToString())
    if dtype == "bfloat16":
        [node] = [op for op in read.get_ordered_ops() if op.get_type_name() == plugin.op_type]
        for place in np.flatnonzero(like_first(plugin.inputs)):
            half = opset13.convert(node.input_value(int(place)), "bf16")
            node.input(int(place)).replace_source_output(half.output(0))
        for place in np.flatnonzero(like_first(plugin.outputs)):
            readers = node.output(int(place)).get_target_inputs()
            wide = opset13.convert(node.output(int(place)), "f32")
            for reader in readers:
                reader.replace_source_output(wide.output(0))
        read.validate_nodes_and_infer_types()
    return core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})


@pytest.fixture(scope="module", params=tensorrt_build.GENERATIONS)
def harness(request: pytest.FixtureRequest) -> Harness:
    return Harness(tensorrt_build.on_host(tensorrt_build.GENERATIONS[request.param]))


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.parametrize(("op_type", "dtype"), TENSORRT)
def test_a_plugin_of_tensorrt_over_the_kernel_for_processors(harness, op_type: str, dtype: str) -> None:  # type: ignore[no-untyped-def]
    plugin = plugins()[op_type]

    def run(arrays: list[np.ndarray], attributes: dict) -> list[np.ndarray]:
        with harness.create(op_type, attributes) as made:
            return made.run(arrays)

    check(plugin, dtype, run, 7, 40)
