"""The token ops as OpenVINO runs them, in graphs of both precisions, against their definitions."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from bodies import model, run_body

from edgec.plugins.bindings.openvino import openvino_library
from edgec.plugins.infra import plugins

openvino = pytest.importorskip("openvino")

SHAPES = [(1, 197, 384, 6, 64, 13, 1), (2, 18, 5, 3, 7, 4, 0), (3, 33, 16, 1, 16, 15, 2)]


@pytest.fixture(scope="module")
def core():  # type: ignore[no-untyped-def]
    made = openvino.Core()
    made.add_extension(str(openvino_library()))
    return made


def infer(core, op_type: str, feeds: dict, attributes: dict, precision: str) -> list[np.ndarray]:  # type: ignore[no-untyped-def]
    proto = model(plugins()[op_type], attributes)
    del proto.functions[:]
    read = core.read_model(proto.SerializeToString())
    read.reshape({name: array.shape for name, array in feeds.items()})
    compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": precision})
    return [np.array(value) for value in compiled(feeds).values()]


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("op_type", ["TokenMerge", "TokenMergeEnergy", "TokenPrune"])
def test_openvino_computes_the_definition(core, op_type: str, shape: tuple, precision: str) -> None:  # type: ignore[no-untyped-def]
    batch, length, channels, heads, depth, r, protected = shape
    rng = np.random.default_rng(3)
    feeds = {
        "tokens": rng.normal(size=(batch, length, channels)).astype(np.float32),
        "metric": rng.integers(-2, 3, (batch, heads, length, depth)).astype(np.float32),
        "sizes": rng.integers(1, 4, (batch, length, 1)).astype(np.float32),
    }
    attributes: dict = {"r": r, "protected": protected}
    if op_type == "TokenPrune":
        feeds["score"] = rng.integers(0, 9, (batch, length)).astype(np.float32)
        attributes["merge"] = 1
    if op_type == "TokenMergeEnergy":
        attributes["margin"] = 0.25
    actual = infer(core, op_type, feeds, attributes, precision)
    expected = run_body(op_type, feeds, **attributes)
    np.testing.assert_array_equal(actual[2], expected[2])
    np.testing.assert_array_equal(actual[1], expected[1])
    # The op itself computes in float32 in either precision.
    np.testing.assert_allclose(actual[0], expected[0], atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("op_type", ["TokenMerge", "TokenMergeEnergy", "TokenPrune"])
def test_bf16_tokens_are_reduced_as_their_values_in_float32(core, op_type: str, shape: tuple) -> None:  # type: ignore[no-untyped-def]
    from openvino import opset13

    batch, length, channels, heads, depth, r, protected = shape
    rng = np.random.default_rng(4)
    feeds = {
        # Whole numbers to 200 are bf16 numbers, so rounding happens on the way out only.
        "tokens": rng.integers(-200, 200, (batch, length, channels)).astype(np.float32),
        "metric": rng.integers(-2, 3, (batch, heads, length, depth)).astype(np.float32),
        "sizes": rng.integers(1, 4, (batch, length, 1)).astype(np.float32),
    }
    attributes: dict = {"r": r, "protected": protected}
    if op_type == "TokenPrune":
        feeds["score"] = rng.integers(0, 9, (batch, length)).astype(np.float32)
        attributes["merge"] = 1
    proto = model(plugins()[op_type], attributes)
    del proto.functions[:]
    read = core.read_model(proto.SerializeToString())
    read.reshape({name: array.shape for name, array in feeds.items()})
    [node] = [op for op in read.get_ordered_ops() if op.get_type_name() == op_type]
    for index in (0, node.get_input_size() - 2):
        half = opset13.convert(node.input_value(index), "bf16")
        node.input(index).replace_source_output(half.output(0))
    [reader] = node.output(0).get_target_inputs()
    reader.replace_source_output(opset13.convert(node.output(0), "f32").output(0))
    read.validate_nodes_and_infer_types()
    compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    actual = [np.array(value) for value in compiled(feeds).values()]
    expected = run_body(op_type, feeds, **attributes)
    np.testing.assert_array_equal(actual[2], expected[2])
    np.testing.assert_array_equal(actual[1], expected[1])
    # Half of bf16's last place, which is 2^-8 of the value.
    np.testing.assert_allclose(actual[0], expected[0], rtol=2.0**-8, atol=2.0**-8)
