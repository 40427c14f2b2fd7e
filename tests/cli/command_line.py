"""A small transformer block as an ONNX file, and what one command leaves behind."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TOKENS, WIDTH, HEADS = 12, 16, 2


@dataclasses.dataclass
class Done:
    """What one command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output, which must be exactly one JSON object."""
        fields = json.loads(self.out)
        assert isinstance(fields, dict)
        return fields


Command = Callable[..., Done]


def block_model(seed: int = 0, classes: int = 5, *, batch: int | str = 1) -> onnx.ModelProto:
    """LayerNorm, attention with a packed projection, residual, mean, head; opset 17 primitives."""
    random = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def weight(name: str, array: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(array, name))
        return name

    def drawn(name: str, *shape: int) -> str:
        return weight(name, (random.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32))

    def add(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=f"block/{output}", **attributes))
        return output

    scale = weight("norm.weight", random.normal(1, 0.1, WIDTH).astype(np.float32))
    bias = weight("norm.bias", random.normal(0, 0.1, WIDTH).astype(np.float32))
    normed = add("LayerNormalization", ["x", scale, bias], "normed", axis=-1)
    packed = add("MatMul", [normed, drawn("qkv.weight", WIDTH, 3 * WIDTH)], "qkv")
    nodes.append(
        helper.make_node("Split", [packed], ["q", "k", "v"], name="block/split", axis=-1, num_outputs=3)
    )
    shape = weight("heads", np.array([0, 0, HEADS, WIDTH // HEADS], np.int64))
    for name, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        add("Transpose", [add("Reshape", [name, shape], f"{name}4")], f"{name}h", perm=order)
    logits = add("MatMul", ["qh", "kh"], "scores")
    divisor = weight("divisor", np.array(np.sqrt(WIDTH / HEADS), np.float32))
    probabilities = add("Softmax", [add("Div", [logits, divisor], "scaled")], "probabilities", axis=-1)
    mixed = add("Transpose", [add("MatMul", [probabilities, "vh"], "mixed")], "merged", perm=[0, 2, 1, 3])
    flat = add("Reshape", [mixed, weight("flat", np.array([0, 0, WIDTH], np.int64))], "flat_out")
    summed = add("Add", [add("MatMul", [flat, drawn("proj.weight", WIDTH, WIDTH)], "proj"), "x"], "sum")
    pooled = add("ReduceMean", [summed, weight("axes", np.array([1], np.int64))], "pooled", keepdims=0)
    add("Gemm", [pooled, drawn("head.weight", WIDTH, classes)], "logits")
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, TOKENS, WIDTH])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
