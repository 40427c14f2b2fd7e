"""Which nodes of a graph stay in fp32 when the rest becomes fp16, and why."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.core.evaluation import Evaluator
from edgec.core.graph import Arrays
from edgec.passes.editing import constant, consumers, sizes
from edgec.passes.manager import Pipeline
from edgec.passes.precision.half import FULL, LARGEST, HalfPrecision, moves, takes_half
from edgec.passes.precision.judge import SWITCH, evaluable, spelled_out
from edgec.passes.precision.plain import plain_half
from edgec.passes.precision.ranges import Range, calibrate

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
        "BatchNormalization", "CumSum", "GroupNormalization", "InstanceNormalization", "LayerNormalization",
        "LogSoftmax", "LpNormalization", "LRN", "MeanVarianceNormalization", "Pow", "RMSNormalization",
        "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum",
        "ReduceSumSquare", "Softmax", "Log", "Reciprocal",
    }
)  # fmt: skip
"""Ops that sum many squares or exponentials, or divide by what may be small."""

_STATISTICS = frozenset({"Add", "Sub", "Mul", "Div", "Sqrt", "Reciprocal", "Pow", "Max", "Min", "Clip"})
"""What a norm in parts is made of besides its means."""

_PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose", "Attention")

_LIGHT = 0.01
"""A product with at most this part of all multiply-accumulates may stay in fp32 for accuracy's sake."""

_TELLING = 256
"""Outputs of so many elements tell an error well enough on one sample."""

_THIRDS = 3
"""Nodes of one kind are weighed in this many stretches of the graph."""


@dataclasses.dataclass(frozen=True)
class Decision:
    """What stays in fp32.

    Attributes:
        keep: reason by node name.
        error: error of the graph with these kept: root of the mean square over the reference's spread.
        plain_error: likewise of plain fp16; inf where it is not finite.
        contributions: error that each group of nodes brings alone, largest first; empty where none was
            weighed.
    """

    keep: dict[str, str]
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

    1. Norms, softmax and sums of squares, with the primitives of norms in parts.
    2. Whatever makes or reads a tensor that leaves fp16's range, or sinks under its precision.
    3. Then the groups of cheap nodes whose rounding costs most, measured one by one, until the error is at
       most `SHARE` of plain fp16's.

    Args:
        model: the lowered fp32 model, masks clamped (`half.clamp_masks`).
        feeds: inputs as the model will meet them.
        fused: names of nodes that the engine runs inside one attention kernel, whose softmax is fp32 already:
            they stay fp16 unless a range forbids it.
        full: names of nodes that are fp32 whatever is decided, with the reason: they are not weighed.
        measure: whether to do the third step.
    """
    ranges = calibrate(model, feeds)
    keep = {**_by_kind(model, fused), **_by_range(model, ranges), **(full or {})}
    expected = [_outputs(model, feed) for feed in feeds]
    plain_error = _error_of(plain_half(model), feeds, expected) if measure else math.inf
    error = _error_of(_typed(model, keep), feeds, expected)
    contributions: dict[str, float] = {}
    wanted = max(SHARE * plain_error, SMALL)
    if sum(array.size for one in expected for array in one.values()) < _TELLING:
        # A few numbers may be near by chance: whatever tells is kept.
        wanted = SMALL
    if measure and error > wanted:
        ordered, enough, contributions, wanted = _by_error(model, feeds, expected, keep, fused, wanted)
        while enough:
            for group in ordered[:enough]:
                keep |= group
            error = _error_of(_typed(model, keep), feeds, expected)
            if error <= wanted or enough >= len(ordered):
                break
            # What reads a kept value in fp16 rounds it after all: the simulation was a little too kind.
            enough = min(len(ordered), enough + max(1, enough // 2))
    return Decision(keep, error, plain_error, contributions)


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


def beyond_half(model: ir.Model, feeds: Sequence[Arrays], names: Collection[str]) -> dict[str, str]:
    """Why fp16 does not hold a value, by name; those that it holds are left out.

    Args:
        model: the lowered fp32 model.
        feeds: inputs as the model will meet them.
        names: the values to look at; unknown names are passed over.
    """
    ranges = calibrate(model, feeds, only=names)
    return {name: why for name in names if name in ranges and (why := _beyond(ranges[name]))}


def _typed(model: ir.Model, keep: Mapping[str, str]) -> ir.Model:
    copy = model.clone()
    Pipeline([HalfPrecision(frozenset(keep))]).run(copy)
    return copy


def _by_kind(model: ir.Model, fused: Collection[str]) -> dict[str, str]:
    keep: dict[str, str] = {}
    for node in model.graph:
        if node.name in fused or not _computes_floats(node):
            continue
        if node.op_type in _SENSITIVE:
            keep[node.name or ""] = "norms, softmax and sums of squares lose most in fp16"
            if node.op_type.startswith("Reduce"):
                keep |= dict.fromkeys(_norm_parts(node, fused), "part of a norm")
    return keep


def _norm_parts(reduction: ir.Node, fused: Collection[str]) -> list[str]:
    """The primitives around a reduction: the square in front, and what leads from its result to full size."""
    found = []
    source = reduction.inputs[0]
    maker = None if source is None else source.producer()
    if maker is not None and len(consumers(source)) == 1 and _is_square(maker):  # type: ignore[arg-type]
        found.append(maker)
    full = _count(source)
    pending = [reduction.outputs[0]]
    while pending:
        value = pending.pop()
        for reader in consumers(value):
            if reader.op_type not in _STATISTICS or reader in found or reader.name in fused:
                continue
            found.append(reader)
            count = _count(reader.outputs[0])
            if count is not None and full is not None and count < full:
                pending.append(reader.outputs[0])
    return [node.name or "" for node in found]


def _is_square(node: ir.Node) -> bool:
    return is_op(node, "Pow", "Abs") or (is_op(node, "Mul") and node.inputs[0] is node.inputs[1])


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


def _by_error(
    model: ir.Model,
    feeds: Sequence[Arrays],
    expected: Sequence[Arrays],
    keep: Mapping[str, str],
    fused: Collection[str],
    wanted: float,
) -> tuple[list[dict[str, str]], int, dict[str, float], float]:
    """Groups that might be kept, costliest first; how many suffice; what each costs; what can be reached."""
    if sum(array.size for array in expected[0].values()) >= _TELLING:
        feeds, expected = feeds[:1], expected[:1]
    typed = _typed(model, keep)
    groups = _groups(model, keep, fused)
    if not groups:
        return [], 0, {}, wanted
    numbers = {name: index for index, names in enumerate(groups.values()) for name in names}
    labels = list(groups)
    switched = spelled_out(typed, numbers)
    with Evaluator(switched) as evaluator:

        def error(on: np.ndarray) -> float:
            return mean_error(expected, [evaluator.run({**feed, SWITCH: on}) for feed in feeds])

        none = np.zeros(len(labels), np.float32)
        floor = error(none)
        alone = {}
        for index, label in enumerate(labels):
            one = none.copy()
            one[index] = 1.0
            alone[label] = math.sqrt(max(0.0, error(one) ** 2 - floor**2))
        # Where the products alone cost more than is wanted, the rest is kept as far as it still tells.
        wanted = max(wanted, NEAR * floor)
        order = sorted(labels, key=lambda label: -alone[label])
        # The fewest of the costliest groups that suffice, found by bisection along the order.
        low, high = 0, len(order)
        while low < high:
            middle = (low + high) // 2
            on = np.asarray([label not in order[:middle] for label in labels], np.float32)
            if error(on) <= wanted:
                high = middle
            else:
                low = middle + 1
    ordered = [
        dict.fromkeys(groups[label], f"rounding {label} costs {alone[label]:.1e} of the outputs' spread")
        for label in order
    ]
    return ordered, low, {label: alone[label] for label in order}, wanted


def _groups(model: ir.Model, keep: Collection[str], fused: Collection[str]) -> dict[str, list[str]]:
    """Cheap nodes that would be fp16, by kind and stretch of the graph."""
    nodes = list(model.graph)
    work = {node: _work(node) for node in nodes if node.op_type in _PRODUCTS}
    total = sum(work.values()) or 1
    groups: dict[str, list[str]] = {}
    for place, node in enumerate(nodes):
        name = node.name or ""
        if name in keep or name in fused or moves(node) or not _computes_floats(node) or not takes_half(node):
            continue
        if work.get(node, 0) > _LIGHT * total:
            continue
        stretch = place * _THIRDS // len(nodes) + 1
        groups.setdefault(f"{_kind(node)} in stretch {stretch} of {_THIRDS}", []).append(name)
    return groups


def _kind(node: ir.Node) -> str:
    if is_op(node, "Add") and all(constant(value) is None for value in node.inputs):
        return "residual sums"
    return f"{node.op_type} nodes"


def _work(node: ir.Node) -> int:
    """Multiply-accumulates; 0 where a size is open."""
    count = _count(node.outputs[0]) or 0
    if is_op(node, "Conv", "ConvTranspose"):
        shape = sizes(node.inputs[1])
        inner = None if shape is None or None in shape else math.prod(size or 0 for size in shape[1:])
    else:
        shape = sizes(node.inputs[0])
        inner = None if shape is None else shape[-1]
    return count * (inner or 0)


def _count(value: ir.Value | None) -> int | None:
    shape = sizes(value)
    return None if shape is None or None in shape else math.prod(size or 0 for size in shape)


def _computes_floats(node: ir.Node) -> bool:
    return any(value.dtype == FULL for value in node.outputs)


def _outputs(model: ir.Model, feed: Arrays) -> Arrays:
    with Evaluator(evaluable(model)) as evaluator:
        return evaluator.run(feed)


def _error_of(typed: ir.Model, feeds: Sequence[Arrays], expected: Sequence[Arrays]) -> float:
    with Evaluator(spelled_out(typed)) as evaluator:
        return mean_error(expected, [evaluator.run(feed) for feed in feeds])


def mean_error(expected: Sequence[Arrays], found: Sequence[Arrays]) -> float:
    """Root of the mean square of `rms_error` over samples."""
    errors = [rms_error(reference, actual) for reference, actual in zip(expected, found, strict=True)]
    return math.sqrt(sum(error**2 for error in errors) / len(errors))


def rms_error(reference: Arrays, found: Arrays) -> float:
    """Root of the mean square difference over the reference's standard deviation, the worst output's.

    inf where a result is not finite and its reference is.
    """
    worst = 0.0
    for name, expected in reference.items():
        if expected.dtype.kind != "f" or not expected.size:
            continue
        wide, actual = expected.astype(np.float64), found[name].astype(np.float64)
        finite = np.isfinite(wide)
        if not np.isfinite(actual[finite]).all():
            return math.inf
        if not finite.any():
            continue
        spread = float(np.std(wide[finite])) or max(1e-30, float(np.abs(wide[finite]).max()))
        worst = max(worst, float(np.sqrt(np.mean((wide[finite] - actual[finite]) ** 2))) / spread)
    return worst
