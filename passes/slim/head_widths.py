"""Narrower heads: queries, keys and values in a basis where what says least comes last."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.core.graph import Arrays
from edgec.passes.editing import attribute, constant, producer, rank, sizes
from edgec.passes.slim.elimination import Order
from edgec.passes.slim.teacher import observe
from edgec.passes.slim.units import Unit

DAMPING = 1e-6
"""Added to the diagonal of a second moment, a share of its mean: entries that are constant have none."""

Columns = list[list[tuple[str, int]]]
"""By head and entry the biased output of a linear layer and the column in it."""

Widths = Sequence[tuple[ir.Node, Unit]]
"""Attentions, each with the unit of its width: all are looked at while the network runs once."""


@dataclasses.dataclass(frozen=True)
class Turn:
    """What the columns of linear layers are multiplied by: of one head, (width, width).

    Attributes:
        columns: by entry of the head, the biased output of a linear layer and the column in it.
        basis: new entry j is the sum over i of entry i times basis[i, j].
    """

    columns: list[tuple[str, int]]
    basis: np.ndarray


@dataclasses.dataclass(frozen=True)
class Turned:
    """A basis for the width of an attention's heads.

    Attributes:
        order: entries leave from the last on.
        turns: for every head of the queries, keys or values.
    """

    order: Order
    turns: list[Turn]


def turned_queries(model: ir.Model, widths: Widths, samples: Sequence[Arrays]) -> list[Turned | None]:
    """A basis of queries and keys for the `qk_width` of each attention.

    Of the products of all queries with all keys, the nearest of a lower rank: with R_q and R_k the roots of
    the second moments of queries and of keys about their mean (a shift of all keys moves all logits of a
    query alike, which softmax does not see), R_q R_kᵀ = U S Vᵀ, the queries are multiplied by R_q⁻¹ U √S and
    the keys by R_k⁻¹ V √S (as A3 does, arXiv 2505.12942). All logits stay what they are until entries leave.

    Returns:
        for each attention; None where `query_moments` has none.
    """
    moments = query_moments(model, widths, samples)
    return [
        None if found is None else _turned_queries(found, unit)
        for found, (_, unit) in zip(moments, widths, strict=True)
    ]


def _turned_queries(found: QueryMoments, unit: Unit) -> Turned:
    turns = []
    values = np.zeros(unit.size)
    for head in range(len(found.queries)):
        left, right = _root(found.query_moments[head]), _root(found.key_moments[head])
        basis, singular, others = np.linalg.svd(left @ right.T)
        root = np.sqrt(singular)
        turns.append(Turn(found.queries[head], np.linalg.solve(left, basis * root)))
        turns.append(Turn(found.keys[head], np.linalg.solve(right, others.T * root)))
        values += singular**2
    return Turned(_from_the_last(values), turns)


@dataclasses.dataclass(frozen=True)
class QueryMoments:
    """Queries and keys of an attention on calibration data, head by head.

    Attributes:
        queries: which columns of linear layers they are.
        keys: likewise.
        query_moments: (heads, width, width), mean of q qᵀ.
        key_moments: (heads, width, width), mean of k kᵀ about the mean of k.
    """

    queries: Columns
    keys: Columns
    query_moments: np.ndarray
    key_moments: np.ndarray


def query_moments(model: ir.Model, widths: Widths, samples: Sequence[Arrays]) -> list[QueryMoments | None]:
    """What the queries and keys of attentions are like.

    Returns:
        for each attention; None where a linear layer does not make queries and keys directly (positions turn
        them, a norm scales them), or their heads are not one for one.
    """
    seen = [_SeenQueries(model, attention, unit) for attention, unit in widths]
    names = dict.fromkeys(name for each in seen for name in each.watched)

    def look(_: int, values: Arrays) -> None:
        for each in seen:
            each.look(values)

    if names:
        observe(model, names, samples, look)
    return [each.moments() for each in seen]


class _SeenQueries:
    """Queries and keys of one attention, sample by sample."""

    def __init__(self, model: ir.Model, attention: ir.Node, unit: Unit) -> None:
        heads = [_by_head(attention, index) for index in (0, 1)]
        self._count = heads[0] if heads[0] == heads[1] else None
        self._names = [str(attention.inputs[index].name) for index in (0, 1)]  # type: ignore[union-attr]
        self._makers = _makers(model, unit)
        self._columns: list[Columns | None] = []
        self._moments: list[list[np.ndarray]] = [[], []]
        self._sums: list[list[np.ndarray]] = [[], []]
        self._rows = [0, 0]

    @property
    def watched(self) -> list[str]:
        return [] if self._count is None else [*self._names, *self._makers]

    def look(self, values: Arrays) -> None:
        if self._count is None:
            return
        for side, name in enumerate(self._names):
            each = _heads(values[name], self._count)
            if len(self._columns) < 2:
                self._columns.append(_columns(each, {maker: values[maker] for maker in self._makers}))
            wide = each.astype(np.float64)
            self._moments[side].append(wide.transpose(0, 2, 1) @ wide)
            self._sums[side].append(wide.sum(1))
            self._rows[side] += wide.shape[1]

    def moments(self) -> QueryMoments | None:
        if self._count is None:
            return None
        queries, keys = self._columns
        if queries is None or keys is None:
            return None
        rows = self._rows
        mean = np.sum(self._sums[1], axis=0) / rows[1]
        about = np.sum(self._moments[1], axis=0) / rows[1] - np.einsum("hd,he->hde", mean, mean)
        return QueryMoments(queries, keys, np.sum(self._moments[0], axis=0) / rows[0], about)


def value_columns(model: ir.Model, widths: Widths, sample: Arrays) -> list[Columns | None]:
    """Which columns of linear layers the values of attentions are.

    Returns:
        for each attention; None where a linear layer does not make the values directly.
    """
    found: list[Columns | None] = []
    counts = [None if attention.inputs[2] is None else _by_head(attention, 2) for attention, _ in widths]
    names = [str(attention.inputs[2].name) if attention.inputs[2] else "" for attention, _ in widths]
    makers = [_makers(model, unit) for _, unit in widths]

    def look(_: int, values: Arrays) -> None:
        for name, made, count in zip(names, makers, counts, strict=True):
            if count is None:
                found.append(None)
            else:
                found.append(_columns(_heads(values[name], count), {each: values[each] for each in made}))

    watched = dict.fromkeys(
        each for name, made in zip(names, makers, strict=True) for each in (name, *made) if each
    )
    observe(model, watched, [sample], look)
    return found


def turned_values(
    columns: Columns, unit: Unit, *, gram: np.ndarray, weight: np.ndarray, heads: np.ndarray
) -> Turned | None:
    """A basis of the values for the `v_width` of an attention.

    With R the root of the Gram matrix of what a head puts out and W what the projection multiplies it by,
    R W = U S Vᵀ; the values are multiplied by R⁻¹ U, and what the projection makes loses least.

    Args:
        columns: of the values.
        unit: the attention's `v_width`.
        gram: (n, n), of what the projection reads.
        weight: (n, m), of the projection.
        heads: (n,) int, which head each of its inputs is of; the entries of a head in order.

    Returns:
        None where heads of values and of the projection are not one for one.
    """
    if len(columns) != int(heads.max()) + 1:
        return None
    turns, values = [], np.zeros(unit.size)
    for head, places in enumerate(columns):
        inputs = np.flatnonzero(heads == head)
        if len(inputs) != unit.size or len(places) != unit.size:
            return None
        root = _root(gram[np.ix_(inputs, inputs)])
        basis, singular, _ = np.linalg.svd(root @ weight[inputs])
        full = np.zeros(unit.size)
        full[: len(singular)] = singular**2
        turns.append(Turn(places, np.linalg.solve(root, basis)))
        values += full
    return Turned(_from_the_last(values), turns)


def turn(model: ir.Model, turns: Sequence[Turn]) -> None:
    """Multiply the columns of linear layers by the bases, their biases too, in place."""
    by_name = {str(value.name): value for node in model.graph for value in node.outputs}
    for each in turns:
        for made in dict.fromkeys(name for name, _ in each.columns):
            columns = [column for name, column in each.columns if name == made]
            for value, axis in _constants(by_name[made]):
                assert value.const_value is not None
                array = value.const_value.numpy().copy()
                moved = np.moveaxis(array, axis, -1)
                moved[..., columns] = (moved[..., columns].astype(np.float64) @ each.basis).astype(
                    array.dtype
                )
                value.const_value = ir.tensor(array, name=value.name)


def _from_the_last(values: np.ndarray) -> Order:
    """Entries in the order of falling values: the last leaves first."""
    return Order(np.arange(len(values))[::-1].copy(), np.concatenate([[0.0], np.cumsum(values[::-1])]))


def _root(moment: np.ndarray) -> np.ndarray:
    """R with RᵀR the second moment, damped."""
    damping = DAMPING * max(float(np.trace(moment)) / len(moment), np.finfo(np.float64).tiny)
    return np.linalg.cholesky(moment + damping * np.eye(len(moment))).T


def _by_head(attention: ir.Node, index: int) -> int | None:
    """How many heads an operand has; None where that is not known."""
    value = attention.inputs[index]
    shape = sizes(value)
    if shape is None:
        return None
    return shape[1] if rank(value) == 4 else attribute(attention, ("q", "kv", "kv")[index] + "_num_heads")


def _heads(value: np.ndarray, heads: int) -> np.ndarray:
    """(heads, rows, width) of an operand of an attention."""
    if value.ndim == 3:
        value = value.reshape(*value.shape[:2], heads, -1).transpose(0, 2, 1, 3)
    return value.transpose(1, 0, 2, 3).reshape(value.shape[1], -1, value.shape[3])


def _columns(heads: np.ndarray, made: Arrays) -> Columns | None:
    """By head and entry the column of a linear layer that it is, bit for bit; None where it is none."""
    places: dict[bytes, tuple[str, int]] = {}
    for name, array in made.items():
        rows = array.reshape(-1, array.shape[-1])
        if len(rows) == heads.shape[1]:
            places |= {rows[:, column].tobytes(): (name, column) for column in range(rows.shape[1])}
    found = [[places.get(head[:, entry].tobytes()) for entry in range(head.shape[1])] for head in heads]
    if any(place is None for entries in found for place in entries):
        return None
    return found  # type: ignore[return-value]


def _makers(model: ir.Model, unit: Unit) -> list[str]:
    """The outputs of linear layers, with their biases, whose columns are the unit's."""
    by_name = {str(value.name): value for node in model.graph for value in node.outputs}
    names = dict.fromkeys(extent.value for extent in unit.activations if extent.value in by_name)
    return [name for name in names if _constants(by_name[name])]


def _constants(value: ir.Value) -> list[tuple[ir.Value, int]]:
    """The initializers that hold a linear layer's columns and the axis of these; its own alone."""
    node, found = value.producer(), []
    if is_op(node, "Add"):
        assert node is not None
        for index in (0, 1):
            bias = node.inputs[index]
            if bias is not None and bias.is_initializer() and constant(bias) is not None:
                found.append((bias, (rank(bias) or 1) - 1))
                node = producer(node.inputs[1 - index], "MatMul")
                break
    if node is None or not is_op(node, "MatMul", "Gemm") or node.inputs[1] is None:
        return []
    weight = node.inputs[1]
    if not weight.is_initializer() or rank(weight) != 2:
        return []
    found.append((weight, 0 if is_op(node, "Gemm") and attribute(node, "transB", 0) else 1))
    if is_op(node, "Gemm") and len(node.inputs) > 2 and node.inputs[2] is not None:
        found.append((node.inputs[2], (rank(node.inputs[2]) or 1) - 1))
    return found if all(len(list(each.uses())) == 1 for each, _ in found) else []
