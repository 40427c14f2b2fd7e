"""Rules of ops that move elements: most only change how a tensor is read."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.passes.editing import attribute
from edgec.targets.coreml.neural_engine.elementwise import aligned
from edgec.targets.coreml.neural_engine.registry import rule
from edgec.targets.coreml.neural_engine.storage import (
    Axes,
    Factor,
    Factors,
    Stored,
    fresh,
    shape_of,
    volume,
)
from edgec.targets.coreml.neural_engine.walk import Operand, Results, Walk, fixed_shape, laid


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(walk: Walk, node: ir.Node) -> Results:
    """Axes split and joined in the reading alone; only sizes that do not divide need the read order."""
    x = walk.tensor(node, 0)
    if x is None:
        return None
    shape = fixed_shape(node.outputs[0])
    read = x.reshaped(shape)
    if read is None:
        ordered = walk.emit.arrange(x, x.logical)
        axes = fresh(shape)
        read = Stored(walk.emit.reshape(ordered.value, shape), axes, axes)
    return [read]


@rule("Transpose")
def transpose(walk: Walk, node: ir.Node) -> Results:
    """Another reading of the same elements."""
    x = walk.tensor(node, 0)
    if x is None:
        return None
    perm = attribute(node, "perm") or tuple(reversed(range(len(x.logical))))
    return [x.read_as(tuple(x.logical[axis] for axis in perm))]


@rule("Expand")
def expand(walk: Walk, node: ir.Node) -> Results:
    """Nothing, where the shape stays."""
    x = walk.tensor(node, 0)
    return [x] if x is not None and x.shape == fixed_shape(node.outputs[0]) else None


@rule("Split")
def split(walk: Walk, node: ir.Node) -> Results:
    """Cuts along the stored axis that the split axis begins."""
    x = walk.tensor(node, 0)
    if x is None:
        return None
    axis = int(attribute(node, "axis", 0)) % len(x.logical)
    lengths = [fixed_shape(value)[axis] for value in node.outputs]
    return _cut(walk, x, axis, lengths)


def _cut(walk: Walk, x: Stored, axis: int, lengths: list[int]) -> list[Operand]:
    x, at, inner = _led(walk, x, x.logical[axis])
    rest = x.stored[at][len(x.logical[axis]) :]
    pieces = [(Factor(length),) if length > 1 else () for length in lengths]
    stored = [(*x.stored[:at], piece + rest, *x.stored[at + 1 :]) for piece in pieces]
    logical = [(*x.logical[:axis], piece, *x.logical[axis + 1 :]) for piece in pieces]
    sizes = walk.emit.constant(np.asarray([length * inner for length in lengths], np.int64), "lengths")
    values = walk.emit.op(
        "Split", [x.value, sizes], [shape_of(axes) for axes in stored], attributes={"axis": at}
    )
    return [Stored(*parts) for parts in zip(values, logical, stored, strict=True)]


def _led(walk: Walk, x: Stored, run: Factors) -> tuple[Stored, int, int]:
    """The tensor with an axis that the factors begin, that axis, and how many elements lie inside them."""
    if run:
        for at, axis in enumerate(x.stored):
            if axis[: len(run)] == run:
                return x, at, volume(axis[len(run) :])
    x, at = walk.isolated(x, run)
    return x, at, 1


@rule("Slice")
def slice_(walk: Walk, node: ir.Node) -> Results:
    """One axis after the other."""
    x = walk.tensor(node, 0)
    given = [walk.array(node, index) for index in range(1, len(node.inputs))]
    if x is None or any(array is None and index < 2 for index, array in enumerate(given)):
        return None
    starts, ends = (np.asarray(array).tolist() for array in given[:2])
    axes = given[2].tolist() if len(given) > 2 and given[2] is not None else list(range(len(starts)))
    steps = given[3].tolist() if len(given) > 3 and given[3] is not None else [1] * len(starts)
    if len(node.inputs) > 3 and walk.tensor(node, 3) is not None:
        return None
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        x = sliced(walk, x, axis % len(x.logical), start, end, step)
    return [x]


def sliced(walk: Walk, x: Stored, axis: int, start: int, end: int, step: int = 1) -> Stored:
    """The elements of one axis from `start` on, before `end`, as ONNX counts them."""
    size = volume(x.logical[axis])
    picked = range(size)[slice(start, None if step < 0 and end < -size else end, step)]
    if len(picked) == size and step == 1:
        return x
    run = x.logical[axis]
    if step == 1:
        x, at, inner = _led(walk, x, run)
    else:
        x, at = walk.isolated(x, run)
        inner = 1
    piece: Factors = (Factor(len(picked)),) if len(picked) > 1 else ()
    stored: Axes = (*x.stored[:at], piece + x.stored[at][len(run) :], *x.stored[at + 1 :])
    logical: Axes = (*x.logical[:axis], piece, *x.logical[axis + 1 :])
    first = picked.start * inner
    last = picked.stop * inner if step > 0 or picked.stop >= 0 else np.iinfo(np.int64).min
    numbers = [np.asarray([number], np.int64) for number in (first, last, at, step)]
    inputs = [x.value, *(walk.emit.constant(number, "bound") for number in numbers)]
    [value] = walk.emit.op("Slice", inputs, [shape_of(stored)])
    return Stored(value, logical, stored)


@rule("Gather")
def gather(walk: Walk, node: ir.Node) -> Results:
    """One constant place is a slice; a constant list of places gathers along the stored axis."""
    x, places = walk.tensor(node, 0), walk.array(node, 1)
    if x is None or places is None or places.ndim > 1:
        return None
    axis = int(attribute(node, "axis", 0)) % len(x.logical)
    size = volume(x.logical[axis])
    wanted = np.where(places < 0, places + size, places).astype(np.int64)
    if places.ndim == 0:
        one = sliced(walk, x, axis, int(wanted), int(wanted) + 1)
        return [one.read_as((*one.logical[:axis], *one.logical[axis + 1 :]))]
    x, at = walk.isolated(x, x.logical[axis])
    piece: Factors = (Factor(len(wanted)),) if len(wanted) > 1 else ()
    stored: Axes = (*x.stored[:at], piece, *x.stored[at + 1 :])
    logical: Axes = (*x.logical[:axis], piece, *x.logical[axis + 1 :])
    inputs = [x.value, walk.emit.constant(wanted, "places")]
    [value] = walk.emit.op("Gather", inputs, [shape_of(stored)], attributes={"axis": at})
    return [Stored(value, logical, stored)]


@rule("Concat")
def concat(walk: Walk, node: ir.Node) -> Results:
    """Every part in the order of the largest."""
    operands = [walk.given(node, index) for index in range(len(node.inputs))]
    tensors = [operand.refreshed() for operand in operands if isinstance(operand, Stored)]
    rank = len(tensors[0].logical)
    axis = int(attribute(node, "axis", 0)) % rank
    # The joined axis has another size in each part: set it aside, so that the others can be shared.
    runs = [tensor.logical[axis] for tensor in tensors]
    shared = aligned([_with_axis(tensor, axis, ()) for tensor in tensors], rank)
    if shared is None:
        return None
    whole = [_with_axis(tensor, axis, run) for tensor, run in zip(shared, runs, strict=True)]
    largest = max(range(len(whole)), key=lambda index: whole[index].bytes)
    lead, at = walk.isolated(whole[largest], runs[largest])
    values, length, parts = [], 0, iter(whole)
    for operand in operands:
        if isinstance(operand, Stored):
            part = next(parts)
            stored: Axes = (*lead.stored[:at], part.logical[axis], *lead.stored[at + 1 :])
            values.append(walk.emit.arrange(part, stored).value)
            length += volume(part.logical[axis])
        else:
            assert operand is not None
            run: Factors = (Factor(operand.shape[axis]),) if operand.shape[axis] > 1 else ()
            stored = (*lead.stored[:at], run, *lead.stored[at + 1 :])
            read = (*lead.logical[:axis], run, *lead.logical[axis + 1 :])
            values.append(walk.emit.constant(laid(operand, read, stored).reshape(shape_of(stored))))
            length += operand.shape[axis]
    joined: Factors = (Factor(length),) if length > 1 else ()
    stored = (*lead.stored[:at], joined, *lead.stored[at + 1 :])
    [value] = walk.emit.op("Concat", values, [shape_of(stored)], attributes={"axis": at})
    return [Stored(value, (*lead.logical[:axis], joined, *lead.logical[axis + 1 :]), stored)]


def _with_axis(x: Stored, axis: int, run: Factors) -> Stored:
    return x.read_as((*x.logical[:axis], run, *x.logical[axis + 1 :]))
