"""Ways through a graph that precision asks for: what makes a value, and what follows from numbers alone."""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Iterable

import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import attribute, constant, consumers, same_shape, sizes
from edgec.passes.precision.half import FULL, moves

PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose", "DeformConv", "Einsum", "Attention")

_NORMS = (
    "BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "LogSoftmax",
    "LpNormalization", "LRN", "MeanVarianceNormalization", "RMSNormalization", "Softmax",
)  # fmt: skip

BOUNDED = (*_NORMS, "Sigmoid", "HardSigmoid", "Tanh", "Erf", "Sin", "Cos", "Softsign", "Sign")
"""Ops whose results stay small whatever they are given."""

_OPAQUE = ("LSTM", "GRU", "RNN", "If", "Loop", "Scan")
"""Ops that are not looked through: sums of many steps, and bodies."""

FEW = 16
"""Products of at most so many terms are arithmetic: coordinates times frequencies, not features."""

_STREAMS = 2
"""A way back passes so many sums of two computed tensors: a residual stream has one a layer, a score few."""

_LINEAR = ("Add", "Sub", "Mul", "Div", "Neg", "ReduceMean", "ReduceSum", "Cast", "DFT", "STFT")


class Reach(enum.Enum):
    """How far in front of a node fp32 begins.

    Attributes:
        ARITHMETIC: behind the last products of more than `FEW` terms, and behind norms.
        PRODUCT: with those products, and through norms to them.
    """

    ARITHMETIC = "arithmetic"
    PRODUCT = "product"


def is_product(node: ir.Node) -> bool:
    """Whether the node sums more than `FEW` products, or an unknown number of them."""
    if not is_op(node, *PRODUCTS):
        return False
    count = terms(node)
    return count is None or count > FEW


def terms(node: ir.Node) -> int | None:
    """How many products each result of a product sums; None where that is not known."""
    if is_op(node, "Einsum"):
        return _einsum_terms(node)
    if is_op(node, "Conv", "ConvTranspose", "DeformConv"):
        shape = sizes(node.inputs[1])
        if shape is None or None in shape:
            return None
        taps = [size or 0 for size in shape]
        inputs = taps[0] // attribute(node, "group", 1) if is_op(node, "ConvTranspose") else taps[1]
        return inputs * math.prod(taps[2:])
    shape = sizes(node.inputs[0])
    if not shape or is_op(node, "Attention"):
        return None
    return shape[0] if is_op(node, "Gemm") and attribute(node, "transA", 0) else shape[-1]


def _einsum_terms(node: ir.Node) -> int | None:
    given, _, made = attribute(node, "equation", "").replace(" ", "").partition("->")
    count = 1
    summed: set[str] = set()
    for letters, value in zip(given.split(","), node.inputs, strict=True):
        shape = sizes(value)
        if shape is None or "." in letters or len(letters) != len(shape):
            return None
        for letter, size in zip(letters, shape, strict=True):
            if letter not in made and letter not in summed:
                summed.add(letter)
                if size is None:
                    return None
                count *= size
    return count


def numbers_in(value: ir.Value | None) -> int | None:
    """How many numbers a value holds; None where a size is open."""
    shape = sizes(value)
    return None if shape is None or None in shape else math.prod(size or 0 for size in shape)


def operands(node: ir.Node) -> list[ir.Value]:
    """The node's inputs that are not constant."""
    return [value for value in node.inputs if value is not None and constant(value) is None]


def makers(value: ir.Value, reach: Reach, fused: Collection[str] = ()) -> list[ir.Node]:
    """The nodes that make a floating value, back to where `reach` ends.

    Args:
        value: the value.
        reach: how far.
        fused: names of nodes that are not passed.
    """
    found: dict[ir.Node, None] = {}
    pending = [(value, _STREAMS)]
    most: dict[ir.Value, int] = {}
    while pending:
        here, streams = pending.pop()
        node = here.producer()
        if node is None or here.dtype != FULL or most.get(here, -1) >= streams or constant(here) is not None:
            continue
        most[here] = streams
        if node.domain != "" or node.name in fused or is_op(node, *_OPAQUE):
            continue
        if is_product(node) or (reach is Reach.ARITHMETIC and is_op(node, *_NORMS)):
            if reach is Reach.PRODUCT:
                found[node] = None
            continue
        found[node] = None
        if _joins(node):
            streams -= 1
        if streams >= 0:
            pending += [(one, streams) for one in operands(node)]
    return list(found)


def _joins(node: ir.Node) -> bool:
    return is_op(node, "Add") and len(operands(node)) == 2 and same_shape(node.inputs[0], node.inputs[1])


def reads_inputs_alone(nodes: Collection[ir.Node]) -> bool:
    """Whether what floating numbers the nodes read are their own, or inputs of the graph."""
    made = (value.producer() for node in nodes for value in operands(node) if value.dtype == FULL)
    return all(maker is None or maker in nodes for maker in made)


def linear_in_inputs(value: ir.Value) -> list[ir.Node] | None:
    """The nodes between the graph's inputs and a linear function of them; None where a value is none.

    Sums, scaling by constants, products with constants: framing, windows, Fourier transforms, filter banks. A
    kernel over two axes looks at pictures, whose units are known; it ends the way.
    """
    found: dict[ir.Node, None] = {}
    pending = [value]
    while pending:
        here = pending.pop()
        node = here.producer()
        if node is None or node in found or constant(here) is not None:
            continue
        given = operands(node)
        scaled = len(given) == 1 or is_op(node, "Add", "Sub")
        if not (moves(node) or (scaled and is_op(node, *_LINEAR)) or (len(given) == 1 and _filters(node))):
            return None
        found[node] = None
        pending += [one for one in given if one.dtype == FULL]
    return list(found)


def _filters(node: ir.Node) -> bool:
    if is_op(node, "MatMul", "Gemm", "Einsum"):
        return True
    shape = sizes(node.inputs[1]) if is_op(node, "Conv") else None
    return shape is not None and sum(size != 1 for size in shape[2:]) <= 1


def numbers(seeds: Iterable[ir.Node]) -> set[ir.Value]:
    """Floating values that are computed from the seeds' results and constants alone, those results included.

    What bounds its results (`BOUNDED`) and products of many terms end it.
    """
    known: set[ir.Value] = set()
    pending = list(seeds)
    while pending:
        for value in pending.pop().outputs:
            if value.dtype != FULL or value in known:
                continue
            known.add(value)
            pending += [reader for reader in consumers(value) if _follows(reader, known)]
    return known


def _follows(node: ir.Node, known: Collection[ir.Value]) -> bool:
    if node.domain != "" or is_op(node, *BOUNDED, *_OPAQUE) or is_product(node):
        return False
    return all(value in known for value in operands(node) if value.dtype == FULL)
