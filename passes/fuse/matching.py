"""Reading arithmetic: constants on either side, factors, polynomials and axes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import attribute, constant, consumers, rank, scalar
from edgec.passes.infra import Refusal

Polynomial = dict[int, float]
"""Coefficients by power."""


def with_constant(node: ir.Node | None, *op_types: str) -> tuple[ir.Value, ir.Value] | None:
    """The tensor and the constant of a two-input node of the named ops.

    The constant is the right operand; it may be the left one of an Add or a Mul.
    """
    if node is None or not is_op(node, *op_types) or len(node.inputs) != 2:
        return None
    left, right = node.inputs
    if left is None or right is None:
        return None
    if constant(right) is not None:
        return (left, right) if constant(left) is None else None
    if node.op_type in ("Add", "Mul") and constant(left) is not None:
        return right, left
    return None


def with_scalar(node: ir.Node | None, *op_types: str) -> tuple[ir.Value, float] | None:
    """The tensor and the number of `with_constant` where the constant is one number of no more axes."""
    found = with_constant(node, *op_types)
    if found is None:
        return None
    value, number = found[0], scalar(found[1])
    ranks = rank(value), rank(found[1])
    if number is None or (ranks[1] and (ranks[0] is None or ranks[0] < ranks[1])):
        return None
    return value, number


def operand_beside(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """The other operand of a two-input node."""
    if len(node.inputs) != 2:
        return None
    left, right = node.inputs
    return right if left is value else left


def tolerance(dtype: ir.DataType | None) -> float:
    """How far a constant of a formula may be off relative to its true value, by its type.

    Some roundings of the half types; in wider ones a constant that was written with six digits.
    """
    return {ir.DataType.FLOAT16: 4e-3, ir.DataType.BFLOAT16: 3e-2}.get(dtype or ir.DataType.FLOAT, 1e-5)


def matches(found: Polynomial | None, wanted: Polynomial, dtype: ir.DataType | None) -> bool:
    """Whether a polynomial is the wanted one up to `tolerance`."""
    if found is None:
        return False
    found = {power: factor for power, factor in found.items() if factor}
    near = tolerance(dtype)
    return found.keys() == wanted.keys() and all(
        abs(found[power] - factor) <= near * abs(factor) for power, factor in wanted.items()
    )


def polynomial(value: ir.Value | None, x: ir.Value, depth: int = 8) -> Polynomial | None:
    """The value as a polynomial of x, read through Add, Sub, Mul, Div and Pow; None if it is none."""
    if value is None or depth == 0:
        return None
    if value is x:
        return {1: 1.0}
    number = scalar(value)
    if number is not None:
        return {0: number}
    node = value.producer()
    if node is None or not is_op(node, "Add", "Sub", "Mul", "Div", "Pow", "Neg"):
        return None
    parts = [polynomial(operand, x, depth - 1) for operand in node.inputs]
    left = parts[0]
    if left is None or None in parts:
        return None
    if node.op_type == "Neg":
        return {power: -factor for power, factor in left.items()}
    right = parts[1]
    assert right is not None
    if node.op_type in ("Add", "Sub"):
        sign = 1 if node.op_type == "Add" else -1
        return {
            power: left.get(power, 0.0) + sign * right.get(power, 0.0) for power in left.keys() | right.keys()
        }
    if node.op_type == "Mul":
        return _product(left, right)
    if right.keys() != {0}:
        return None
    if node.op_type == "Div":
        return {power: factor / right[0] for power, factor in left.items()} if right[0] else None
    if right[0] not in (2.0, 3.0):
        return None
    square = _product(left, left)
    return square if right[0] == 2.0 else _product(square, left)


def _product(left: Polynomial, right: Polynomial) -> Polynomial:
    result: Polynomial = {}
    for power, factor in left.items():
        for other, by in right.items():
            result[power + other] = result.get(power + other, 0.0) + factor * by
    return result


def reduced_axes(node: ir.Node) -> tuple[int, ...] | None:
    """The axes a Reduce node goes over, non-negative and sorted; None where they are not known."""
    value = node.inputs[0]
    count = rank(value)
    if count is None:
        return None
    given = node.inputs[1] if len(node.inputs) > 1 else None
    if given is None:
        axes = attribute(node, "axes")
        if axes is None:
            return () if attribute(node, "noop_with_empty_axes", 0) else tuple(range(count))
    else:
        array = constant(given)
        if array is None:
            return None
        if array.size == 0:
            return () if attribute(node, "noop_with_empty_axes", 0) else tuple(range(count))
        axes = array.reshape(-1).tolist()
    return tuple(sorted(int(axis) % count for axis in axes))


def as_vector(array: np.ndarray, count: int, axis: int = -1, of_rank: int | None = None) -> np.ndarray | None:
    """A constant that broadcasts along one axis only, as a vector of `count` numbers; else None.

    Args:
        array: the constant.
        count: the size of the axis.
        axis: the axis, negative: counted from the end, as broadcasting does.
        of_rank: rank of what it is broadcast against; a constant of higher rank is refused.
    """
    if of_rank is not None and array.ndim > of_rank:
        return None
    if array.size == 1:
        return np.broadcast_to(array.reshape(()), (count,))
    position = array.ndim + axis
    if position < 0 or array.shape[position] != count or array.size != count:
        return None
    return array.reshape(count)


def other_readers(value: ir.Value, *known: ir.Node) -> str | None:
    """Who else reads the value besides the known nodes, in words; None if nobody does."""
    if value.is_graph_output():
        return f"{value.name} is an output of the model"
    others = [reader for reader in consumers(value) if reader not in known]
    if not others:
        return None
    return f"{value.name} is read by {others[0].op_type} {others[0].name or ''}".rstrip() + " as well"


def refuse_other_readers(value: ir.Value, *known: ir.Node) -> None:
    """Refuse where somebody else reads the value besides the known nodes.

    Raises:
        Refusal: somebody does; says who.
    """
    reason = other_readers(value, *known)
    if reason is not None:
        raise Refusal(reason)
