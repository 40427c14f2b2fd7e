"""Bytes at the edges of a graph, as cameras and quantised files have them."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from jetson_graphs import drawn, model

from edgec.core.evaluation import Evaluator
from edgec.targets.jetson.lowering import lower
from edgec.targets.jetson.precise import write_half
from edgec.targets.jetson.preview import preview
from edgec.targets.jetson.versions import dialects

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed"
)

CONSTANTS = {
    "mean": np.float32(120),
    "pads": np.asarray([0, 1, 1, 0, 0, 1, 1, 0]),
    "zero": np.asarray(7, np.uint8),
    "frame": np.random.default_rng(0).integers(0, 256, (1, 2, 8, 3)).astype(np.uint8),
    "shape": np.asarray([1, 3, -1]),
    "one": np.asarray([1]),
    "five": np.asarray([5]),
    "axis": np.asarray([1]),
    "rows": np.asarray([3, 0, 1]),
    "w": drawn(4, 3, 3, 3),
}
BODIES = {
    "a transpose": "t = Transpose <perm = [0, 3, 1, 2]> (i) f = Cast <to = 1> (t) y = Sub (f, mean)",
    "a reshape and a slice": "s = Slice (i, one, five, axis) t = Reshape (s, shape) f = Cast <to = 1> (t)"
    " y = Sub (f, mean)",
    "a constant beside": "c = Concat <axis = 1> (i, frame) f = Cast <to = 1> (c) y = Sub (f, mean)",
    "a border": "p = Pad (i, pads, zero) f = Cast <to = 1> (p) y = Sub (f, mean)",
    "rows picked": "g = Gather <axis = 1> (i, rows) f = Cast <to = 1> (g) y = Sub (f, mean)",
    "two readers": "t = Transpose <perm = [0, 3, 1, 2]> (i) f = Cast <to = 1> (t) g = Cast <to = 6> (t)"
    " h = Cast <to = 1> (g) y = Sub (f, h)",
    "a cast before and a move": "f = Cast <to = 1> (i) t = Transpose <perm = [0, 3, 1, 2]> (i)"
    " g = Cast <to = 1> (t) y = Conv (g, w) z = Sub (f, mean)",
}


def built(body, kind="uint8"):
    outputs = "float y, float z" if " z = " in body else "float y"
    used = {name: array for name, array in CONSTANTS.items() if f" {name})" in body or f" {name}," in body}
    bytes_ = {name: array.astype(kind) for name, array in used.items() if array.dtype == np.uint8}
    return model(f"u ({kind}[1, 8, 8, 3] i) => ({outputs}) {{ {body} }}", {**used, **bytes_})


def picture(kind="uint8"):
    ends = np.iinfo(kind)
    return {"i": np.random.default_rng(1).integers(ends.min, ends.max + 1, (1, 8, 8, 3)).astype(kind)}


def computed(graph, feed):
    with Evaluator(graph) as evaluator:
        return evaluator.run(feed)


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_bytes_are_cast_before_they_are_moved(body, kind):
    given = built(body, kind)
    lowered = lower(given, dialects()["10.3"], native_attention=False)
    for node in lowered.graph:
        if node.op_type != "Cast":
            assert not {ir.DataType.UINT8, ir.DataType.INT8} & {value.dtype for value in node.inputs if value}
    expected, found = (computed(one, picture(kind)) for one in (given, lowered))
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_bytes_that_leave_are_cast_back_and_read_on_as_they_were():
    given = model(
        "u (uint8[1, 8, 8, 3] i) => (uint8[1, 3, 8, 8] t, float[1, 3, 64] y) "
        "{ t = Transpose <perm = [0, 3, 1, 2]> (i) r = Reshape (t, shape) f = Cast <to = 1> (r)"
        " y = Neg (f) }",
        {"shape": np.asarray([1, 3, -1])},
    )
    lowered = lower(given, dialects()["10.3"], native_attention=False)
    onnx.checker.check_model(ir.to_proto(lowered), full_check=True)
    assert lowered.graph.outputs[0].producer().op_type == "Cast"
    for name, array in computed(given, picture()).items():
        np.testing.assert_array_equal(computed(lowered, picture())[name], array)


@needs_rtx
@pytest.mark.parametrize("version", ["8.5", "10.3"])
def test_a_picture_of_bytes_is_previewed(version):
    body = "t = Transpose <perm = [0, 3, 1, 2]> (i) f = Cast <to = 1> (t) n = Sub (f, mean) y = Conv (n, w)"
    lowered = lower(built(body), dialects()[version], native_attention=False)
    write_half(lowered, [picture()], 87)
    lowered.graph.sort()
    assert preview(lowered, [86], target="jetson").layers
