"""Scatters that add, as sums over one-hot comparisons."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.decompose.parts import Parts, fixed, write_in_parts
from edgec.passes.editing import attribute
from edgec.passes.infra import MatchLog, Pass, Refusal, register

_MOST = 2**25
"""Numbers that are compared at most: 128 MB in fp32."""


@register
class DecomposeScatterAdd(Pass):
    """Write a scatter with reduction `add` as a product with the places' one-hot rows.

    ::

        data, places [n, k], updates [n, d] ── ScatterND(add) ── y
        ⇒
        places ── MatMul(strides) ── Equal(0 … m-1) ── Cast ── MatMul(·ᵀ, updates) ── Add(data) ── y

        data, places, updates ── ScatterElements(add, axis) ── y
        ⇒
        places ── Unsqueeze ── Equal(0 … m-1) ── Where(updates, 0) ── ReduceSum ── Add(data) ── y

    For engines that add wrongly or not at all; places that come twice are added twice by both.
    """

    name = "decompose.scatter_add"

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite every scatter that adds and whose sizes are known."""
        writers = {"ScatterElements": _elements, "ScatterND": _nd}
        write_in_parts(
            model,
            self.name,
            log,
            lambda node: (
                writers[node.op_type]
                if is_op(node, *writers) and attribute(node, "reduction") == "add"
                else None
            ),
        )


def _operands(parts: Parts) -> tuple[ir.Value, ir.Value, ir.Value]:
    data, places, updates = parts.node.inputs[:3]
    if data is None or places is None or updates is None:
        raise Refusal("an input is missing")
    if data.dtype is None or not data.dtype.is_floating_point():
        raise Refusal("it adds integers")
    return data, places, updates


def _elements(parts: Parts) -> None:
    data, places, updates = _operands(parts)
    whole, given = fixed(data, "its data"), fixed(places, "its indices")
    axis = int(attribute(parts.node, "axis", 0)) % max(1, len(whole))
    others = [place for place in range(len(whole)) if place != axis]
    if any(whole[place] != given[place] for place in others):
        raise Refusal("its indices cover a part of the other axes only")
    length = whole[axis]
    if math.prod(given) * length > _MOST:
        raise Refusal(f"its {math.prod(given)} numbers times {length} places are too many to compare")
    behind = len(whole) - axis - 1
    row = np.arange(length).reshape(1, length, *[1] * behind)
    hit = parts.op("Equal", parts.op("Unsqueeze", _counted(parts, places, length), [axis + 1]), row)
    spread = parts.op("Where", hit, parts.op("Unsqueeze", updates, [axis + 1]), 0.0)
    summed = parts.op("ReduceSum", spread, [axis], keepdims=0)
    parts.become(parts.op("Add", data, summed))


def _nd(parts: Parts) -> None:
    data, places, updates = _operands(parts)
    whole, given = fixed(data, "its data"), fixed(places, "its indices")
    depth = given[-1]
    rows, width = math.prod(whole[:depth]), math.prod(whole[depth:])
    count = math.prod(given[:-1])
    if count * rows > _MOST:
        raise Refusal(f"its {count} rows times {rows} places are too many to compare")
    flat = parts.reshape(places, count, depth)
    strides = [math.prod(whole[place + 1 : depth]) for place in range(depth)]
    row: ir.Value | None = None
    for place, stride in enumerate(strides):
        column = _counted(parts, parts.slice(flat, 1, place, place + 1), whole[place])
        term = parts.op("Mul", column, np.array(stride)) if stride != 1 else column
        row = term if row is None else parts.op("Add", row, term)
    if row is None:
        raise Refusal("its indices have no length")
    hit = parts.op("Cast", parts.op("Equal", row, np.arange(rows)[None]), to=int(_type(data)))
    turned = parts.op("Transpose", hit, perm=[1, 0])
    summed = parts.op("MatMul", turned, parts.reshape(updates, count, width))
    parts.become(parts.op("Add", data, parts.reshape(summed, *whole)))


def _counted(parts: Parts, places: ir.Value, length: int) -> ir.Value:
    """Indices from the front: a negative one counts from the end."""
    if places.dtype != ir.DataType.INT64:
        places = parts.op("Cast", places, to=int(ir.DataType.INT64))
    below = parts.op("Less", places, np.array(0))
    return parts.op("Where", below, parts.op("Add", places, np.array(length)), places)


def _type(value: ir.Value) -> ir.DataType:
    assert value.dtype is not None
    return value.dtype
