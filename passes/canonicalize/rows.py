"""Which rows of its inputs an op needs for some rows of its output."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.canonicalize.elementwise import BINARY, UNARY
from edgec.passes.canonicalize.movement import permutation
from edgec.passes.editing import attribute, constant, sizes


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some rows of a value.

    Attributes:
        axis: along which axis, non-negative.
        index: which ones, ascending.
    """

    axis: int
    index: tuple[int, ...]


Needs = list[Rows | None]
"""What a node needs of each input; None for the whole of it."""

WORK = (
    frozenset(["Attention", "LayerNormalization", "MatMul", "RMSNormalization", "Softmax"]) | UNARY | BINARY
)
"""Ops that cost less on fewer rows, and not just their movement."""


def taken(node: ir.Node) -> Rows | None:
    """The rows of its first input that a Gather of constant indices or a Slice reads; None otherwise."""
    shape = sizes(node.inputs[0]) if node.inputs else None
    if shape is None:
        return None
    if is_op(node, "Gather"):
        index, axis = constant(node.inputs[1]), int(attribute(node, "axis", 0)) % len(shape)
        if index is None or index.ndim > 1 or not (size := shape[axis]):
            return None
        return Rows(axis, tuple(sorted({int(number) % size for number in index.reshape(-1)})))
    if not is_op(node, "Slice"):
        return None
    given = [constant(value) for value in node.inputs[1:]]
    numbers = [int(array.reshape(())) for array in given if array is not None and array.size == 1]
    if len(numbers) < 2 or len(numbers) != len(given):
        return None
    start, end = numbers[:2]
    axis = (numbers[2] if len(numbers) > 2 else 0) % len(shape)
    step = numbers[3] if len(numbers) > 3 else 1
    length = shape[axis]
    if step < 0 or length is None:
        return None
    return Rows(axis, tuple(range(*slice(start, end, step).indices(length))))


def needs(node: ir.Node, rows: Rows) -> Needs | str | None:
    """What the node needs of its inputs to make only these rows of its first output.

    Returns:
        the needs; None where the op mixes rows of this axis; the reason where it keeps them apart
        and still cannot be narrowed.
    """
    out = node.outputs[0]
    if out.shape is None or node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in UNARY:
        return [rows, *[None] * (len(node.inputs) - 1)]
    if node.op_type in BINARY:
        return _broadcast(node, rows)
    if is_op(node, "LayerNormalization", "RMSNormalization"):
        axis = int(attribute(node, "axis", -1)) % len(out.shape)
        kept = rows.axis < axis and not any(value.uses() for value in node.outputs[1:])
        return [rows, *[None] * (len(node.inputs) - 1)] if kept else None
    if is_op(node, "Softmax"):
        return [rows] if rows.axis != int(attribute(node, "axis", -1)) % len(out.shape) else None
    if is_op(node, "MatMul"):
        return _matmul(node, len(out.shape), rows)
    if is_op(node, "Attention"):
        return _attention(node, rows)
    if is_op(node, "Transpose"):
        perm = permutation(node)
        return None if perm is None else [Rows(perm[rows.axis], rows.index)]
    if is_op(node, "Reshape"):
        place = reshaped_axis(node, rows.axis)
        return None if place is None else [Rows(place, rows.index), None]
    if is_op(node, "Concat"):
        return _concat(node, rows)
    return None


def _broadcast(node: ir.Node, rows: Rows) -> Needs | None:
    """Each operand's rows; the whole of one that is repeated along the axis."""
    rank = len(node.outputs[0].shape or ())
    found: Needs = []
    for value in node.inputs:
        shape = sizes(value)
        if shape is None:
            return None
        axis = rows.axis - rank + len(shape)
        if axis >= 0 and shape[axis] is None:
            return None
        found.append(None if axis < 0 or shape[axis] == 1 else Rows(axis, rows.index))
    return found


def _matmul(node: ir.Node, rank: int, rows: Rows) -> Needs | None:
    ranks = [
        len(value.shape) if value is not None and value.shape is not None else 0 for value in node.inputs
    ]
    if min(ranks) < 2:
        return None
    if rows.axis == rank - 1:
        return [None, Rows(ranks[1] - 1, rows.index)]
    if rows.axis == rank - 2:
        return [Rows(ranks[0] - 2, rows.index), None]
    return _broadcast(node, rows)


def _attention(node: ir.Node, rows: Rows) -> Needs | str | None:
    """Rows of queries: the output's rows depend on no other query."""
    query, key = node.inputs[0], node.inputs[1]
    shape, keys = sizes(query), sizes(key)
    if shape is None or keys is None:
        return None
    axis = len(shape) - 2  # [B, S, H·D] and [B, H, S, D] alike
    if rows.axis != axis:
        return None
    if any(value is not None for value in node.inputs[4:]) or any(value.uses() for value in node.outputs[1:]):
        return "it keeps a cache or hands out its scores"
    if attribute(node, "is_causal", 0) and (
        rows.index != ((shape[axis] or 0) - 1,) or keys[-2] != shape[axis]
    ):
        return "it is causal, so a row's keys depend on its place"
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    mask_rows = None
    if mask is not None:
        mask_shape = sizes(mask)
        if mask_shape is None or len(mask_shape) < 2:
            return "the rows of its mask are not known"
        if mask_shape[-2] != 1:
            mask_rows = Rows(len(mask_shape) - 2, rows.index)
    return [Rows(axis, rows.index), None, None, *([mask_rows] if len(node.inputs) > 3 else [])]


def reshaped_axis(node: ir.Node, axis: int) -> int | None:
    """The axis of a Reshape's input that becomes an axis of its output unchanged; None if there is none."""
    before, after = sizes(node.inputs[0]), sizes(node.outputs[0])
    if before is None or after is None or None in before or None in after:
        return None
    lead = math.prod(after[:axis])  # type: ignore[arg-type]
    for place, size in enumerate(before):
        if size == after[axis] and math.prod(before[:place]) == lead:  # type: ignore[arg-type]
            return place
    return None


def _concat(node: ir.Node, rows: Rows) -> Needs | None:
    axis = int(attribute(node, "axis", 0))
    rank = len(node.outputs[0].shape or ())
    if axis % rank != rows.axis:
        return [rows for _ in node.inputs]
    found: Needs = []
    start = 0
    for value in node.inputs:
        shape = sizes(value)
        size = None if shape is None else shape[rows.axis]
        if size is None:
            return None
        index = tuple(row - start for row in rows.index if start <= row < start + size)
        found.append(Rows(rows.axis, index))
        start += size
    return found


def joined(one: Rows | None, two: Rows | None) -> Rows | None:
    """What two readers need together; None for the whole."""
    if one is None or two is None or one.axis != two.axis:
        return None
    return Rows(one.axis, tuple(sorted({*one.index, *two.index})))


def is_few(value: ir.Value, rows: Rows) -> bool:
    """Whether the rows are at most half of the value's: fewer pay for the node that takes them."""
    shape = sizes(value)
    size = None if shape is None else shape[rows.axis]
    return size is not None and 2 * len(rows.index) <= size


def index_array(rows: Rows) -> np.ndarray:
    """The rows as Gather's indices."""
    return np.array(rows.index, np.int64)
