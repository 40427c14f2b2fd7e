"""Which rows of its inputs an op needs for some rows of its output."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.core.op_traits import (
    BROADCASTING,
    CONTRACTION,
    MOVEMENT,
    NORMALIZATION,
    POOLING,
    QUANTIZATION,
    REDUCTION,
    UNARY,
)
from edgec.passes.canonicalize.movement import permutation
from edgec.passes.editing import attribute, constant, sizes
from edgec.passes.fuse.matching import reduced_axes
from edgec.passes.infra import Refusal


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

_MIXING = CONTRACTION | NORMALIZATION | POOLING | REDUCTION
"""Ops that need all rows of some axes by what they are: where rows end, and nothing is wrong."""


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


def works(node: ir.Node) -> bool:
    """Whether fewer rows save work, and not just movement."""
    return node.op_type not in MOVEMENT


def needs(node: ir.Node, rows: Rows) -> Needs | None:
    """What the node needs of its inputs to make only these rows of its first output.

    Returns:
        the needs; None where the op mixes the rows of this axis, or makes them from nothing.

    Raises:
        Refusal: it may keep them apart, and cannot be narrowed.
    """
    if node.domain not in ("", "ai.onnx"):
        raise Refusal("it is a custom op")
    if node.outputs[0].shape is None:
        raise Refusal("its shape is not known")
    reader = _READERS.get(node.op_type)
    if reader is not None:
        return reader(node, rows)
    if node.op_type in _MIXING or not any(node.inputs):
        return None
    raise Refusal(f"{node.op_type} is not known to keep its rows apart")


def _first(node: ir.Node, rows: Rows) -> Needs:
    """The same rows of the first input, and all of the others."""
    return [rows, *[None] * (len(node.inputs) - 1)]


def _norm(node: ir.Node, rows: Rows) -> Needs | None:
    """The scale and the bias may have rows of their own."""
    axis = int(attribute(node, "axis", -1)) % _rank(node)
    return _broadcast(node, rows) if rows.axis < axis else None


def _along_axis(node: ir.Node, rows: Rows) -> Needs | None:
    return None if rows.axis == int(attribute(node, "axis", -1)) % _rank(node) else _first(node, rows)


def _cumulative(node: ir.Node, rows: Rows) -> Needs | None:
    axis = constant(node.inputs[1])
    if axis is None:
        raise Refusal("its axis is computed")
    return None if rows.axis == int(axis.reshape(())) % _rank(node) else _first(node, rows)


def _planes(node: ir.Node, rows: Rows) -> Needs:
    """BatchNormalization has a scale for each place of axis 1 alone."""
    return [rows, *[Rows(0, rows.index) if rows.axis == 1 else None] * (len(node.inputs) - 1)]


def _quantized(node: ir.Node, rows: Rows) -> Needs:
    if any(value is not None and sizes(value) not in ((), (1,)) for value in node.inputs[1:]):
        raise Refusal("its scales differ along an axis")
    return _first(node, rows)


def _reduction(node: ir.Node, rows: Rows) -> Needs:
    """The rows of the same axis: one that is reduced has a single row."""
    if attribute(node, "keepdims", 1):
        return _first(node, rows)
    kept = _kept_axes(node, reduced_axes(node))
    return [Rows(kept[rows.axis], rows.index), *[None] * (len(node.inputs) - 1)]


def _arg(node: ir.Node, rows: Rows) -> Needs:
    if attribute(node, "keepdims", 1):
        return _first(node, rows)
    kept = _kept_axes(node, (int(attribute(node, "axis", 0)),))
    return [Rows(kept[rows.axis], rows.index)]


def _squeeze(node: ir.Node, rows: Rows) -> Needs:
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    kept = _kept_axes(node, None if axes is None else axes.reshape(-1).tolist())
    return [Rows(kept[rows.axis], rows.index), *[None] * (len(node.inputs) - 1)]


def _unsqueeze(node: ir.Node, rows: Rows) -> Needs:
    axes = constant(node.inputs[1])
    if axes is None:
        raise Refusal("its axes are computed")
    new = {int(axis) % _rank(node) for axis in axes.reshape(-1)}
    old = [axis for axis in range(_rank(node)) if axis not in new]
    return [Rows(old.index(rows.axis), rows.index), None]


def _kept_axes(node: ir.Node, axes: Sequence[int] | None) -> list[int]:
    """The axes of the first input that the output still has."""
    shape = sizes(node.inputs[0])
    if shape is None or axes is None:
        raise Refusal("its axes are not known")
    dropped = {axis % len(shape) for axis in axes}
    return [axis for axis in range(len(shape)) if axis not in dropped]


def _transpose(node: ir.Node, rows: Rows) -> Needs:
    perm = permutation(node)
    if perm is None:
        raise Refusal("its axes are not known")
    return [Rows(perm[rows.axis], rows.index)]


def _reshape(node: ir.Node, rows: Rows) -> Needs:
    place = reshaped_axis(node, rows.axis)
    if place is None:
        raise Refusal("it joins them with another axis, or parts them")
    return [Rows(place, rows.index), None]


def _slice(node: ir.Node, rows: Rows) -> Needs | None:
    """Rows of another axis than the one that is cut; a cut of the same axis is a selection of its own."""
    own = taken(node)
    if own is None:
        raise Refusal("where it cuts is not known")
    return None if own.axis == rows.axis else _first(node, rows)


def _gather(node: ir.Node, rows: Rows) -> Needs | None:
    """Rows of the data behind or in front of the indices' axes, or rows of computed indices."""
    shape, index = sizes(node.inputs[0]), sizes(node.inputs[1])
    if shape is None or index is None:
        raise Refusal("the shapes of its inputs are not known")
    axis = int(attribute(node, "axis", 0)) % len(shape)
    if axis <= rows.axis < axis + len(index):
        own = constant(node.inputs[1]) is not None  # a selection of its own
        return None if own else [None, Rows(rows.axis - axis, rows.index)]
    place = rows.axis if rows.axis < axis else rows.axis - len(index) + 1
    return [Rows(place, rows.index), None]


def _split(node: ir.Node, rows: Rows) -> Needs | None:
    """The same rows of every part; a part of the rows is a selection of its own."""
    return None if rows.axis == int(attribute(node, "axis", 0)) % _rank(node) else _first(node, rows)


def _rotary(node: ir.Node, rows: Rows) -> Needs:
    """The angles follow the rows; each position is a row of the caches where positions are given."""
    if rows.axis != _rank(node) - 2:
        raise Refusal("they are no tokens of its rotation")
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        return [rows, None, None, Rows(1, rows.index)]
    return [rows, *[Rows(1, rows.index)] * 2, *[None] * (len(node.inputs) - 3)]


def _rank(node: ir.Node) -> int:
    return len(node.outputs[0].shape or ())


def _broadcast(node: ir.Node, rows: Rows) -> Needs:
    """Each operand's rows; the whole of one that is repeated along the axis."""
    rank = _rank(node)
    found: Needs = []
    for value in node.inputs:
        if value is None:
            found.append(None)
            continue
        shape = sizes(value)
        if shape is None:
            raise Refusal(f"the shape of {value.name!r} is not known")
        axis = rows.axis - rank + len(shape)
        if axis >= 0 and shape[axis] is None:
            raise Refusal(f"the size of {value.name!r} is open")
        found.append(None if axis < 0 or shape[axis] == 1 else Rows(axis, rows.index))
    return found


def _matmul(node: ir.Node, rows: Rows) -> Needs | None:
    rank = _rank(node)
    ranks = [
        len(value.shape) if value is not None and value.shape is not None else 0 for value in node.inputs
    ]
    if min(ranks) < 2:
        raise Refusal("one of its factors is a vector, or of an unknown rank")
    if rows.axis == rank - 1:
        return [None, Rows(ranks[1] - 1, rows.index)]
    if rows.axis == rank - 2:
        return [Rows(ranks[0] - 2, rows.index), None]
    return _broadcast(node, rows)


def _attention(node: ir.Node, rows: Rows) -> Needs | None:
    """Rows of queries: the output's rows depend on no other query."""
    query, key = node.inputs[0], node.inputs[1]
    shape, keys = sizes(query), sizes(key)
    if shape is None or keys is None:
        raise Refusal("the shapes of its queries and keys are not known")
    axis = len(shape) - 2  # [B, S, H·D] and [B, H, S, D] alike
    if rows.axis != axis:
        return None
    if any(value is not None for value in node.inputs[4:]):
        raise Refusal("it keeps a cache")
    if attribute(node, "is_causal", 0) and (
        rows.index != ((shape[axis] or 0) - 1,) or keys[-2] != shape[axis]
    ):
        raise Refusal("it is causal, so a row's keys depend on its place")
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    mask_rows = None
    if mask is not None:
        mask_shape = sizes(mask)
        if mask_shape is None or len(mask_shape) < 2:
            raise Refusal("the rows of its mask are not known")
        if mask_shape[-2] != 1:
            mask_rows = Rows(len(mask_shape) - 2, rows.index)
    return [Rows(axis, rows.index), None, None, *([mask_rows] if len(node.inputs) > 3 else [])]


def reshaped_axis(node: ir.Node, axis: int) -> int | None:
    """The axis of a Reshape's input that becomes an axis of its output unchanged; None if there is none."""
    value, out = node.inputs[0], node.outputs[0]
    if value is None or value.shape is None or out.shape is None:
        return None
    before, after = list(value.shape), list(out.shape)
    lead = _elements(after[:axis])
    if lead is None or sum(not isinstance(size, int) for size in after) > 1:
        return None
    for place, size in enumerate(before):
        if isinstance(size, int) and size == after[axis] and _elements(before[:place]) == lead:
            return place
    return None


def _elements(shape: Sequence[int | ir.SymbolicDim]) -> tuple[int, tuple[str, ...]] | None:
    """The number of elements: a factor, and the names of open sizes; None where one has no name."""
    names = [size.value for size in shape if not isinstance(size, int)]
    known = [name for name in names if name is not None]
    if len(known) < len(names):
        return None
    return math.prod(size for size in shape if isinstance(size, int)), tuple(sorted(known))


def _concat(node: ir.Node, rows: Rows) -> Needs:
    if int(attribute(node, "axis", 0)) % _rank(node) != rows.axis:
        return [rows for _ in node.inputs]
    found: Needs = []
    start = 0
    for value in node.inputs:
        shape = sizes(value)
        size = None if shape is None else shape[rows.axis]
        if size is None:
            raise Refusal("the sizes of its inputs are not known")
        index = tuple(row - start for row in rows.index if start <= row < start + size)
        found.append(Rows(rows.axis, index))
        start += size
    return found


_READERS: dict[str, Callable[[ir.Node, Rows], Needs | None]] = {
    **dict.fromkeys(UNARY | {"Dropout", "Identity"}, _first),
    **dict.fromkeys(BROADCASTING, _broadcast),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _norm),
    **dict.fromkeys(("Hardmax", "LogSoftmax", "LpNormalization", "Softmax"), _along_axis),
    **dict.fromkeys(QUANTIZATION - {"DynamicQuantizeLinear"}, _quantized),
    **dict.fromkeys(REDUCTION, _reduction),
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg),
    "Attention": _attention,
    "BatchNormalization": _planes,
    "Concat": _concat,
    "CumSum": _cumulative,
    "Gather": _gather,
    "MatMul": _matmul,
    "Reshape": _reshape,
    "RotaryEmbedding": _rotary,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""What an op needs for rows of its output, by its kind or by itself."""


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
