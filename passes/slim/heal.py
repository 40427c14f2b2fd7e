"""A slimmer network from a plan: cut, and healed in closed form against the whole one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.core.errors import RequestError
from edgec.core.graph import Arrays, Graph
from edgec.core.progress import Progress, Silent
from edgec.passes.editing import rank
from edgec.passes.infra import MatchLog
from edgec.passes.manager import PassReport, Pipeline
from edgec.passes.precision.judge import evaluable
from edgec.passes.slim.cut import CutUnits
from edgec.passes.slim.elimination import Layer, Order, eliminate
from edgec.passes.slim.find import find_units
from edgec.passes.slim.least_squares import Fit, Moments, fit
from edgec.passes.slim.linear_layers import (
    LinearLayer,
    input_rows,
    linear_layer,
    matrix,
    output_rows,
    places,
    spread,
    stored,
)
from edgec.passes.slim.plan import SlimPlan
from edgec.passes.slim.teacher import SAMPLES, Lesson, Rows, teach
from edgec.passes.slim.units import Unit
from edgec.passes.slim.walk import Walk


class Slimmer:
    """Cuts units of a network and heals what is left, without training.

    The whole network is the teacher. It runs once on the calibration data; what its linear layers read is
    kept as Gram matrices, and what they are for, the residual stream behind them, as rows. Members of a unit
    leave by backward elimination (`elimination.eliminate`). After a cut the network is walked through layer by
    layer: with what is kept, as the slimmed network itself computes it, each linear layer is fitted to what
    the teacher's stream behind it is, less what goes around the layer in the slimmed network::

        kept ─ MatMul(W) ─ Add(b) ─ Add ─ stream          minimise |kept·W + b - (teacher's stream - skip)|²
                             skip ───┘                              + ridge |W - W before|²

    So a layer repairs what earlier cuts did, also a layer that lost nothing.

    Args:
        graph: the neutral graph, with calibration feeds.
        progress: told about the long steps.

    Attributes:
        units: what can be cut.
        log: what cannot, with the reasons.

    Raises:
        RequestError: the graph has no calibration data.
    """

    def __init__(self, graph: Graph, progress: Progress | None = None) -> None:
        if not graph.calibration:
            raise RequestError(
                "slimming needs inputs as the network will meet them, and there are none",
                fix="give some with --calib F.npz",
            )
        self.graph = graph
        self.log = MatchLog()
        self.units = find_units(graph.model, self.log)
        self._progress = progress or Silent()
        self._by_name = {unit.name: unit for unit in self.units}
        self._nodes = {str(node.name): node for node in graph.model.graph}
        self._samples = _spread_over(graph.calibration, SAMPLES)
        self._rows = Rows(self._samples, graph.inputs)
        self._layers = self._find_layers()
        self._lessons: dict[str, Lesson] = {}
        self._orders: dict[str, Order] = {}

    def order(self, unit: Unit) -> tuple[int, ...]:
        """The members of a unit in the order in which they leave."""
        return tuple(self._order(unit).members.tolist())

    def degradation(self, unit: Unit, kept: int) -> float:
        """What keeping so many members of one unit loses, the others whole, after healing.

        Returns:
            the root mean square of what is lost of the residual stream behind the unit, relative to the
            stream's own spread.
        """
        lost = self._order(unit).lost[unit.size - kept]
        spread = sum(self._taught[layer.node].spread for layer in self._read_by(unit))
        return float(np.sqrt(lost / spread)) if spread > 0 else 0.0

    def apply(self, plan: SlimPlan) -> tuple[Graph, tuple[PassReport, ...]]:
        """The network that a plan describes, cut and healed, and what the passes did.

        The same for the same plan.

        Raises:
            RequestError: the plan is not one for this graph.
        """
        plan.check(self.units)
        kept = {
            name: self._order(self._by_name[name]).kept(count)
            for name, count in plan.kept.items()
            if count < self._by_name[name].size
        }
        student = self.graph.model.clone()
        if not kept:
            return self.graph.with_model(student), ()
        cut = CutUnits(self.units, {name: members.tolist() for name, members in kept.items()})
        reports = Pipeline([cut]).run(student)
        self._heal(student, kept)
        return self.graph.with_model(student), tuple(reports)

    @property
    def _taught(self) -> dict[str, Lesson]:
        """What the teacher computes; it runs when this is first asked for."""
        if not self._lessons:
            self._progress.step(f"calibrating on {len(self._samples)} samples")
            self._lessons = teach(
                evaluable(self.graph.model), self._layers.values(), self._samples, self._rows
            )
        return self._lessons

    def _find_layers(self) -> dict[str, LinearLayer]:
        """By node the linear layers that read members and can be fitted."""
        position = {node: index for index, node in enumerate(self._nodes)}
        layers: dict[str, LinearLayer] = {}
        for unit in self.units:
            for reader in () if unit.normalized else unit.readers:
                layer = linear_layer(self._nodes[reader.node], reader.value)
                if layer is None or reader.node in layers:
                    continue
                skip = next((value for node in self.graph.model.graph for value in node.outputs
                             if value.name == layer.skip), None)  # fmt: skip
                maker = None if skip is None else skip.producer()
                if maker is not None and position[str(maker.name)] > position[layer.node]:
                    layer = dataclasses.replace(layer, stream=None, skip=None)
                layers[reader.node] = layer
        return dict(sorted(layers.items(), key=lambda item: position[item[0]]))

    def _read_by(self, unit: Unit) -> list[LinearLayer]:
        return [self._layers[reader.node] for reader in unit.readers if reader.node in self._layers]

    def _order(self, unit: Unit) -> Order:
        if unit.name not in self._orders:
            self._progress.step(f"ordering {unit.name}")
            self._orders[unit.name] = eliminate(
                [self._read(layer, unit) for layer in self._read_by(unit)], unit.size
            )
        return self._orders[unit.name]

    def _read(self, layer: LinearLayer, unit: Unit) -> Layer:
        node = self._nodes[layer.node]
        moments = self._taught[layer.node].moments
        gram = moments.xx if layer.bias is None else moments.centred().xx
        return Layer(gram, matrix(node), self._members(layer, unit))

    def _members(self, layer: LinearLayer, unit: Unit) -> np.ndarray:
        """(regressors,) int: of which member of a unit each is."""
        extent = next(each for each in unit.activations if each.value == layer.value)
        return spread(self._nodes[layer.node], extent.members)

    def _columns(self, layer: LinearLayer, kept: Mapping[str, np.ndarray]) -> np.ndarray:
        """(outputs,) bool: which of a layer's own outputs stay."""
        node = self._nodes[layer.node]
        axis = 1 if is_op(node, "Conv") else (rank(node.outputs[0]) or 0) - 1
        stay = np.ones(matrix(node).shape[1], dtype=bool)
        for name, members in kept.items():
            for extent in self._by_name[name].activations:
                if extent.value == layer.target and extent.axis == axis:
                    stay &= extent.kept(members.tolist())
        return stay

    def _heal(self, student: ir.Model, kept: Mapping[str, np.ndarray]) -> None:
        """Fit every linear layer from the first that the cuts reach."""
        running = evaluable(student)
        if running is student:
            running = student.clone()
        walk = Walk(running, self._samples)
        changed = {extent.value for name in kept for extent in self._by_name[name].slices}
        first = min(
            walk.place(str(node.name))
            for node in running.graph
            if any(value is not None and value.name in changed for value in node.inputs)
        )
        for layer in self._layers.values():
            if walk.place(layer.node) < first:
                continue
            self._progress.step(f"healing {layer.node}")
            walk.run_to(layer.node)
            found = self._fitted(layer, walk, kept)
            for model in (student, running):
                _set(model, layer, found)

    def _fitted(self, layer: LinearLayer, walk: Walk, kept: Mapping[str, np.ndarray]) -> Fit:
        node = walk.nodes[walk.place(layer.node)]
        prior = matrix(node)
        parts = (Moments.empty(*prior.shape), Moments.empty(*prior.shape))
        lesson = self._taught[layer.node]
        columns = self._columns(layer, kept)
        for index, sample in enumerate(walk.samples):
            target = lesson.targets[index][:, columns]
            if layer.skip is None:
                count = lesson_rows(node, sample[layer.value])
                picked = self._rows.picked(index, count)
            else:
                picked = self._rows.picked(index, places(node, sample[layer.skip]))
                target = target - output_rows(node, sample[layer.skip], picked)
            parts[index % 2].add(input_rows(node, sample[layer.value], picked), target)
        return fit(parts, prior, intercept=layer.bias is not None)


def lesson_rows(node: ir.Node, value: np.ndarray) -> int:
    return value.size // value.shape[-1]


def _spread_over(feeds: Sequence[Arrays], count: int) -> list[Arrays]:
    """At most `count` feeds, evenly over all."""
    if len(feeds) <= count:
        return list(feeds)
    return [feeds[index * len(feeds) // count] for index in range(count)]


def _set(model: ir.Model, layer: LinearLayer, found: Fit) -> None:
    """Give a layer its new weight and bias, of its own where it shared them."""
    nodes = {str(node.name): node for node in model.graph}
    node = nodes[layer.node]
    _replace(model, node, 1, stored(node, found.weight))
    if layer.bias is not None:
        name, index = layer.bias
        old = nodes[name].inputs[index]
        assert old is not None and old.shape is not None
        _replace(model, nodes[name], index, found.bias.reshape([int(size) for size in old.shape]))


def _replace(model: ir.Model, node: ir.Node, index: int, array: np.ndarray) -> None:
    old = node.inputs[index]
    assert old is not None and old.dtype is not None
    name = f"{node.name}/healed/{index}"
    tensor = ir.tensor(np.ascontiguousarray(array.astype(old.dtype.numpy())), name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    model.graph.register_initializer(value)
    node.replace_input_with(index, value)
    if not list(old.uses()) and old.is_initializer():
        model.graph.initializers.pop(str(old.name))
