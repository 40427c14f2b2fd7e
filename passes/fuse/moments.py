"""Means, mean squares and their inverse roots: the parts that norms are made of."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import attribute, constant, producer, scalar, sizes
from edgec.passes.fuse.matching import reduced_axes, with_scalar


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over axes that stay as size one.

    Attributes:
        of: what is averaged.
        axes: over which axes, non-negative.
    """

    of: ir.Value
    axes: tuple[int, ...]


def mean(value: ir.Value | None) -> Mean | None:
    """The value as a mean: a ReduceMean, or a ReduceSum over the number of elements."""
    node = producer(value, "ReduceMean", "Mul", "Div")
    count = 1.0
    if node is not None and not is_op(node, "ReduceMean"):
        scaled = with_scalar(node, "Mul", "Div")
        if scaled is None or not scaled[1]:
            return None
        count = 1 / scaled[1] if node.op_type == "Mul" else scaled[1]
        node = producer(scaled[0], "ReduceSum")
    if node is None or not attribute(node, "keepdims", 1):
        return None
    of, axes = node.inputs[0], reduced_axes(node)
    if of is None or not axes:
        return None
    if is_op(node, "ReduceSum"):
        shape, elements = sizes(of), 1
        for axis in axes:
            size = None if shape is None else shape[axis]
            if size is None:
                return None
            elements *= size
        if abs(count - elements) > 1e-6 * elements:
            return None
    return Mean(of, axes)


def squared(value: ir.Value | None) -> ir.Value | None:
    """The v of `v²`, written as Mul(v, v) or Pow(v, 2)."""
    node = producer(value, "Mul", "Pow")
    if node is None:
        return None
    left, right = node.inputs
    if is_op(node, "Mul"):
        return left if left is right else None
    return left if scalar(right) == 2.0 else None


@dataclasses.dataclass(frozen=True)
class Normalized:
    """`of / sqrt(mean(squares_of²) + epsilon)`.

    Attributes:
        of: the numerator.
        squares_of: what is squared.
        axes: the axes of the mean.
        epsilon: what is added to it.
        root: the value of the square root or its inverse, for the search of other readers.
    """

    of: ir.Value
    squares_of: ir.Value
    axes: tuple[int, ...]
    epsilon: float
    root: ir.Value


def normalized(node: ir.Node) -> Normalized | None:
    """The node as a division by a root of a mean of squares, in any of its spellings."""
    if not is_op(node, "Div", "Mul") or len(node.inputs) != 2:
        return None
    left, right = node.inputs
    if left is None or right is None:
        return None
    pairs = [(left, right)] if is_op(node, "Div") else [(left, right), (right, left)]
    for numerator, root in pairs:
        inside = _under_root(root, inverse=is_op(node, "Mul"))
        if inside is None:
            continue
        epsilon = 0.0
        added = with_scalar(inside.producer(), "Add")
        if added is not None:
            inside, epsilon = added
        average = mean(inside)
        base = None if average is None else squared(average.of)
        if average is not None and base is not None:
            return Normalized(numerator, base, average.axes, epsilon, root)
    return None


def _under_root(value: ir.Value, *, inverse: bool) -> ir.Value | None:
    """The v of sqrt(v), or of 1/sqrt(v)."""
    node = producer(value)
    if node is None:
        return None
    if is_op(node, "Pow"):
        return node.inputs[0] if scalar(node.inputs[1]) == (-0.5 if inverse else 0.5) else None
    if not inverse:
        return node.inputs[0] if is_op(node, "Sqrt") else None
    if is_op(node, "Reciprocal"):
        return _under_root(node.inputs[0], inverse=False) if node.inputs[0] is not None else None
    if is_op(node, "Div") and scalar(node.inputs[0]) == 1.0 and node.inputs[1] is not None:
        return _under_root(node.inputs[1], inverse=False)
    if is_op(node, "Sqrt"):
        under = producer(node.inputs[0], "Reciprocal")
        return None if under is None else under.inputs[0]
    return None


def trailing(axes: tuple[int, ...], value: ir.Value) -> int | None:
    """The first of the axes, counted from the end, if they are the last ones of the value; else None."""
    count = len(value.shape) if value.shape is not None else 0
    return axes[0] - count if axes and axes == tuple(range(axes[0], count)) else None


def affine_shape(value: ir.Value, axis: int) -> tuple[int, ...] | None:
    """The shape of a norm's scale: the fixed sizes of the value from the axis on."""
    shape = sizes(value)
    if shape is None or None in shape[axis:]:
        return None
    return tuple(size for size in shape[axis:] if size is not None)


def is_constant(value: ir.Value | None) -> bool:
    """Whether the value is known at compile time."""
    return constant(value) is not None
