"""What a graph does with an input, as far as it tells what real values of it are.

The ops that read it are followed from the input on, through those that move values or change them in ways
that can be taken back, until they look up a table, hide scores, or take a sine or a spectrum's logarithm.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.frontends.constants import MOVES, Constants

_INDEX_INPUTS = {
    "Gather": 1,
    "GatherElements": 1,
    "GatherND": 1,
    "OneHot": 0,
    "RoiAlign": 2,
    "ScatterElements": 1,
    "ScatterND": 1,
    "RotaryEmbedding": 3,
}
"""Where an op takes numbers of places."""

_SIZE_INPUTS = {"AffineGrid": 1, "ConstantOfShape": 0, "Expand": 1, "Range": 1, "Reshape": 1, "Resize": 3}
"""Where an op takes sizes of what it makes."""

_COMPARISONS = frozenset({"Less", "LessOrEqual", "Greater", "GreaterOrEqual"})

_LINEAR = frozenset({"MatMul", "Gemm", "Conv", "Einsum", "STFT", "DFT"})

_NORMS = frozenset({"Abs", "ReduceL2", "ReduceSumSquare"})

_SPECTRAL = frozenset(
    {
        *("Add", "AveragePool", "Clip", "Conv", "Div", "Gemm", "MatMul", "Max", "Mul", "Pow"),
        *("ReduceMean", "ReduceSum", "Sqrt"),
    }
)
"""What may lie between a power spectrum and its logarithm: sums of bins, a floor, a root."""

_HIDES = -1e3
"""A score from here down is hidden: its exponential is 0 beside any other."""

_SIXTEEN_BITS = 2.0**14
"""A factor from here on brings sound from 1 to 16-bit units, and its inverse the other way."""

FULL_SCALE = 2**15 - 1
"""The largest amplitude of 16-bit sound."""

_LONG = 512
"""From this many terms on, the mean of what is summed counts for more than its spread."""


@dataclasses.dataclass(frozen=True)
class Use:
    """One thing that a graph does with an input.

    Attributes:
        kind: `index`, `angle`, `below`, `equal` to `high`, `mask`, `bias`, `unit`, `power`, `sum`, `size`
            where it says how large something is to be, or `amount` where it scales what is computed.
        low: smallest value that makes sense there.
        high: largest value; None where nothing says.
        inverted: of a mask, whether ones hide.
    """

    kind: str
    low: float = 0.0
    high: float | None = None
    inverted: bool = False


@dataclasses.dataclass(frozen=True)
class _At:
    """A value on the way from an input.

    Attributes:
        value: the value.
        state: `plain` where it is `scale` times the input and `shift`, elementwise; `mask` where it is also
            compared or negated, `weighted` where it is times another input, `angle` where it is times
            constants; `linear`, `power` behind a linear map of it and a square of that.
        scale: see `state`; of an angle the largest factor.
        shift: see `state`.
        inverted: whether a mask was negated.
        shape: the value's sizes, a name for what is not known.
    """

    value: ir.Value
    shape: tuple[int | str, ...]
    state: str = "plain"
    scale: float = 1.0
    shift: float = 0.0
    inverted: bool = False

    @property
    def hides(self) -> bool:
        """Whether it is small where the input is large."""
        return self.inverted != (self.scale < 0)


_STEPS = 400
"""How many values are followed from one input at most: what tells its kind is near it."""


def uses_of(value: ir.Value, shape: tuple[int | str, ...], fixed: Constants) -> Iterator[Use]:
    """All that is done with an input of the shape; `fixed` are the constants of its model."""
    waiting = [_At(value, shape)]
    seen: set[tuple[ir.Value, str, bool]] = set()
    while waiting and len(seen) < _STEPS:
        at = waiting.pop(0)
        if (at.value, at.state, at.inverted) in seen:
            continue
        seen.add((at.value, at.state, at.inverted))
        for use in at.value.uses():
            if use.node.domain not in ("", "ai.onnx", "com.microsoft"):
                continue
            yield from _found(at, use.node, use.idx, fixed)
            waiting.extend(_onward(at, use.node, use.idx, fixed))


def _found(at: _At, node: ir.Node, index: int, fixed: Constants) -> Iterator[Use]:
    op = node.op_type
    if at.state == "plain":
        place = 1 if op == "RotaryEmbedding" and node.domain == "com.microsoft" else _INDEX_INPUTS.get(op)
        if place == index:
            yield _index(at, node)
        elif _SIZE_INPUTS.get(op) == index:
            yield Use("size")
        elif op in MOVES - {"Concat"} and index > 0:
            yield Use("index")  # a shape, or places
        elif op in _COMPARISONS:
            other = fixed.of(node.inputs[1 - index])
            if other is not None and other.size > 1 and np.ptp(other.astype(np.float64)) == other.size - 1:
                yield Use("below", high=float(other.max()))
        elif op == "Equal" and at.scale:
            number = fixed.number(node.inputs[1 - index])
            if number is not None:
                yield Use("equal", high=(number - at.shift) / at.scale)
        elif op in ("Div", "Mul") and not fixed.holds(node.inputs[1 - index]):
            yield Use("amount")
        elif op in ("Div", "Mul", "Sub") and at.scale == 1 and at.shift == 0:
            yield from _units(node, index, fixed)
        elif op == "Attention" and index == 3:
            bool_ = at.value.dtype == ir.DataType.BOOL
            yield Use("mask", inverted=at.hides) if bool_ else Use("bias")
    elif at.state == "weighted" and _SIZE_INPUTS.get(op) == index:
        yield Use("size")
    summed = at.state in ("plain", "weighted") and op in ("ReduceSum", "ReduceMean") and index == 0
    axes = _reduced(at, node, fixed) if summed and not _is_taken_off(at, node) else []
    if math.prod(size for axis in axes if isinstance(size := at.shape[axis], int)) >= _LONG:
        yield Use("sum", low=1 if len(at.shape) - 1 in axes else -1)
    if at.state in ("plain", "mask"):
        yield from _hidden(at, node, index, fixed)
    if at.state in ("plain", "angle") and op in ("Sin", "Cos"):
        yield Use("angle", high=at.scale)
    if at.state == "power" and op == "Log":
        gain = at.scale
        yield Use("power", high=1.0 if gain >= _SIXTEEN_BITS else FULL_SCALE)
    if at.state == "power" and op == "Sqrt":
        yield Use("power")


def _index(at: _At, node: ir.Node) -> Use:
    """Where a table is looked up at scale·x + shift, so x goes from -shift / scale to the table's end."""
    rows: object = None
    if node.op_type == "OneHot":
        depth = node.inputs[1]
        if depth is not None and depth.const_value is not None:
            rows = int(depth.const_value.numpy().reshape(-1)[0])
    elif node.op_type == "RotaryEmbedding":
        table = node.inputs[2 if node.domain == "com.microsoft" else 1]
        rows = table.shape[0] if table is not None and table.shape is not None and len(table.shape) else None
    elif node.op_type != "GatherND" and node.op_type != "ScatterND":
        table, axis = node.inputs[0], node.attributes.get("axis")
        if table is not None and table.shape is not None and len(table.shape) > 0:
            rows = table.shape[0 if axis is None else axis.as_int()]
    if not isinstance(rows, int) or at.scale <= 0:
        return Use("index")
    low = max(0.0, math.ceil(-at.shift / at.scale))
    return Use("index", low, math.floor((rows - 1 - at.shift) / at.scale) + 1)


def _units(node: ir.Node, index: int, fixed: Constants) -> Iterator[Use]:
    """Bytes are divided by 255 or have a mean near 128 taken off, shares a mean near 0.5 and a spread."""
    number = fixed.largest(node.inputs[1 - index])
    if number is None or (index != 0 and node.op_type != "Mul"):
        return
    factor = 1 / number if node.op_type == "Div" and number else number
    if node.op_type != "Sub" and 0 < factor <= 1 / 100:
        yield Use("unit", high=255.0 if factor > 2 / _SIXTEEN_BITS else FULL_SCALE)
    elif node.op_type == "Sub" and number > 16:
        yield Use("unit", high=255.0)
    elif node.op_type == "Sub" and 0.2 < number < 0.7 and _is_read_by(node.outputs[0], "Div", "Mul"):
        yield Use("unit", high=1.0)


def _reduced(at: _At, node: ir.Node, fixed: Constants) -> list[int]:
    """The axes that a reduction sums over, from 0."""
    axes = node.attributes.get("axes")
    chosen = fixed.of(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is not None:
        chosen = np.asarray(axes.as_ints())
    rank = len(at.shape)
    return list(range(rank)) if chosen is None else [int(axis) % rank for axis in chosen.reshape(-1) if rank]


def _is_taken_off(at: _At, node: ir.Node) -> bool:
    """Whether a mean is only there to be subtracted, as normalisations do."""
    return any(is_op(use.node, "Sub") and use.node.inputs[0] is at.value for use in node.outputs[0].uses())


def _hidden(at: _At, node: ir.Node, index: int, fixed: Constants) -> Iterator[Use]:
    """Where a mask becomes scores: as a condition, or times a large negative number."""
    if is_op(node, "Where") and index == 0:
        low = [_is_low(fixed, node.inputs[side]) for side in (1, 2)]
        if low[0] != low[1]:
            yield Use("mask", inverted=at.hides != low[0])
    elif is_op(node, "Mul"):
        number = fixed.of(node.inputs[1 - index])
        if number is not None and number.size == 1 and float(number.reshape(-1)[0]) <= _HIDES:
            yield Use("mask", inverted=not at.hides)
    elif (
        is_op(node, "Add")
        and at.state == "plain"
        and not fixed.holds(node.inputs[1 - index])
        and _is_read_by(node.outputs[0], "Softmax", "Add", "Cast")
    ):
        yield Use("bias")


def _is_read_by(value: ir.Value, *op_types: str) -> bool:
    return any(is_op(use.node, *op_types) for use in value.uses())


def _is_low(fixed: Constants, value: ir.Value | None) -> bool:
    found = fixed.of(value)
    return found is not None and found.size > 0 and float(np.max(found.astype(np.float64))) <= _HIDES


def _sizes(value: ir.Value) -> tuple[int | str, ...]:
    return tuple(size if isinstance(size, int) else str(size) for size in value.shape or ())


def _onward(at: _At, node: ir.Node, index: int, fixed: Constants) -> Iterator[_At]:
    op = node.op_type
    out = dataclasses.replace(at, value=node.outputs[0]) if node.outputs else at
    others = [value for place, value in enumerate(node.inputs) if place != index]
    if op in MOVES or (op == "Gather" and at.state != "mask"):
        if index == 0 or op == "Concat":
            for value in node.outputs:
                yield dataclasses.replace(at, value=value, shape=at.shape if op == "Cast" else _sizes(value))
        return
    if at.state == "plain" and op == "Range" and index == 1:
        yield dataclasses.replace(out, shift=at.shift - 1, shape=_sizes(node.outputs[0]))
    if at.state in ("plain", "mask"):
        yield from _masked(at, out, node, index, fixed)
    if at.state == "plain" and op in ("Add", "Sub", "Mul", "Div", "Neg"):
        yield from _shifted(at, out, node, index, fixed)
    if at.state == "plain" and op == "Mul" and not fixed.holds(node.inputs[1 - index]):
        yield dataclasses.replace(out, state="weighted")
    alone = all(fixed.holds(value) for value in others if value is not None)
    if at.state == "plain" and op in ("Mul", "MatMul", "Einsum") and alone:
        factor = fixed.largest(others[0]) or 1.0
        yield dataclasses.replace(out, state="angle", scale=abs(at.scale) * factor)
    if at.state == "angle" and op in ("Mul", "Add", "Sub") and alone:
        factor = (fixed.largest(others[0]) or 1.0) if op == "Mul" else 1.0
        yield dataclasses.replace(out, scale=at.scale * factor)
    yield from _spectral(at, out, node, index, alone, fixed)


def _masked(at: _At, out: _At, node: ir.Node, index: int, fixed: Constants) -> Iterator[_At]:
    kept = dataclasses.replace(out, state="mask", scale=1.0, inverted=at.hides)
    turned = dataclasses.replace(kept, inverted=not at.hides)
    if is_op(node, "Not"):
        yield turned
    elif is_op(node, "And", "Or") or (is_op(node, "Mul", "Min") and not fixed.holds(node.inputs[1 - index])):
        yield kept
    elif is_op(node, "Equal") and fixed.number(node.inputs[1 - index]) in (0.0, 1.0):
        yield turned if fixed.number(node.inputs[1 - index]) == 0 else kept
    elif is_op(node, "Greater") and index == 0 and fixed.number(node.inputs[1]) in (0.0, 0.5):
        yield kept
    elif is_op(node, "Sub") and index == 1 and fixed.number(node.inputs[0]) == 1:
        yield turned


def _shifted(at: _At, out: _At, node: ir.Node, index: int, fixed: Constants) -> Iterator[_At]:
    if is_op(node, "Neg"):
        yield dataclasses.replace(out, scale=-at.scale, shift=-at.shift)
        return
    number = fixed.number(node.inputs[1 - index])
    if number is None:
        return
    if is_op(node, "Add"):
        yield dataclasses.replace(out, shift=at.shift + number)
    elif is_op(node, "Sub") and index == 0:
        yield dataclasses.replace(out, shift=at.shift - number)
    elif is_op(node, "Sub"):
        yield dataclasses.replace(out, scale=-at.scale, shift=number - at.shift)
    elif is_op(node, "Mul") or (is_op(node, "Div") and index == 0 and number):
        factor = number if is_op(node, "Mul") else 1 / number
        yield dataclasses.replace(out, scale=at.scale * factor, shift=at.shift * factor)


def _spectral(at: _At, out: _At, node: ir.Node, index: int, alone: bool, fixed: Constants) -> Iterator[_At]:
    """From samples of sound through a transform and its squares to what a logarithm is taken of."""
    op = node.op_type
    if at.state in ("plain", "linear"):
        doubled = op == "Mul" and node.inputs[0] is node.inputs[1]
        if doubled or (op == "Pow" and index == 0 and fixed.number(node.inputs[1]) == 2) or op in _NORMS:
            yield dataclasses.replace(out, state="power")
        elif (op in _LINEAR and index == 0 and alone) or op in ("Add", "Sub", "Mul"):
            yield dataclasses.replace(out, state="linear")
        elif at.state == "linear" and op in ("Div", "ReduceSum"):
            yield out
    elif at.state == "power" and op in _SPECTRAL and index == 0 and (alone or op not in _LINEAR):
        yield out
