"""What a graph does with its inputs, as far as it tells what real values of them are.

Which op reads an input comes first, its name second: a number that looks up a table reaches to the table's
end, one whose product with constants goes to a sine is a position or a timestep, one that hides scores is a
mask. Nothing is guessed of an input of which neither says anything.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.core.graph import TensorSpec
from edgec.frontends.examples import Drawing

POSITIONS = 4096
"""Positions where nothing says how many: the context of decoders of the first Llama generation."""

TIMESTEPS = 1000
"""Steps of a diffusion schedule where nothing says how many (Ho et al., 2020)."""

_MOVES = frozenset(
    {
        *("Cast", "Concat", "Expand", "Flatten", "Identity", "Pad", "Reshape"),
        *("Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
    }
)
"""Ops that leave values as they are."""

_INDEX_INPUTS = {
    "Gather": 1,
    "GatherElements": 1,
    "GatherND": 1,
    "OneHot": 0,
    "ScatterElements": 1,
    "ScatterND": 1,
    "RotaryEmbedding": 3,
}
"""Where an op takes numbers of places."""

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

_FULL_SCALE = 2**15 - 1
"""The largest amplitude of 16-bit sound."""

_LONG = 512
"""From this many terms on, the mean of what is summed counts for more than its spread."""


@dataclasses.dataclass(frozen=True)
class Use:
    """One thing that a graph does with an input.

    Attributes:
        kind: `index`, `angle`, `below`, `mask`, `bias`, `unit`, `power` or `sum`.
        low: smallest value that makes sense there.
        high: largest value; None where nothing says.
        inverted: of a mask, whether ones hide.
    """

    kind: str
    low: float = 0.0
    high: float | None = None
    inverted: bool = False


def drawings(model: ir.Model, specs: Sequence[TensorSpec]) -> dict[str, Drawing]:
    """How to draw each input of which the graph or the name tells something, by name.

    Args:
        model: the model, of any opset, without model-local functions.
        specs: its inputs.
    """
    values = {value.name or "": value for value in model.graph.inputs}
    fixed = Constants(model)
    found = {}
    for spec in specs:
        if spec.name in values:
            drawing = _drawing(spec, list(_uses(values[spec.name], spec.shape, fixed)))
            if drawing is not None:
                found[spec.name] = drawing
    return found


def understood(specs: Sequence[TensorSpec], known: Mapping[str, Drawing]) -> tuple[TensorSpec, ...]:
    """The inputs, with masks told by what the graph does with them; one whose ones hide has no semantics."""
    return tuple(
        dataclasses.replace(spec, semantics="unknown" if known[spec.name].inverted else "mask")
        if spec.name in known and known[spec.name].kind == "mask" and spec.semantics != "image"
        else spec
        for spec in specs
    )


def by_name(specs: Sequence[TensorSpec]) -> dict[str, Drawing]:
    """What names alone tell: torch's and fairseq's padding masks are true where there is padding."""
    return {
        spec.name: Drawing("mask", inverted=True)
        for spec in specs
        if spec.dtype == "bool" and "padding_mask" in spec.name
    }


def is_looked_up(value: ir.Value) -> bool:
    """Whether an input looks up a table's rows, through ops that do not change it."""
    return any(
        (is_op(use.node, "Gather") and use.idx == 1)
        or (is_op(use.node, *_MOVES) and use.idx == 0 and is_looked_up(use.node.outputs[0]))
        for use in value.uses()
    )


def _drawing(spec: TensorSpec, uses: Sequence[Use]) -> Drawing | None:
    kinds = {use.kind: use for use in uses}
    words = _words(spec.name)
    dtype = np.dtype(spec.dtype)
    whole = np.issubdtype(dtype, np.integer)
    mask = kinds.get("mask")
    if mask is None and by_name([spec]):
        return by_name([spec])[spec.name]
    if mask is not None or (spec.semantics == "mask" and not {"index", "bias"} & set(kinds)):
        return Drawing("mask", inverted=mask is not None and mask.inverted)
    if "mask" in spec.name.lower() and np.issubdtype(dtype, np.floating):
        return Drawing("bias" if "bias" in kinds else "mask")
    if dtype == np.bool_:
        return None
    if not whole:
        return _of_floats(spec, kinds, words)
    rows = [use.high for use in uses if use.kind == "index" and use.high is not None]
    low = max((use.low for use in uses if use.kind == "index"), default=0.0)
    positions = any(word.startswith("pos") for word in words)
    if words & {"segment", "segments"} or "token_type" in spec.name:
        return Drawing("segments", high=int(min(rows, default=2)))
    if "angle" in kinds and not rows:
        if positions or (len(spec.shape) > 1 and not words & {"t", "time", "timestep", "timesteps", "step"}):
            return Drawing("positions", high=POSITIONS)
        return Drawing("values", high=_limit(kinds["angle"]) + 1)
    if rows:
        return Drawing("positions" if positions else "values", low=int(low), high=int(min(rows)))
    if np.iinfo(dtype).bits <= 16 and "index" not in kinds:
        return Drawing("values", low=int(np.iinfo(dtype).min), high=int(np.iinfo(dtype).max) + 1)
    below = [use.high for use in uses if use.kind == "below" and use.high is not None]
    if "below" in kinds or words & {"length", "lengths", "len", "lens"}:
        return Drawing("lengths", low=1, high=int(max(below)) + 1 if below else 0)
    if positions and "index" in kinds:
        return Drawing("positions", high=POSITIONS)
    return None


def _of_floats(spec: TensorSpec, kinds: Mapping[str, Use], words: set[str]) -> Drawing | None:
    if "angle" in kinds and (len(spec.shape) < 2 or spec.shape[1:] == (1,)):
        high = _limit(kinds["angle"])
        return Drawing("values", high=high, uniform=True)
    unit = kinds.get("unit")
    if unit is not None and unit.high is not None and _is_picture(spec):
        return Drawing("values", high=unit.high, uniform=True)
    heard = words & {"wav", "wave", "waveform", "audio", "speech", "pcm", "sound", "signal"}
    if unit is not None and unit.high == _FULL_SCALE and len(spec.shape) < 4 and (heard or "power" in kinds):
        return Drawing("sound", low=_FULL_SCALE // 10, high=_FULL_SCALE)
    power = kinds.get("power")
    if power is not None and len(spec.shape) < 4:
        if power.high is None and heard:
            return Drawing("sound", high=_FULL_SCALE)
        if power.high is not None:
            return Drawing("sound", high=power.high)
    if "sum" in kinds:
        return Drawing("offset", axis=int(kinds["sum"].low))
    return None


def _is_picture(spec: TensorSpec) -> bool:
    """Whether the shape is that of pictures, channels first or last."""
    return len(spec.shape) in (3, 4) and any(spec.shape[axis] in (1, 3, 4) for axis in (-1, -3))


def _limit(angle: Use) -> float:
    """The last timestep: where the graph multiplies by hundreds, its own unit is one schedule."""
    scale = angle.high or 1.0
    return (TIMESTEPS - 1) / (scale if scale >= 100 else 1.0)


def _words(name: str) -> set[str]:
    parted = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    return {word.lower() for word in re.split(r"[^A-Za-z]+", parted) if word}


class Constants:
    """Values that do not depend on what the inputs hold, and those of them that are known."""

    def __init__(self, model: ir.Model) -> None:
        self._varies = set(model.graph.inputs)
        for node in model.graph.all_nodes():
            if is_op(node, "Shape", "Size"):
                continue
            bodies = [
                attribute.as_graph()
                for attribute in node.attributes.values()
                if attribute.type == ir.AttributeType.GRAPH
            ]
            for body in bodies:
                # A loop's number and condition come first; what it carries changes from turn to turn.
                self._varies.update(body.inputs[2 if is_op(node, "Loop") else 0 :])
            if bodies or any(value in self._varies for value in node.inputs):
                self._varies.update(node.outputs)

    def holds(self, value: ir.Value | None) -> bool:
        """Whether it is the same whatever the inputs hold."""
        return value is not None and value not in self._varies

    def of(self, value: ir.Value | None, depth: int = 8) -> np.ndarray | None:
        """Its numbers, through ops that do not change them; None where they must be computed."""
        if value is None or depth == 0:
            return None
        if value.const_value is not None:
            return value.const_value.numpy()
        node = value.producer()
        if node is None:
            return None
        if is_op(node, "Constant"):
            for attribute in node.attributes.values():
                held = attribute.value
                return held.numpy() if isinstance(held, ir.TensorProtocol) else np.asarray(held)
        if is_op(node, "Range"):
            start, limit, step = (self.of(item, depth - 1) for item in node.inputs)
            if start is None or limit is None or step is None:
                return None
            return np.arange(start.item(), limit.item(), step.item())
        if is_op(node, "ConstantOfShape"):
            fill = node.attributes.get("value")
            return np.zeros(1) if fill is None else fill.as_tensor().numpy()
        if is_op(node, *_MOVES) and not is_op(node, "Concat", "Pad"):
            found = self.of(node.inputs[0], depth - 1)
            if found is not None and is_op(node, "Cast"):
                with np.errstate(all="ignore"):
                    return found.astype(node.outputs[0].dtype.numpy()) if node.outputs[0].dtype else found
            return found
        return None

    def largest(self, value: ir.Value | None) -> float | None:
        """The largest size of its numbers."""
        found = self.of(value)
        return None if found is None or not found.size else float(np.max(np.abs(found.astype(np.float64))))

    def number(self, value: ir.Value | None) -> float | None:
        """Its one number, where it holds one."""
        found = self.of(value)
        return float(found.reshape(-1)[0]) if found is not None and found.size == 1 else None


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


_STEPS = 400
"""How many values are followed from one input at most: what tells its kind is near it."""


def _uses(value: ir.Value, shape: tuple[int | str, ...], fixed: Constants) -> Iterator[Use]:
    waiting, seen = [_At(value, shape)], set()
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
        elif op in _COMPARISONS:
            other = fixed.of(node.inputs[1 - index])
            if other is not None and other.size > 1 and np.ptp(other.astype(np.float64)) == other.size - 1:
                yield Use("below", high=float(other.max()))
        elif op in ("Div", "Mul", "Sub") and at.scale == 1 and at.shift == 0:
            yield from _units(node, index, fixed)
        elif op == "Attention" and index == 3:
            bool_ = at.value.dtype == ir.DataType.BOOL
            yield Use("mask", inverted=at.inverted) if bool_ else Use("bias")
    summed = at.state in ("plain", "weighted") and op in ("ReduceSum", "ReduceMean") and index == 0
    axes = _reduced(at, node, fixed) if summed else []
    if math.prod(size for axis in axes if isinstance(size := at.shape[axis], int)) >= _LONG:
        yield Use("sum", low=1 if len(at.shape) - 1 in axes else -1)
    if at.state in ("plain", "mask"):
        yield from _hidden(at, node, index, fixed)
    if at.state in ("plain", "angle") and op in ("Sin", "Cos"):
        yield Use("angle", high=at.scale)
    if at.state == "power" and op == "Log":
        gain = at.scale
        yield Use("power", high=1.0 if gain >= _SIXTEEN_BITS else _FULL_SCALE)
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
        yield Use("unit", high=255.0 if factor > 2 / _SIXTEEN_BITS else _FULL_SCALE)
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


def _hidden(at: _At, node: ir.Node, index: int, fixed: Constants) -> Iterator[Use]:
    """Where a mask becomes scores: as a condition, or times a large negative number."""
    if is_op(node, "Where") and index == 0:
        low = [_is_low(fixed, node.inputs[side]) for side in (1, 2)]
        if low[0] != low[1]:
            yield Use("mask", inverted=at.inverted != low[0])
    elif is_op(node, "Mul"):
        number = fixed.of(node.inputs[1 - index])
        if number is not None and number.size == 1 and float(number.reshape(-1)[0]) <= _HIDES:
            yield Use("mask", inverted=not at.inverted)
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
    if op in _MOVES or (op == "Gather" and at.state != "mask"):
        if index == 0 or op == "Concat":
            for value in node.outputs:
                yield dataclasses.replace(at, value=value, shape=at.shape if op == "Cast" else _sizes(value))
        return
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
    if is_op(node, "Not"):
        yield dataclasses.replace(out, state="mask", inverted=not at.inverted)
    elif is_op(node, "And", "Or") or (is_op(node, "Mul", "Min") and not fixed.holds(node.inputs[1 - index])):
        yield dataclasses.replace(out, state="mask")
    elif is_op(node, "Equal") and fixed.number(node.inputs[1 - index]) in (0.0, 1.0):
        negated = fixed.number(node.inputs[1 - index]) == 0
        yield dataclasses.replace(out, state="mask", inverted=at.inverted != negated)
    elif is_op(node, "Greater") and index == 0 and fixed.number(node.inputs[1]) in (0.0, 0.5):
        yield dataclasses.replace(out, state="mask")
    elif is_op(node, "Sub") and index == 1 and fixed.number(node.inputs[0]) == 1:
        yield dataclasses.replace(out, state="mask", inverted=not at.inverted)


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
