"""Linear layers that read a unit's members, each as one matrix: what goes in, comes out, and for what."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import attribute, constant, sizes, sole_consumer

REGRESSORS = 4096
"""Layers with more inputs are not fitted: their Gram matrix alone takes 128 MiB."""


@dataclasses.dataclass(frozen=True)
class LinearLayer:
    """A linear layer, its bias, and the residual sum that its output goes into.

    ::

        value ─ node(weight) ─ [Add(bias)] ─ output ─ Add ─ stream
                                               skip ──┘

    Attributes:
        node: the name of the product or convolution.
        value: the value it reads.
        bias: the node's name and the index of its input that holds the bias; None where there is none.
        target: what the layer is there to make right: the stream behind it, else its own output.
        skip: what goes around the layer; None where its output goes into no residual sum.
        axis: the axis of its outputs.
    """

    node: str
    value: str
    bias: tuple[str, int] | None
    target: str
    skip: str | None
    axis: int


def linear_layer(node: ir.Node, value: str) -> LinearLayer | None:
    """A linear layer that reads a value; None where it is none that can be fitted.

    It can where its weight is an initializer in two axes, or of a convolution in one group, where whatever
    factors the node has are 1, and where it has at most `REGRESSORS` inputs.
    """
    weight = node.inputs[1]
    if (
        node.inputs[0] is None
        or node.inputs[0].name != value
        or weight is None
        or not weight.is_initializer()
    ):
        return None
    if is_op(node, "Gemm"):
        factors = (attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0))
        if factors != (1.0, 1.0) or attribute(node, "transA", 0):
            return None
    elif is_op(node, "Conv"):
        if attribute(node, "group", 1) != 1 or attribute(node, "auto_pad", "NOTSET") != "NOTSET":
            return None
        if len(sizes(weight) or ()) != 4:
            return None
    elif not is_op(node, "MatMul") or len(sizes(weight) or ()) != 2:
        return None
    if constant(weight) is None or len(matrix(node)) > REGRESSORS:
        return None
    output = node.outputs[0]
    bias = None
    if is_op(node, "Gemm", "Conv"):
        if len(node.inputs) > 2 and constant(node.inputs[2]) is not None:
            bias = (str(node.name), 2)
    else:
        add = sole_consumer(output)
        if add is not None and is_op(add, "Add"):
            other = 1 if add.inputs[0] is output else 0
            vector = constant(add.inputs[other])
            if vector is not None and vector.size == vector.shape[-1] == (sizes(weight) or (0,))[-1]:
                bias, output = (str(add.name), other), add.outputs[0]
    stream, skip = _residual(output)
    axis = 1 if is_op(node, "Conv") else -1
    return LinearLayer(str(node.name), value, bias, stream or str(output.name), skip, axis)


def _residual(output: ir.Value) -> tuple[str | None, str | None]:
    """The sum that an output goes into and what it is added to, where both have one shape."""
    add = sole_consumer(output)
    if add is None or not is_op(add, "Add"):
        return None, None
    other = add.inputs[1] if add.inputs[0] is output else add.inputs[0]
    if other is None or other is output or constant(other) is not None or sizes(other) != sizes(output):
        return None, None
    return str(add.outputs[0].name), str(other.name)


def matrix(node: ir.Node) -> np.ndarray:
    """A layer's weight as (regressors, outputs)."""
    array = constant(node.inputs[1])
    assert array is not None
    if is_op(node, "Conv"):
        return array.reshape(len(array), -1).T
    return array.T if is_op(node, "Gemm") and attribute(node, "transB", 0) else array


def stored(node: ir.Node, weight: np.ndarray) -> np.ndarray:
    """A matrix (regressors, outputs) as the layer's weight lies in the graph."""
    assert node.inputs[1] is not None
    if is_op(node, "Conv"):
        return weight.T.reshape([size or 0 for size in sizes(node.inputs[1]) or ()])
    return weight.T if is_op(node, "Gemm") and attribute(node, "transB", 0) else weight


def spread(node: ir.Node, members: np.ndarray) -> np.ndarray:
    """Members by the channels that a layer reads, as members by its regressors."""
    if not is_op(node, "Conv"):
        return members
    shape = sizes(node.inputs[1]) or ()
    return np.repeat(members, int(np.prod([size or 0 for size in shape[2:]])))


def count_rows(value: np.ndarray, axis: int) -> int:
    """How many rows a value has whose entries lie along an axis."""
    return value.size // value.shape[axis]


def value_rows(value: np.ndarray, axis: int, picked: np.ndarray) -> np.ndarray:
    """(picked, entries): rows of a value whose entries lie along an axis."""
    value = np.moveaxis(value, axis, -1)
    return value.reshape(-1, value.shape[-1])[picked]


def input_rows(node: ir.Node, value: np.ndarray, picked: np.ndarray) -> np.ndarray:
    """(picked, regressors): for each such row what the layer multiplies by its weight."""
    if not is_op(node, "Conv"):
        return value.reshape(-1, value.shape[-1])[picked]
    height, width = (size or 0 for size in (sizes(node.inputs[1]) or ())[2:])
    strides = attribute(node, "strides", (1, 1))
    dilations = attribute(node, "dilations", (1, 1))
    top, left, bottom, right = attribute(node, "pads", (0, 0, 0, 0))
    padded = np.pad(value, ((0, 0), (0, 0), (top, bottom), (left, right)))
    reach = ((height - 1) * dilations[0] + 1, (width - 1) * dilations[1] + 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    sample, row, column = np.unravel_index(picked, (len(windows), *windows.shape[2:4]))
    return windows[sample, :, row, column].reshape(len(picked), -1)
