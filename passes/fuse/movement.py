"""Data movement carried out with numpy, on arrays that stand for a tensor's elements."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import attribute, constant, sizes

MOVING = (
    "Transpose",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Identity",
    "Expand",
    "Slice",
    "Split",
    "Gather",
    "Tile",
)
"""Ops whose output is made of elements of their first input."""


def move(node: ir.Node, output: ir.Value, array: np.ndarray) -> np.ndarray | None:
    """What a moving node makes of an array in place of its first input.

    Args:
        node: one of `MOVING`.
        output: the output asked for; its shape is fixed.
        array: has the shape of the first input.

    Returns:
        The array in the output's shape; None where the movement is decided at run time.
    """
    shape = tuple(size for size in sizes(output) or () if size is not None)
    others = [constant(operand) for operand in node.inputs[1:]]
    if is_op(node, "Transpose"):
        return np.transpose(array, attribute(node, "perm"))
    if is_op(node, "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"):
        return array.reshape(shape)
    if is_op(node, "Expand"):
        return np.broadcast_to(array, shape)
    if is_op(node, "Split"):
        axis = int(attribute(node, "axis", 0)) % array.ndim
        before = list(node.outputs)[: list(node.outputs).index(output)]
        start = sum((sizes(part) or ())[axis] or 0 for part in before)
        return array.take(range(start, start + shape[axis]), axis)
    if any(other is None for other in others):
        return None
    if is_op(node, "Tile"):
        return np.tile(array, np.asarray(others[0]))
    if is_op(node, "Slice"):
        return array[_slices(array.ndim, [np.asarray(other) for other in others])]
    if is_op(node, "Gather"):
        return np.take(array, np.asarray(others[0]), int(attribute(node, "axis", 0)))
    return None


def _slices(rank: int, arguments: list[np.ndarray]) -> tuple[slice, ...]:
    starts, ends = (argument.tolist() for argument in arguments[:2])
    chosen = arguments[2].tolist() if len(arguments) > 2 else list(range(len(starts)))
    steps = arguments[3].tolist() if len(arguments) > 3 else [1] * len(starts)
    result = [slice(None)] * rank
    for start, end, axis, step in zip(starts, ends, chosen, steps, strict=True):
        # A negative step that runs past the front is written as a very small end.
        result[axis] = slice(start, None if step < 0 and end < -(1 << 30) else end, step)
    return tuple(result)
