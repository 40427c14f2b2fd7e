"""What stays in fp32 by where it stands in the graph, whatever ranges any samples showed.

Samples reach as far as somebody drew them; positions, loudness and lengths reach further. Each rule here is
an argument about arithmetic, not about data, and holds for fp16 and for bf16 alike. Every target that
computes in less than fp32 asks `stays_full` for the nodes; what more it keeps (norms, softmax, what leaves
the range in its samples) is its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator

import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import attribute, constant, consumers, scalar, sizes
from edgec.passes.precision.half import FULL, moves
from edgec.passes.precision.walks import (
    BOUNDED,
    Reach,
    is_product,
    linear_in_inputs,
    makers,
    numbers,
    numbers_in,
    operands,
    reads_inputs_alone,
    terms,
)

LONG = 256
"""Sums over at least so many numbers are long: 256 pixels of 256 pass fp16's end."""

_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum",
    "ReduceSumSquare", "GlobalAveragePool", "AveragePool", "GlobalLpPool", "LpPool",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Rule:
    """Ops that stay in fp32 with what makes some of their inputs.

    Attributes:
        ops: op types of the default domain.
        places: the inputs in question; none where the op alone stays.
        reach: how far in front of it.
        why: the reason, as reports and the model's metadata say it.
    """

    ops: tuple[str, ...]
    places: tuple[int, ...]
    reach: Reach
    why: str


RULES = (
    Rule(
        ("Sin", "Cos", "Tan"), (0,), Reach.ARITHMETIC,
        "an angle is rounded by as much as it is large: fp16's steps at 1,500 are a sixth of a turn",
    ),
    Rule(
        ("Exp",), (0,), Reach.ARITHMETIC,
        "what an exponent is rounded by, its power is off by in proportion",
    ),
    Rule(
        ("Pow",), (1,), Reach.ARITHMETIC,
        "powers leave fp16's range, and are off by what their exponents are rounded by",
    ),
    Rule(
        ("Log", "ReduceLogSum", "ReduceLogSumExp"), (0,), Reach.PRODUCT,
        "a logarithm reads powers over more decades than fp16 has",
    ),
    Rule(("DFT", "STFT", "MelWeightMatrix"), (0,), Reach.ARITHMETIC, "a spectrum sums a whole window"),
    Rule(
        ("TopK", "ArgMax", "ArgMin", "Hardmax"), (0,), Reach.PRODUCT,
        "what is best is not decided on rounded scores",
    ),
    Rule(
        ("NonMaxSuppression",), (0, 1), Reach.PRODUCT,
        "which boxes stay is not decided on rounded scores and corners",
    ),
    Rule(
        ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"), (0, 1), Reach.PRODUCT,
        "what passes a threshold is not decided on rounded scores",
    ),
    Rule(
        ("Floor", "Ceil", "Round", "Mod", "Cast"), (0, 1), Reach.ARITHMETIC,
        "what is cut to whole numbers jumps where it is rounded before",
    ),
    Rule(
        ("GridSample", "RoiAlign", "MaxRoiPool"), (1,), Reach.ARITHMETIC,
        "fp16 places are a whole pixel apart from 1,024 on",
    ),
    Rule(("CumSum",), (0,), Reach.ARITHMETIC, "a running sum outgrows the steps between its terms"),
    Rule(
        ("ReduceL1", "ReduceL2", "ReduceSumSquare", "LpNormalization"), (), Reach.ARITHMETIC,
        "a sum of squares leaves fp16's range",
    ),
)  # fmt: skip
"""What asks for fp32 by its op. What asks by the shape of the graph is in `stays_full`."""

_LEAST = 2.0**-24
"""fp16's smallest number: less than half of it is 0."""

_FLOOR = "a floor that fp16 rounds to 0 keeps nothing from being divided by it"
_SUM = "a sum over many numbers passes fp16's end"
_NUMBER = "counts, places and sums: fp16 holds whole numbers up to 2,048 only"
_SQUARE = "a square leaves fp16's range from 256 on"
_SIGNAL = "the energy of a signal in its own units leaves fp16's range"
_STATISTIC = "part of a variance or a length"

_STATISTICS = ("Add", "Sub", "Mul", "Div", "Sqrt", "Reciprocal", "Pow", "Max", "Min", "Clip")
"""What a norm in parts is made of besides its means."""


def stays_full(model: ir.Model, fused: Collection[str] = ()) -> dict[str, str]:
    """Why nodes must compute in fp32, their inputs and results in fp32 too, by node name.

    Besides what `RULES` says of ops:

    1. Squares, the sums of them, and what leads from such a sum back to full size: variances and lengths.
    2. Where what is squared is a linear function of the graph's inputs (a filter bank, a Fourier transform
       of audio), the products in front of it and the first one behind it as well.
    3. Sums over `LONG` numbers or an unknown count of them, with arithmetic in front that reads the graph's
       inputs itself; a product that is such a sum and is divided by its count.
    4. What is divided by something with a floor under it that fp16 rounds to 0.
    5. Arithmetic on numbers that come from integers of more than 8 bits, running sums and long sums alone.

    Nodes in bodies of control flow are not looked at: they stay as they are.

    Args:
        model: an fp32 model with shapes and types.
        fused: names of nodes that an engine runs inside one attention kernel: they are passed over, and what
            lies in front of them with them.
    """
    return _Structure(model, frozenset(fused)).found()


class _Structure:
    def __init__(self, model: ir.Model, fused: frozenset[str]) -> None:
        self._nodes = list(model.graph)
        self._fused = fused
        self._keep: dict[str, str] = {}

    def found(self) -> dict[str, str]:
        for node in self._nodes:
            if node.name not in self._fused:
                for rule in RULES:
                    if is_op(node, *rule.ops):
                        self._apply(rule, node)
                self._squares(node)
                self._long_sums(node)
                self._floors(node)
        known = numbers(node for node in self._nodes if _is_number(node))
        for node in self._nodes:
            if any(value in known for value in node.outputs):
                self._mark(node, _NUMBER)
            self._divided_sums(node, known)
        return self._keep

    def _mark(self, node: ir.Node, why: str) -> None:
        if node.name and node.name not in self._fused:
            self._keep.setdefault(node.name, why)

    def _back(self, value: ir.Value, reach: Reach, why: str) -> None:
        for node in makers(value, reach, self._fused):
            self._mark(node, why)

    def _apply(self, rule: Rule, node: ir.Node) -> None:
        if _compares_with_zero(node) or (is_op(node, "Cast") and not _cuts(node)):
            return
        if any(value.dtype == FULL for value in operands(node)):
            self._mark(node, rule.why)
        for place in rule.places:
            value = node.inputs[place] if place < len(node.inputs) else None
            if value is not None:
                self._back(value, rule.reach, rule.why)

    def _squares(self, node: ir.Node) -> None:
        value = node.inputs[0] if node.inputs else None
        if value is None or value.dtype != FULL or not _is_square(node):
            return
        self._mark(node, _SQUARE)
        for reader in consumers(node.outputs[0]):
            if reader.op_type.startswith("Reduce"):
                self._mark(reader, _STATISTIC)
                for part in norm_parts(reader):
                    self._mark(part, _STATISTIC)
        path = linear_in_inputs(value)
        if path is not None:
            for one in (*path, *_behind(node)):
                self._mark(one, _SIGNAL)

    def _long_sums(self, node: ir.Node) -> None:
        value = node.inputs[0] if node.inputs else None
        if value is None or value.dtype != FULL or not is_op(node, *_REDUCTIONS):
            return
        count = _summed(node)
        if count is None or count >= LONG:
            self._mark(node, _SUM)
            found = makers(value, Reach.ARITHMETIC, self._fused)
            # Behind a product the operands are rounded by it already, and what rounds each averages out.
            if reads_inputs_alone(found):
                for maker in found:
                    self._mark(maker, _SUM)

    def _floors(self, node: ir.Node) -> None:
        """A floor under what divides, with all that leads to the division."""
        if not is_op(node, "Add", "Clip", "Max") or not any(
            0.0 < (scalar(value) or 0.0) < _LEAST for value in node.inputs if value is not None
        ):
            return
        pending = [node]
        while pending:
            one = pending.pop()
            for use in one.outputs[0].uses():
                divides = is_op(use.node, "Reciprocal") or (is_op(use.node, "Div") and use.idx == 1)
                if divides or moves(use.node) or is_op(use.node, "Sqrt"):
                    self._mark(one, _FLOOR)
                    self._mark(use.node, _FLOOR)
                if not divides and (moves(use.node) or is_op(use.node, "Sqrt")):
                    pending.append(use.node)

    def _divided_sums(self, node: ir.Node, known: Collection[ir.Value]) -> None:
        """A product over a long axis that a count divides: it is a mean, written as a product."""
        if not is_op(node, "Div") or node.inputs[1] not in known:
            return
        value = node.inputs[0]
        while value is not None and (maker := value.producer()) is not None and moves(maker):
            value = maker.inputs[0]
        product = None if value is None else value.producer()
        if product is None or not is_product(product):
            return
        count = terms(product)
        if count is None or count >= LONG:
            self._mark(product, _SUM)
            self._mark(node, _SUM)


def norm_parts(reduction: ir.Node, fused: Collection[str] = ()) -> list[ir.Node]:
    """The primitives around a reduction: the square in front, and what leads from its result to full size.

    Args:
        reduction: the reduction.
        fused: names of nodes that are not passed.
    """
    source = reduction.inputs[0]
    assert source is not None
    maker = source.producer()
    found = []
    if (
        maker is not None
        and (_is_square(maker) or is_op(maker, "Pow", "Abs"))
        and len(consumers(source)) == 1
    ):
        found.append(maker)
    full = numbers_in(source)
    pending = [reduction.outputs[0]]
    while pending:
        value = pending.pop()
        for reader in consumers(value):
            if reader.op_type not in _STATISTICS or reader in found or reader.name in fused:
                continue
            found.append(reader)
            count = numbers_in(reader.outputs[0])
            if count is not None and full is not None and count < full:
                pending.append(reader.outputs[0])
    return found


def _is_square(node: ir.Node) -> bool:
    if is_op(node, "Mul"):
        value = node.inputs[0]
        # The third power inside a GELU by its tangent: what overflows there ends at 1.
        cubed = any(is_op(one, "Mul") and value in one.inputs for one in consumers(node.outputs[0]))
        return value is node.inputs[1] and not cubed
    if is_op(node, "Pow"):
        power = scalar(node.inputs[1])
        return power is None or power >= 2
    return is_op(node, "ReduceL2", "ReduceSumSquare")


def _behind(node: ir.Node) -> Iterator[ir.Node]:
    """What reads a square, up to what bounds it again, and the first products among it."""
    pending, seen = [node], {node}
    while pending:
        for value in pending.pop().outputs:
            for reader in consumers(value):
                if reader in seen or is_op(reader, *BOUNDED) or reader.graph is not node.graph:
                    continue
                normalises = is_op(reader, "Div") and reader.inputs[1] is value
                seen.add(reader)
                yield reader
                if not normalises and not is_product(reader) and not is_op(reader, "Log"):
                    pending.append(reader)


def _is_number(node: ir.Node) -> bool:
    """Whether a node's result is a count, a place, or a sum that grows with what it runs over."""
    if node.outputs[0].dtype != FULL:
        return False
    if is_op(node, "Cast"):
        value = node.inputs[0]
        return value is not None and value.dtype in _WIDE_INTEGERS
    if is_op(node, "ReduceSum"):
        count = _summed(node)
        return count is None or count >= LONG
    return is_op(node, "CumSum", "Range")


_WIDE_INTEGERS = frozenset(
    ir.DataType[name] for name in ("INT16", "INT32", "INT64", "UINT16", "UINT32", "UINT64")
)


def _cuts(node: ir.Node) -> bool:
    """Whether a Cast goes from numbers to integers: to booleans it asks for zero alone."""
    dtype = node.outputs[0].dtype
    return dtype is not None and dtype.is_integer()


def _compares_with_zero(node: ir.Node) -> bool:
    """Rounding moves no number across zero."""
    return is_op(node, "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal") and any(
        (array := constant(value)) is not None and not array.any() for value in node.inputs
    )


def _summed(node: ir.Node) -> int | None:
    """How many numbers each result of a reduction or a pooling sums; None where that is open."""
    if is_op(node, "AveragePool", "LpPool"):
        return math.prod(attribute(node, "kernel_shape", ()))
    shape = sizes(node.inputs[0])
    if shape is None:
        return None
    axes: Iterable[int] | None = attribute(node, "axes")
    if node.op_type.startswith("Global"):
        axes = range(2, len(shape))
    elif axes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        array = constant(node.inputs[1])
        if array is None:
            return None
        axes = array.tolist()
    summed = shape if axes is None else [shape[axis] for axis in axes]
    return None if None in summed else math.prod(size or 0 for size in summed)
