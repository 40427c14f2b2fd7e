"""The table of runtimes known to be wrong: every entry fits what it speaks of, and not its neighbours."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from edgec.devices.known_wrong import table, warnings_of


def graph(*nodes, shapes=None, weights=None):
    """A model of nodes `(op, inputs, attributes)`; the shapes are of values by name."""
    made = [
        helper.make_node(op, inputs, [f"y{index}"], name=f"layer.{index}", **attributes)
        for index, (op, inputs, attributes) in enumerate(nodes)
    ]
    shapes = {"x": ("float32", [1, 4]), **(shapes or {})}
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
        for name, (dtype, shape) in shapes.items()
    ]
    stored = [onnx.numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    output = helper.make_tensor_value_info(f"y{len(nodes) - 1}", TensorProto.FLOAT, None)
    proto = helper.make_model(
        helper.make_graph(made, "g", values, [output], stored),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    return ir.from_proto(proto)


def patches(step, kernel=None):
    size = kernel or step
    return (
        ("Conv", ["x", "w"], {"strides": [step, step]}),
        {"w": np.zeros((8, 3, size, size), np.float32)},
    )


def dense_transformer(step=14, kernel=None, last="Resize", inner="Softmax"):
    patch, weights = patches(step, kernel)
    return graph(
        patch,
        (inner, ["y0"], {}),
        (last, ["y1"], {}),
        shapes={"x": ("float32", [1, 3, 28, 28])},
        weights=weights,
    )


def one_query(queries=1, width=192, batch=1):
    return graph(
        ("Softmax", ["scores"], {}),
        ("MatMul", ["tokens", "w"], {}),
        shapes={
            "scores": ("float32", [batch, 3, queries, 197]),
            "tokens": ("float32", [batch, 197, width]),
        },
        weights={"w": np.zeros((width, width), np.float32)},
    )


def scatter(**attributes):
    return graph(("ScatterElements", ["x", "i", "x"], attributes), weights={"i": np.zeros((1, 4), np.int64)})


def cumsum(dtype):
    return graph(("CumSum", ["n", "axis"], {}), shapes={"n": (dtype, [5])}, weights={"axis": np.array(0)})


def attention(batch):
    return graph(("Attention", ["q", "q", "q"], {}), shapes={"q": ("float32", [batch, 4, 16, 8])})


DENSE, GRID = "dense vision transformers in TensorRT 10.3", "GridSample in TensorRT"
SCATTER, QUERY = (
    "scatter with a reduction in TensorRT",
    ("attention of one query in class-token networks in TensorRT 8.6"),
)
CONSTANT, SHAPE = "integer constants in TensorRT's parser", "a part of a shape in TensorRT's parser"
BATCH, SUMS, UNIQUE = (
    "fused attention of ten and more in a batch on Apple's GPU",
    "sums of large integers in OpenVINO",
    "Unique in OpenVINO",
)

WRONG = [
    (DENSE, dense_transformer(), "tensorrt", "10.3", "fp16"),
    (DENSE, dense_transformer(16, last="ConvTranspose", inner="Attention"), "tensorrt", "10.3.0", "fp32"),
    (GRID, graph(("GridSample", ["x", "x"], {})), "tensorrt", "10.16", "fp32"),
    (SCATTER, scatter(reduction="add"), "tensorrt", "8.5", "fp32"),
    (SCATTER, scatter(reduction="max"), "tensorrt", "9.0", "fp16"),
    (QUERY, one_query(), "tensorrt", "8.6", "fp16"),
    (CONSTANT, graph(("Constant", [], {"value_ints": [1, 2]})), "tensorrt", "8.5", "fp32"),
    (SHAPE, graph(("Shape", ["x"], {"start": 1})), "tensorrt", "9.0", "fp32"),
    (BATCH, attention(10), "coreml", "", "fp16"),
    (SUMS, cumsum("int64"), "openvino", "2026.4.1", "fp32"),
    (UNIQUE, graph(("Unique", ["x"], {})), "openvino", "2026.4.1", "fp32"),
]

RIGHT = {
    "a later version": (dense_transformer(), "tensorrt", "10.16", "fp16"),
    "an earlier version": (dense_transformer(), "tensorrt", "8.6", "fp16"),
    "no patches": (dense_transformer(2, 3), "tensorrt", "10.3", "fp16"),
    "no dense output": (dense_transformer(last="Relu"), "tensorrt", "10.3", "fp16"),
    "no attention": (dense_transformer(inner="Relu"), "tensorrt", "10.3", "fp16"),
    "another runtime": (graph(("GridSample", ["x", "x"], {})), "ort", "1.32.0", "fp32"),
    "no reduction": (scatter(reduction="none"), "tensorrt", "8.6", "fp32"),
    "no attribute": (scatter(), "tensorrt", "8.6", "fp32"),
    "TensorRT 10": (scatter(reduction="add"), "tensorrt", "10.3", "fp32"),
    "two queries": (one_query(queries=2), "tensorrt", "8.6", "fp16"),
    "another width": (one_query(width=384), "tensorrt", "8.6", "fp16"),
    "another batch": (one_query(batch=8), "tensorrt", "8.6", "fp16"),
    "fp32": (one_query(), "tensorrt", "8.6", "fp32"),
    "a constant tensor": (graph(("Constant", [], {"value_float": 1.0})), "tensorrt", "8.6", "fp32"),
    "the whole shape": (graph(("Shape", ["x"], {})), "tensorrt", "8.6", "fp32"),
    "a batch of nine": (attention(9), "coreml", "", "fp16"),
    "sums of 32 bits": (cumsum("int32"), "openvino", "2026.4.1", "fp32"),
}


@pytest.mark.parametrize(("name", "model", "runtime", "version", "precision"), WRONG)
def test_what_is_known_to_be_wrong_is_found(name, model, runtime, version, precision):
    [finding] = warnings_of(model, runtime, version, precision)
    assert finding.name == name
    assert finding.layers[0] == "layer.0"
    assert name in str(finding)


@pytest.mark.parametrize("case", RIGHT)
def test_what_is_not_like_it_is_left_in_peace(case):
    assert warnings_of(*RIGHT[case]) == []


def test_a_version_that_is_not_known_is_warned_about():
    assert warnings_of(scatter(reduction="add"), "tensorrt", "", "fp32")


def test_it_is_found_in_a_branch_too():
    inner = helper.make_graph(
        [helper.make_node("GridSample", ["x", "x"], ["z"])],
        "b",
        [],
        [helper.make_empty_tensor_value_info("z")],
    )
    model = graph(("If", ["c"], {"then_branch": inner, "else_branch": inner}), shapes={"c": ("bool", [])})
    assert [finding.name for finding in warnings_of(model, "tensorrt", "10.3", "fp32")] == [GRID]


def test_every_entry_says_who_saw_it_and_what_to_do():
    assert {name for name, *_ in WRONG} == {entry.name for entry in table()}
    for entry in table():
        assert entry.seen
        assert entry.instead
        assert entry.sources
