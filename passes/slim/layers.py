"""Linear layers of a graph, and the names of the user's layers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import attribute, constant_tensor, producer, rank, sizes

LINEAR = ("MatMul", "Gemm", "Conv", "ConvTranspose")
"""Ops of a linear layer, where one operand is a constant."""


def is_weight(value: ir.Value | None) -> bool:
    """Whether a value is a constant, as it is or as it is stored in fewer bits."""
    node = producer(value, "DequantizeLinear")
    return constant_tensor(value if node is None else node.inputs[0]) is not None


def is_depthwise(node: ir.Node) -> bool:
    """Whether each input channel of a Conv or ConvTranspose has output channels of its own."""
    data = sizes(node.inputs[0])
    groups = int(attribute(node, "group", 1))
    return groups > 1 and data is not None and data[1] == groups


def is_pointwise(node: ir.Node) -> bool:
    """Whether a linear layer mixes all channels, and no places."""
    if is_op(node, "MatMul", "Gemm"):
        return True
    shape = sizes(node.inputs[1])
    return shape is not None and all(size == 1 for size in shape[2:]) and attribute(node, "group", 1) == 1


def made_channels(node: ir.Node) -> tuple[ir.Value, int] | None:
    """The output of a linear layer and its axis of channels, where each channel has weights of its own."""
    if not is_op(node, *LINEAR) or len(node.inputs) < 2:
        return None
    out, count = node.outputs[0], rank(node.outputs[0])
    if count is None:
        return None
    if is_op(node, "MatMul"):
        left, right = (is_weight(value) for value in node.inputs[:2])
        if left == right:
            return None
        return (out, count - 1) if right else (out, count - 2)
    if not is_weight(node.inputs[1]) or is_depthwise(node):
        return None
    return out, 1


def summed_axis(node: ir.Node, data: ir.Value) -> int:
    """The axis of an operand that a linear layer sums over."""
    if is_op(node, "Conv", "ConvTranspose"):
        return 1
    count = rank(data) or 0
    if is_op(node, "Gemm"):
        return 0 if attribute(node, "transA", 0) else 1
    return count - 1 if data is node.inputs[0] else count - 2


def common_layer(layers: Iterable[str]) -> str:
    """The innermost layer that all of these are in; empty where there is none."""
    parts = [layer_parts(layer) for layer in layers]
    shared = itertools.takewhile(lambda names: len(set(names)) == 1, zip(*parts, strict=False))
    return "".join(names[0] for names in shared).strip("./")


def layer_parts(layer: str) -> list[str]:
    """The parts of a layer's name, each with the sign behind it."""
    parts = [""]
    for sign in layer + ".":
        parts[-1] += sign
        if sign in "./":
            parts.append("")
    return [part for part in parts if part]
