"""Which nodes of a graph stay in fp32 when the rest becomes fp16, and why."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence

import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.core.evaluation import Evaluator
from edgec.core.graph import Arrays
from edgec.passes.editing import attribute, constant, consumers, sizes
from edgec.passes.manager import Pipeline
from edgec.passes.precision.errors import mean_error, nudged
from edgec.passes.precision.half import FULL, LARGEST, HalfPrecision, moves, takes_half
from edgec.passes.precision.judge import evaluable, spelled_out
from edgec.passes.precision.plain import plain_half
from edgec.passes.precision.ranges import Range, calibrate
from edgec.passes.precision.roundings import FIXED, Between, costs
from edgec.passes.precision.structure import norm_parts, stays_full
from edgec.passes.precision.walks import Reach, makers, numbers_in
from edgec.passes.precision.weights import Constants, RoundWeights, input_keeping_weights

HEADROOM = 2.0
"""Calibration sees some inputs only: a tensor within this factor of fp16's largest number stays out."""

SUBNORMAL = 2.0**-17
"""Under this typical magnitude fp16's steps of 6e-8 are coarser than one part in 256."""

SHARE = 0.4
"""Nodes are kept until the error is at most this part of plain fp16's."""

NEAR = 1.05
"""An error within this factor of what no keeping can undo is near enough."""

SMALL = 2e-4
"""An error of this part of the outputs' spread is half an fp16 rounding: nothing more is kept for it."""

_SENSITIVE = frozenset(
    {
        "BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization",
        "LogSoftmax", "LRN", "MeanVarianceNormalization", "RMSNormalization", "ReduceMean", "ReduceProd",
        "ReduceSum", "Softmax", "Reciprocal",
    }
)  # fmt: skip
"""Ops that sum many squares or exponentials, or divide by what may be small; others are `structure`'s."""

_SUMS = frozenset(
    {
        "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum",
        "ReduceSumSquare",
    }
)  # fmt: skip

_MEANS = ("AveragePool", "GlobalAveragePool", "ReduceMean")

NEARLY_CONSTANT = 8.0
"""An output so many times as large as all that it varies by keeps too few of fp16's eleven bits."""

_PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose", "Attention")

_LIGHT = 0.01
"""Products that together have at most this part of all multiply-accumulates may stay in fp32 for accuracy's
sake: without tensor cores they take some ten times as long."""

_TELLING = 256
"""So many numbers in the outputs, of all samples together, tell an error well enough."""

_THIRDS = 3
"""Nodes of one kind are weighed in this many stretches of the graph."""


@dataclasses.dataclass(frozen=True)
class Decision:
    """What stays in fp32.

    Attributes:
        keep: reason by node name.
        weights: by product, its weights and bias as fp16 holds them (`weights.RoundWeights`); empty where no
            error was measured.
        error: error of the graph with these kept: root of the mean square over the reference's spread.
        plain_error: likewise of plain fp16; inf where it is not finite.
        contributions: error of the roundings between kinds of nodes, each alone; empty where none was
            weighed.
    """

    keep: dict[str, str]
    weights: dict[str, Constants]
    error: float
    plain_error: float
    contributions: dict[str, float]


def decide(
    model: ir.Model,
    feeds: Sequence[Arrays],
    *,
    fused: Collection[str] = (),
    full: Mapping[str, str] | None = None,
    measure: bool = True,
) -> Decision:
    """Decide what stays in fp32.

    1. What `structure` argues for, norms and softmax, with the primitives of norms in parts.
    2. Whatever makes or reads a tensor that leaves fp16's range, or sinks under its precision.
    3. Then the kinds of cheap nodes between which rounding costs most, measured one by one, until the error
       is at most `SHARE` of plain fp16's.

    Args:
        model: the lowered fp32 model, masks clamped (`half.clamp_masks`).
        feeds: inputs as the model will meet them.
        fused: names of nodes that the engine runs inside one attention kernel, whose softmax is fp32 already:
            they stay fp16 unless a range forbids it.
        full: names of nodes that are fp32 whatever is decided, with the reason: they are not weighed.
        measure: whether to do the third step.
    """
    ranges = calibrate(model, feeds)
    keep = {**_by_kind(model, fused), **_by_range(model, ranges), **stays_full(model, fused), **(full or {})}
    if not measure:
        return Decision(keep, {}, math.nan, math.nan, {})
    return _Measured(model, feeds).extended(keep, fused)


def hot_attentions(model: ir.Model, feeds: Sequence[Arrays]) -> list[ir.Node]:
    """The `Attention` nodes whose scores leave fp16's range: as one fp16 node they cannot be helped.

    Args:
        model: the lowered fp32 model.
        feeds: inputs as the model will meet them.
    """
    nodes = {f"{node.name}/MatMul_out": node for node in model.graph if is_op(node, "Attention")}
    if not nodes:
        return []
    ranges = calibrate(model, feeds, only=nodes)
    return [node for name, node in nodes.items() if name in ranges and _beyond(ranges[name])]


def islands(model: ir.Model, feeds: Sequence[Arrays]) -> dict[str, str]:
    """What stays in fp32 on an engine that is made for fp16, where every node in fp32 costs a way out of it.

    1. What `structure` argues for, but for means whose sums fp16 would hold as well. Norms and softmax as one
       op stay fp16: such an engine has kernels for them.
    2. Whatever makes or reads a tensor that leaves fp16's range, or sinks under its precision.
    3. What makes an output that is nearly constant, back to the last product.

    Args:
        model: the lowered fp32 model, masks clamped.
        feeds: inputs as the model will meet them.

    Returns:
        the reason by node name.
    """
    ranges = calibrate(model, feeds)
    keep = {**stays_full(model, _harmless_means(model, ranges)), **_by_range(model, ranges)}
    for node in model.graph:
        scores = ranges.get(f"{node.name}/MatMul_out") if is_op(node, "Attention") else None
        if scores is not None and (why := _beyond(scores)):
            keep.setdefault(node.name or "", f"a score {why}")
    for value in model.graph.outputs:
        found = ranges.get(value.name or "")
        if found is not None and found.largest > NEARLY_CONSTANT * (found.high - found.low) > 0:
            why = f"{value.name!r} varies by {found.high - found.low:.2g} only, around {found.largest:.3g}"
            keep = {**dict.fromkeys((node.name or "" for node in makers(value, Reach.PRODUCT)), why), **keep}
    return keep


def _harmless_means(model: ir.Model, ranges: Mapping[str, Range]) -> set[str]:
    """Means, none of powers, whose sums fp16 would hold as well: those of feature maps."""
    found = set()
    for node in model.graph:
        source = node.inputs[0] if is_op(node, *_MEANS) else None
        spread = None if source is None else ranges.get(source.name or "")
        if source is None or spread is None:
            continue
        if is_op(node, "AveragePool"):
            summed: float = math.prod(attribute(node, "kernel_shape", ()))
        else:
            count, left = numbers_in(source), numbers_in(node.outputs[0])
            summed = math.inf if count is None or not left else count / left
        powers = any(
            is_op(one, "Pow", "Exp") or (is_op(one, "Mul") and one.inputs[0] is one.inputs[1])
            for one in makers(source, Reach.ARITHMETIC)
        )
        if not powers and summed * spread.typical <= LARGEST / HEADROOM:
            found.add(node.name or "")
    return found


def beyond_half(model: ir.Model, feeds: Sequence[Arrays], names: Collection[str]) -> dict[str, str]:
    """Why fp16 does not hold a value, by name; those that it holds are left out.

    Args:
        model: the lowered fp32 model.
        feeds: inputs as the model will meet them.
        names: the values to look at; unknown names are passed over.
    """
    ranges = calibrate(model, feeds, only=names)
    return {name: why for name in names if name in ranges and (why := _beyond(ranges[name]))}


def _by_kind(model: ir.Model, fused: Collection[str]) -> dict[str, str]:
    keep: dict[str, str] = {}
    for node in model.graph:
        if node.name in fused or not _computes_floats(node):
            continue
        if node.op_type in _SENSITIVE:
            keep[node.name or ""] = "norms, softmax and sums of squares lose most in fp16"
        if node.op_type in _SUMS:
            keep |= dict.fromkeys((part.name or "" for part in norm_parts(node, fused)), "part of a norm")
    return keep


def _by_range(model: ir.Model, ranges: Mapping[str, Range]) -> dict[str, str]:
    keep: dict[str, str] = {}

    def mark(node: ir.Node | None, why: str) -> None:
        if node is not None and node.name:
            keep.setdefault(node.name, why)

    for node in model.graph:
        for value in node.inputs:
            array = constant(value) if value is not None and value.dtype == FULL else None
            why = "" if array is None or not array.size else _beyond(Range.of(array), weights=True)
            if why:
                mark(node, f"its weights {value.name!r} {why}")  # type: ignore[union-attr]
        for value in node.outputs:
            found = ranges.get(value.name or "")
            why = "" if found is None else _beyond(found)
            if not why:
                continue
            mark(node, f"{value.name!r} {why}")
            for reader in consumers(value):
                mark(reader, f"{value.name!r} {why}")
    for value in model.graph.inputs:
        found = ranges.get(value.name or "")
        why = "" if found is None else _beyond(found)
        for reader in consumers(value) if why else ():
            mark(reader, f"{value.name!r} {why}")
    return keep


def _beyond(found: Range, *, weights: bool = False) -> str:
    limit = LARGEST if weights else LARGEST / HEADROOM
    if not found.largest <= limit:
        return f"reaches {found.largest:.3g}, fp16 ends at {LARGEST:.0f}"
    if 0 < found.typical < SUBNORMAL and not (weights and found.largest >= 2.0**-14):
        return f"is about {found.typical:.1e}, under fp16's precision"
    return ""


class _Measured:
    """The third step: errors measured on feeds, and what is kept on their account."""

    def __init__(self, model: ir.Model, feeds: Sequence[Arrays]) -> None:
        self._model = model
        self._weights = input_keeping_weights(model, feeds)
        with Evaluator(evaluable(model)) as evaluator:
            expected = [evaluator.run(feed) for feed in feeds]
            more = nudged(feeds, math.ceil(_TELLING / max(1, _numbers(expected[0]))) - len(feeds))
            self._expected = [*expected, *(evaluator.run(feed) for feed in more)]
        self._feeds = [*feeds, *more]

    def extended(self, keep: Mapping[str, str], fused: Collection[str]) -> Decision:
        """What is kept already, and what else there is to keep."""
        keep = dict(keep)
        plain_error = self._error(spelled_out(plain_half(self._model)))
        error = self._error(spelled_out(self._typed(keep)))
        wanted = max(SHARE * plain_error, SMALL)
        if error <= wanted:
            return Decision(keep, self._weights, error, plain_error, {})
        labels = _labels(self._model, keep, fused)
        rounded = self._model.clone()
        Pipeline([RoundWeights(self._weights, keep)]).run(rounded)
        weighed = costs(rounded, labels, keep, self._feeds[: self._enough()])
        lasting = self._error(evaluable(rounded))
        for between in _costliest_first(weighed, lasting, wanted):
            why = f"rounding between {_shown(between)} costs {weighed[between]:.1e} of the outputs' spread"
            keep = {**{name: why for name, label in labels.items() if label in between}, **keep}
        error = self._error(spelled_out(self._typed(keep)))
        shown = {_shown(between): cost for between, cost in weighed.items()}
        return Decision(keep, self._weights, error, plain_error, shown)

    def _typed(self, keep: Mapping[str, str]) -> ir.Model:
        copy = self._model.clone()
        Pipeline([RoundWeights(self._weights, keep), HalfPrecision(frozenset(keep))]).run(copy)
        return copy

    def _error(self, model: ir.Model) -> float:
        with Evaluator(model) as evaluator:
            return mean_error(self._expected, [evaluator.run(feed) for feed in self._feeds])

    def _enough(self) -> int:
        """So many feeds tell what a rounding costs."""
        return math.ceil(_TELLING / max(1, _numbers(self._expected[0])))


def _numbers(outputs: Arrays) -> int:
    return sum(array.size for array in outputs.values() if array.dtype.kind == "f")


def _costliest_first(weighed: Mapping[Between, float], lasting: float, wanted: float) -> list[Between]:
    """The costliest roundings, as many as must be saved for an error of at most `wanted`.

    Args:
        weighed: error by what it lies between.
        lasting: error that no keeping can undo, that of the weights.
        wanted: where the heavy products alone cost more, the rest is saved as far as it still tells.
    """

    def left(kept: Collection[str]) -> float:
        costs = (cost for between, cost in weighed.items() if not between <= set(kept))
        return math.hypot(lasting, *costs)

    everything = {label for between in weighed for label in between} - {FIXED}
    wanted = max(wanted, NEAR * left(everything))
    chosen: list[Between] = []
    kept: set[str] = set()
    for between in sorted(weighed, key=lambda one: (-weighed[one], sorted(one))):
        if left(kept) <= wanted:
            break
        if FIXED not in between and not between <= kept:
            chosen.append(between)
            kept |= between
    return chosen


def _shown(between: Between) -> str:
    return " and ".join(sorted(between))


def _labels(model: ir.Model, keep: Collection[str], fused: Collection[str]) -> dict[str, str]:
    """Cheap nodes that would be fp16, by name: their kind and stretch of the graph."""
    nodes = list(model.graph)
    heavy = _heavy(nodes)
    labels: dict[str, str] = {}
    for place, node in enumerate(nodes):
        name = node.name or ""
        if name in keep or name in fused or moves(node) or not _computes_floats(node) or not takes_half(node):
            continue
        if node not in heavy:
            labels[name] = f"{_kind(node)} in stretch {place * _THIRDS // len(nodes) + 1} of {_THIRDS}"
    return labels


def _heavy(nodes: Sequence[ir.Node]) -> set[ir.Node]:
    """The products that carry the work: all but the lightest that together are at most `_LIGHT` of it."""
    work = {node: _work(node) for node in nodes if node.op_type in _PRODUCTS}
    left = _LIGHT * sum(work.values())
    heavy = set()
    for node in sorted(work, key=lambda one: work[one]):
        left -= work[node]
        if left < 0:
            heavy.add(node)
    return heavy


def _kind(node: ir.Node) -> str:
    if is_op(node, "Add") and all(constant(value) is None for value in node.inputs):
        return "residual sums"
    return f"{node.op_type} nodes"


def _work(node: ir.Node) -> int:
    """Multiply-accumulates; 0 where a size is open."""
    count = numbers_in(node.outputs[0]) or 0
    if is_op(node, "Conv", "ConvTranspose"):
        shape = sizes(node.inputs[1])
        inner = None if shape is None or None in shape else math.prod(size or 0 for size in shape[1:])
    else:
        shape = sizes(node.inputs[0])
        inner = None if shape is None else shape[-1]
    return count * (inner or 0)


def _computes_floats(node: ir.Node) -> bool:
    return any(value.dtype == FULL for value in node.outputs)
