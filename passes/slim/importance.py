"""In which order the members of a unit leave, and what that costs, from what the teacher computed."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.core.graph import Arrays
from edgec.passes.editing import constant
from edgec.passes.slim.elimination import Layer, Order, eliminate
from edgec.passes.slim.factors import weight_matrix
from edgec.passes.slim.head_widths import (
    Columns,
    Turn,
    Turned,
    turned_queries,
    turned_values,
    value_columns,
)
from edgec.passes.slim.least_squares import Gathering, Moments, ridge_map
from edgec.passes.slim.linear_layers import LinearLayer, matrix, spread
from edgec.passes.slim.teacher import Lessons, Rows, observe
from edgec.passes.slim.units import Branch, Unit

RIDGE = 1e-3
"""Of the linear map that stands for branches when they are probed."""


class Importance:
    """Orders and losses of units, each computed once.

    Args:
        model: the neutral graph.
        units: all that can be cut of it.
        nodes: its nodes by name.
        layers: the linear layers that read members, by node.
        lessons: what the teacher computed.
        samples: feeds.
        rows: which rows of a sample are looked at.
    """

    def __init__(
        self,
        model: ir.Model,
        units: Sequence[Unit],
        nodes: Mapping[str, ir.Node],
        layers: Mapping[str, LinearLayer],
        lessons: Lessons,
        samples: Sequence[Arrays],
        rows: Rows,
    ) -> None:
        self._model = model
        self._units = units
        self._nodes = nodes
        self._layers = layers
        self._lessons = lessons
        self._samples = samples
        self._rows = rows
        self._known: dict[str, Order] = {}
        self._turns: dict[str, list[Turn]] = {}
        self._spreads: dict[str, float] = {}
        self._factors: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def order(self, unit: Unit) -> Order:
        """The members of a unit as they leave."""
        if unit.name not in self._known:
            self._known[unit.name] = self._order(unit)
        return self._known[unit.name]

    def turns(self, unit: Unit) -> list[Turn]:
        """What the graph's linear layers are multiplied by before members of a width of heads leave."""
        self.order(unit)
        return self._turns.get(unit.name, [])

    def spread(self, unit: Unit) -> float:
        """The sum of squares that losses of a unit are told against."""
        order = self.order(unit)
        if unit.branches:
            return self._spread(unit.branches[-1][-1].add)
        layers = self._read_by(unit)
        if layers:
            return sum(self._spread(layer.target) for layer in layers)
        return float(order.lost[-1])

    def low_rank(self, unit: Unit, kept: int) -> np.ndarray:
        """(inputs, outputs) of that rank: what makes a layer's outputs on calibration data lose least."""
        self.order(unit)
        left, values, right = self._factors[unit.name]
        return (left[:, :kept] * values[:kept]) @ right[:kept]

    def _spread(self, stream: str) -> float:
        if stream not in self._spreads:
            self._spreads[stream] = self._lessons.streams[stream].spread()
        return self._spreads[stream]

    def _read_by(self, unit: Unit) -> list[LinearLayer]:
        return [self._layers[reader.node] for reader in unit.readers if reader.node in self._layers]

    def _order(self, unit: Unit) -> Order:
        if unit.branches:
            return self._order_of_branches(unit)
        if unit.node:
            return self._order_of_ranks(unit)
        if unit.kind in ("qk_width", "v_width"):
            turned = self._turned(unit)
            if turned is not None:
                self._turns[unit.name] = turned.turns
                return turned.order
        layers = self._read_by(unit)
        if layers and unit.kind != "residual":
            return eliminate([self._read(layer, unit) for layer in layers], unit.size)
        return self._order_by_weights(unit)

    def _read(self, layer: LinearLayer, unit: Unit) -> Layer:
        gram = self._gram(layer)
        extent = next(each for each in unit.activations if each.value == layer.value)
        node = self._nodes[layer.node]
        return Layer(gram, matrix(node), spread(node, extent.members))

    def _gram(self, layer: LinearLayer) -> np.ndarray:
        moments = self._lessons.moments[layer.node]
        return moments.xx if layer.bias is None else moments.centred().xx

    def _turned(self, unit: Unit) -> Turned | None:
        """A basis for the width of an attention's heads, where its linear layers can take it up."""
        if unit.kind == "qk_width":
            return self._turned_queries.get(unit.name)
        columns = self._value_columns.get(unit.name)
        layers = self._read_by(unit)
        if columns is None or len(layers) != 1:
            return None
        layer = layers[0]
        node = self._nodes[layer.node]
        entries = next(each.members for each in unit.activations if each.value == layer.value)
        if (np.bincount(entries[entries >= 0]) * unit.size != len(entries)).any():
            return None
        # Of the entries of one number the first is of the first head, and so on.
        heads = np.zeros(len(entries), dtype=np.int64)
        for entry in range(unit.size):
            places = np.flatnonzero(entries == entry)
            heads[places] = np.arange(len(places))
        return turned_values(columns, unit, gram=self._gram(layer), weight=matrix(node), heads=heads)

    @functools.cached_property
    def _turned_queries(self) -> dict[str, Turned | None]:
        """By unit. The network runs once for all of them, and once more for all values."""
        widths = self._widths("qk_width")
        found = turned_queries(self._model, widths, self._samples[:32])
        return {unit.name: turned for (_, unit), turned in zip(widths, found, strict=True)}

    @functools.cached_property
    def _value_columns(self) -> dict[str, Columns | None]:
        widths = self._widths("v_width")
        found = value_columns(self._model, widths, self._samples[0])
        return {unit.name: columns for (_, unit), columns in zip(widths, found, strict=True)}

    def _widths(self, kind: str) -> list[tuple[ir.Node, Unit]]:
        """The units of a kind of width, each with its attention, where it is of one alone."""
        index = 0 if kind == "qk_width" else 2
        found = []
        for unit in self._units:
            held = {extent.value for extent in unit.activations}
            attentions = [
                node
                for node in self._nodes.values()
                if is_op(node, "Attention")
                and (operand := node.inputs[index]) is not None
                and str(operand.name) in held
            ]
            if unit.kind == kind and len(attentions) == 1:
                found.append((attentions[0], unit))
        return found

    def _order_of_branches(self, unit: Unit) -> Order:
        """Whole branches leave from the last member on; a linear map stands for those that left."""
        order = np.arange(unit.size)[::-1].copy()
        lost = [0.0]
        for count in range(1, unit.size + 1):
            gone = [branch for member in sorted(order[:count]) for branch in unit.branches[member]]
            lost.append(sum(self._nonlinear(run) for run in runs(gone, self._nodes)))
        return Order(order, np.maximum.accumulate(lost))

    def _nonlinear(self, run: tuple[str, str]) -> float:
        """The sum of squares of one stream that no linear map of an earlier one makes."""
        behind = self._lessons.streams[run[1]].rows
        # Nothing is kept of a constant, and no map of one says anything.
        known = self._lessons.streams.get(run[0])
        before = [part[:, :0] for part in behind] if known is None else known.rows
        moments = Moments.empty(before[0].shape[1], behind[0].shape[1])
        moments.add(np.concatenate(before), np.concatenate(behind))
        prior = np.eye(before[0].shape[1], behind[0].shape[1])
        found = ridge_map(moments, prior, RIDGE)
        return found.error * moments.count * len(moments.y)

    def _order_of_ranks(self, unit: Unit) -> Order:
        """Singular values of a product, of its outputs on calibration data: the smallest leaves first."""
        node = self._nodes[unit.node]
        weight = weight_matrix(node)
        value = node.inputs[0]
        assert weight is not None
        assert value is not None
        axis = 1 if is_op(node, "Conv") else -1
        moments = Moments.empty(len(weight), 0)
        gathering = Gathering(moments)

        def look(index: int, values: Arrays) -> None:
            array = np.moveaxis(values[str(value.name)], axis, -1).reshape(-1, len(weight))
            picked = array[self._rows.picked(index, len(array))]
            gathering.add(picked, np.empty((len(picked), 0), np.float32))

        observe(self._model, [str(value.name)], self._samples, look)
        gathering.finish()
        scale = float(np.trace(moments.xx)) / len(weight)
        root = np.linalg.cholesky(moments.xx + (1e-6 * scale or 1.0) * np.eye(len(weight))).T
        basis, values, right = np.linalg.svd(root @ weight, full_matrices=False)
        self._factors[unit.name] = (np.linalg.solve(root, basis), values, right)
        squares = np.square(values)[::-1]
        return Order(np.arange(unit.size)[::-1].copy(), np.concatenate([[0.0], np.cumsum(squares)]))

    def _order_by_weights(self, unit: Unit) -> Order:
        """Where no linear layer that can be fitted reads the members: by the squares of their weights."""
        scores = np.zeros(unit.size)
        by_name = self._model.graph.initializers
        for extent in unit.slices:
            array = constant(by_name.get(extent.value))
            if array is None or not np.issubdtype(array.dtype, np.floating):
                continue
            squares = np.square(np.moveaxis(array, extent.axis, 0).reshape(len(extent.members), -1)).sum(1)
            inside = extent.members >= 0
            total = float(squares[inside].sum())
            if total > 0:
                np.add.at(scores, extent.members[inside], squares[inside] / total)
        order = np.argsort(scores, kind="stable")
        return Order(order, np.concatenate([[0.0], np.cumsum(scores[order])]))


def runs(branches: Sequence[Branch], nodes: Mapping[str, ir.Node]) -> list[tuple[str, str]]:
    """Branches in the graph's order, joined where one starts at the end of the other.

    Args:
        branches: those that leave.
        nodes: the graph's nodes by name.

    Returns:
        for each run the stream in front of it and the stream behind it.
    """
    ends = {str(value.name): node for node in nodes.values() for value in node.outputs}
    found: list[tuple[str, str]] = []
    for branch in branches:
        around = ends[branch.add].inputs[branch.skip]
        assert around is not None
        before = str(around.name)
        if found and found[-1][1] == before:
            found[-1] = (found[-1][0], branch.add)
        else:
            found.append((before, branch.add))
    return found
