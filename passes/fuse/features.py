"""Which axis of an attention's operand carries features, and which tokens.

Every projection (MatMul or Gemm by weights, convolution) puts its features on a known axis. The
index of each feature is followed from there to the operand by running the data movement in between
on an integer array, so any movement that numpy can do is read: reshapes, splits, gathers, windows.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.core.op_traits import BROADCASTING, NORMALIZATION, UNARY
from edgec.passes.editing import attribute, constant, sizes
from edgec.passes.fuse.movement import MOVING, move

_MAPS = UNARY | NORMALIZATION | {"Dropout", "Identity", "RotaryEmbedding", "SimplifiedLayerNormalization"}
"""Ops whose output has the axes of their first input."""

_PLANES = [
    "Conv",
    "ConvTranspose",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "LpPool",
    "Resize",
    "Upsample",
    "DepthToSpace",
    "SpaceToDepth",
]
"""Ops that have their features on axis 1 by definition."""

_LIMIT = 1 << 24
"""Elements above which following an index array would take longer than a compile may."""


def feature_index(value: ir.Value, depth: int = 64) -> np.ndarray | None:
    """For each element of a tensor, the feature of the nearest projection that it came from.

    Padding counts as feature -1. None where no projection is reached by movement and elementwise
    ops, or the shape is open.
    """
    shape = sizes(value)
    node = value.producer()
    if depth == 0 or shape is None or None in shape or node is None:
        return None
    fixed = tuple(size for size in shape if size is not None)
    if int(np.prod(fixed)) > _LIMIT:
        return None
    if is_op(node, *_PLANES):
        return None if len(fixed) < 2 else _along(fixed, 1)
    if is_op(node, "MatMul", "Gemm"):
        left, right = (constant(operand) is not None for operand in node.inputs[:2])
        if left == right or len(fixed) < 2:
            return None
        return _along(fixed, len(fixed) - 1 if right else len(fixed) - 2)
    try:
        return _follow(node, value, fixed, depth - 1)
    except (ValueError, IndexError, TypeError):
        return None


def _along(shape: tuple[int, ...], axis: int) -> np.ndarray:
    index = np.arange(shape[axis], dtype=np.int32).reshape(
        [-1 if a == axis else 1 for a in range(len(shape))]
    )
    return np.broadcast_to(index, shape)


def _follow(node: ir.Node, value: ir.Value, shape: tuple[int, ...], depth: int) -> np.ndarray | None:
    if is_op(node, *_MAPS):
        assert node.inputs[0] is not None
        return feature_index(node.inputs[0], depth)
    if is_op(node, *BROADCASTING):
        for operand in node.inputs:
            if operand is None or constant(operand) is not None or sizes(operand) != shape:
                continue
            found = feature_index(operand, depth)
            if found is not None:
                return found
        return None
    if is_op(node, "Concat"):
        parts = [feature_index(part, depth) for part in node.inputs if part is not None]
        if all(part is None for part in parts):
            return None
        axis = int(attribute(node, "axis", 0))
        filled = [
            np.full([s or 0 for s in sizes(operand) or ()], -1, np.int32) if part is None else part
            for part, operand in zip(parts, node.inputs, strict=True)
        ]
        return np.concatenate(filled, axis)
    source = node.inputs[0] if node.inputs else None
    if source is None or not is_op(node, *MOVING, "Pad"):
        return None
    index = feature_index(source, depth)
    if index is None:
        return None
    return _pad(node, index) if is_op(node, "Pad") else move(node, value, index)


def _pad(node: ir.Node, index: np.ndarray) -> np.ndarray | None:
    amounts = constant(node.inputs[1])
    axes = node.inputs[3] if len(node.inputs) > 3 else None
    if amounts is None or axes is not None or (amounts < 0).any():
        return None
    return np.pad(index, amounts.reshape(2, -1).T.tolist(), constant_values=-1)
