"""A slimmer network from a plan: cut, and healed in closed form against the whole one."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgec.core.errors import RequestError
from edgec.core.graph import Arrays, Graph
from edgec.core.progress import Progress, Silent
from edgec.passes.editing import Editor, producer, rank, sizes
from edgec.passes.infra import MatchLog
from edgec.passes.manager import PassReport, Pipeline
from edgec.passes.precision.judge import evaluable
from edgec.passes.slim.cut import CutUnits
from edgec.passes.slim.find import find_units
from edgec.passes.slim.head_widths import turn
from edgec.passes.slim.importance import Importance, runs
from edgec.passes.slim.least_squares import Fit, Gathering, Moments, fit
from edgec.passes.slim.linear_layers import (
    LinearLayer,
    count_rows,
    input_rows,
    linear_layer,
    matrix,
    stored,
    value_rows,
)
from edgec.passes.slim.plan import SlimPlan
from edgec.passes.slim.teacher import SAMPLES, Lessons, Rows, teach
from edgec.passes.slim.units import RANK, Unit
from edgec.passes.slim.walk import Walk

MAPPED = ("block", "depth")
"""Kinds of units in whose place a linear map stands; other branches leave nothing behind."""


class Slimmer:
    """Cuts units of a network and heals what is left, without training.

    The whole network is the teacher. It runs once on the calibration data; what its linear layers read is
    kept as Gram matrices, and the residual streams as rows. Members of a unit leave by backward elimination
    (`elimination.eliminate`), widths of heads in a basis of their own (`head_widths`), products by singular
    values. After a cut the network is walked through layer by layer: with what is kept, as the slimmed
    network itself computes it, each linear layer is fitted to what the teacher's stream behind it is, less
    what goes around the layer in the slimmed network::

        kept ─ MatMul(W) ─ Add(b) ─ Add ─ stream          minimise |kept·W + b - (teacher's stream - skip)|²
                             skip ───┘                              + ridge |W - W before|²

    So a layer repairs what earlier cuts did, also a layer that lost nothing, and an MLP takes over what it
    can of an attention that left in front of it. Where a branch leaves, the layer in front of it is fitted to
    the stream behind the branch. Where whole blocks leave, a linear map of the stream stands for them::

        x ─ block ─ block ─ y          ⇒          x ─ MatMul ─ Add ─ y

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
        made = (value for node in graph.model.graph for value in node.outputs)
        self._values = {str(value.name): value for value in (*graph.model.graph.inputs, *made)}
        self._samples = _spread_over(graph.calibration, SAMPLES)
        self._layers = self._find_layers()
        self._streams = self._find_streams()
        entries = sum(_entries(self._values[name], axis) for name, axis in self._streams.items())
        self._rows = Rows(self._samples, graph.inputs, entries)

    def order(self, unit: Unit) -> tuple[int, ...]:
        """The members of a unit in the order in which they leave."""
        return tuple(self._importance.order(unit).members.tolist())

    def degradation(self, unit: Unit, kept: int) -> float:
        """What keeping so many members of one unit loses, the others whole, after healing.

        Returns:
            the root mean square of what is lost of the residual stream behind the unit, relative to the
            stream's own spread; for a product of low rank and for widths of queries and keys, of what they
            make themselves.
        """
        lost = self._importance.order(unit).lost[unit.size - kept]
        spread = self._importance.spread(unit)
        return float(np.sqrt(lost / spread)) if spread > 0 else 0.0

    def apply(self, plan: SlimPlan) -> tuple[Graph, tuple[PassReport, ...]]:
        """The network that a plan describes, cut and healed, and what the passes did.

        The same for the same plan.

        Raises:
            RequestError: the plan is not one for this graph.
        """
        plan.check(self.units)
        cut = [self._by_name[name] for name, count in plan.kept.items() if count < self._by_name[name].size]
        student = self.graph.model.clone()
        if not cut:
            return self.graph.with_model(student), ()
        kept = {unit.name: self._importance.order(unit).kept(plan.kept[unit.name]) for unit in cut}
        for unit in cut:
            turn(student, self._importance.turns(unit))
            if unit.kind == RANK:
                self._make_low_rank(student, unit, len(kept[unit.name]))
        before = {str(node.name): _constants_of(node) for node in self.graph.model.graph}
        names = {name: members.tolist() for name, members in kept.items()}
        reports = Pipeline([CutUnits(self.units, names)]).run(student)
        layers = self._layers_after(student, cut, kept)
        touched = {
            str(node.name) for node in student.graph if before.get(str(node.name)) != _constants_of(node)
        }
        self._heal(student, layers, kept, touched)
        return self.graph.with_model(student), tuple(reports)

    @functools.cached_property
    def _lessons(self) -> Lessons:
        self._progress.step(f"calibrating on {len(self._samples)} samples")
        return teach(self.graph.model, self._layers.values(), self._streams, self._samples, self._rows)

    @functools.cached_property
    def _importance(self) -> Importance:
        return Importance(
            self.graph.model, self.units, self._nodes, self._layers, self._lessons, self._samples, self._rows
        )

    def _find_layers(self) -> dict[str, LinearLayer]:
        """By node the linear layers that read members and can be fitted, in the graph's order."""
        position = {node: index for index, node in enumerate(self._nodes)}
        layers: dict[str, LinearLayer] = {}
        for unit in self.units:
            for reader in () if unit.normalized else unit.readers:
                layer = linear_layer(self._nodes[reader.node], reader.value)
                if layer is None or reader.node in layers:
                    continue
                maker = self._values[layer.skip].producer() if layer.skip in self._values else None
                if maker is not None and position[str(maker.name)] > position[layer.node]:
                    # What goes around is only known later: the layer's own output is what to aim at.
                    layer = dataclasses.replace(layer, target=_own_output(self._nodes, layer), skip=None)
                layers[reader.node] = layer
        return dict(sorted(layers.items(), key=lambda item: position[item[0]]))

    def _find_streams(self) -> dict[str, int]:
        """The values whose rows are kept, and the axis of their entries."""
        streams = {layer.target: layer.axis for layer in self._layers.values()}
        for unit in self.units:
            for branch in (branch for branches in unit.branches for branch in branches):
                add = self._values[branch.add].producer()
                assert add is not None
                around = add.inputs[branch.skip]
                assert around is not None
                axis = streams.get(branch.add, _channel_axis(add.inputs[1 - branch.skip]))
                streams.setdefault(branch.add, axis)
                if str(around.name) in self._values:
                    streams.setdefault(str(around.name), axis)
        return streams

    def _make_low_rank(self, student: ir.Model, unit: Unit, kept: int) -> None:
        """Give a product the matrix of that rank that loses least of its outputs; the cut then splits it."""
        node = next(node for node in student.graph if node.name == unit.node)
        weight = node.inputs[1]
        assert weight is not None
        assert weight.dtype is not None
        array = stored(node, self._importance.low_rank(unit, kept)).astype(weight.dtype.numpy())
        weight.const_value = ir.tensor(np.ascontiguousarray(array), name=weight.name)

    def _layers_after(
        self, student: ir.Model, cut: Sequence[Unit], kept: Mapping[str, np.ndarray]
    ) -> list[LinearLayer]:
        """The linear layers of a cut graph to fit: some with other targets, and maps."""
        alone: dict[str, str] = {}
        mapped: list[LinearLayer] = []
        for unit in cut:
            stay = set(kept[unit.name].tolist())
            gone = [
                branch
                for member, branches in enumerate(unit.branches)
                if member not in stay
                for branch in branches
            ]
            for before, behind in runs(gone, self._nodes):
                if unit.kind in MAPPED:
                    mapped += _map_in_place(student, before, behind, self._streams)
                else:
                    alone[before] = behind
        there = {str(node.name): node for node in student.graph}
        layers = []
        for layer in self._layers.values():
            # Who went around a branch that left now goes around by way of what is left.
            now = _as_it_is_now(there, layer)
            if now is None or (now.skip is None) != (layer.skip is None):
                continue
            target = layer.target
            while target in alone:
                target = alone[target]
            layers.append(dataclasses.replace(now, target=target))
        return layers + mapped

    def _heal(
        self,
        student: ir.Model,
        layers: Iterable[LinearLayer],
        kept: Mapping[str, np.ndarray],
        touched: set[str],
    ) -> None:
        """Fit every linear layer from the first that the cuts reach."""
        running = evaluable(student)
        if running is student:
            running = student.clone()
        walk = Walk(running, self._samples)
        order = {str(node.name): index for index, node in enumerate(student.graph)}
        first = min((order[name] for name in touched), default=len(order))
        for layer in sorted(layers, key=lambda layer: order[layer.node]):
            if order[layer.node] < first:
                continue
            self._progress.step(f"healing {layer.node}")
            walk.run_to(layer.node)
            found = self._fitted(layer, walk, kept)
            for model in (student, running):
                _set(model, layer, found)

    def _fitted(self, layer: LinearLayer, walk: Walk, kept: Mapping[str, np.ndarray]) -> Fit:
        node = walk.node(layer.node)
        prior = matrix(node)
        halves = [Gathering(Moments.empty(*prior.shape)) for _ in range(2)]
        columns = self._columns(layer, prior.shape[1], kept)
        stream = self._lessons.streams[layer.target]
        for index, sample in enumerate(walk.samples):
            target = stream.rows[index][:, columns]
            if layer.skip is not None:
                around = sample[layer.skip]
                picked = self._rows.picked(index, count_rows(around, layer.axis))
                target = target - value_rows(around, layer.axis, picked)
            else:
                picked = self._rows.picked(index, stream.counts[index])
            halves[index % 2].add(input_rows(node, sample[layer.value], picked), target)
        first, second = (half.finish() for half in halves)
        return fit((first, second), prior, intercept=layer.bias is not None)

    def _columns(self, layer: LinearLayer, outputs: int, kept: Mapping[str, np.ndarray]) -> np.ndarray:
        """(outputs of the whole layer,) bool: which of them stay."""
        stay = np.ones(self._lessons.streams[layer.target].rows[0].shape[1], dtype=bool)
        if len(stay) == outputs:
            return stay
        axis = layer.axis if layer.axis >= 0 else (rank(self._values[layer.target]) or 0) - 1
        for name, members in kept.items():
            for extent in self._by_name[name].activations:
                if extent.value == layer.target and extent.axis == axis:
                    stay &= extent.kept(members.tolist())
        return stay


def _spread_over(feeds: Sequence[Arrays], count: int) -> list[Arrays]:
    """At most `count` feeds, evenly over all."""
    if len(feeds) <= count:
        return list(feeds)
    return [feeds[index * len(feeds) // count] for index in range(count)]


def _entries(value: ir.Value, axis: int) -> int:
    shape = sizes(value)
    return 0 if not shape else shape[axis] or 0


def _channel_axis(value: ir.Value | None) -> int:
    """The axis along which a branch's last linear layer puts its outputs."""
    while value is not None and (node := value.producer()) is not None:
        if node.op_type in ("Conv", "ConvTranspose", "BatchNormalization") or "Pool" in node.op_type:
            return 1
        if node.op_type in ("MatMul", "Gemm"):
            return -1
        value = next((each for each in node.inputs if each is not None and not each.is_initializer()), None)
    return -1


def _as_it_is_now(nodes: Mapping[str, ir.Node], layer: LinearLayer) -> LinearLayer | None:
    """A linear layer after the cut, of a low-rank product the second half; None where it left."""
    node, value = nodes.get(layer.node), layer.value
    if node is None and layer.bias is not None and layer.bias[0] in nodes:
        name, index = layer.bias
        node = producer(nodes[name].inputs[1 - index], "MatMul")
        value = "" if node is None or node.inputs[0] is None else str(node.inputs[0].name)
    return None if node is None else linear_layer(node, value)


def _own_output(nodes: Mapping[str, ir.Node], layer: LinearLayer) -> str:
    node = nodes[layer.node if layer.bias is None else layer.bias[0]]
    return str(node.outputs[0].name)


def _constants_of(node: ir.Node) -> tuple[object, ...]:
    """What a node reads: the tensors of its constants, the names of other values."""
    return tuple(
        None if value is None else id(value.const_value) if value.const_value is not None else value.name
        for value in node.inputs
    )


def _map_in_place(
    student: ir.Model, before: str, behind: str, streams: Mapping[str, int]
) -> list[LinearLayer]:
    """Put a linear map, for now the identity, where branches left; none where the stream is an input."""
    value = next((value for node in student.graph for value in node.outputs if value.name == before), None)
    maker = None if value is None else value.producer()
    if value is None or maker is None:
        return []
    editor = Editor(student, "slim.heal")
    axis, count = streams[behind], _entries(value, streams[behind])
    uses = [(use.node, use.idx) for use in value.uses()]
    identity = np.eye(count, dtype=np.float32)
    bias = editor.initializer(np.zeros(count, np.float32), f"{behind}/bias")
    after = maker
    if axis == 1:
        weight = editor.initializer(identity[..., None, None], f"{behind}/map")
        made = editor.node("Conv", [value, weight, bias], like=maker, after=after, shape=value.shape)
        node = made.producer()
        assert node is not None
        place = (str(node.name), 2)
    else:
        weight = editor.initializer(identity, f"{behind}/map")
        product = editor.node("MatMul", [value, weight], like=maker, after=after, shape=value.shape)
        node = product.producer()
        assert node is not None
        made = editor.node("Add", [product, bias], like=maker, after=node, shape=value.shape)
        place = (str(made.producer().name), 1)  # type: ignore[union-attr]
    for user, index in uses:
        user.replace_input_with(index, made)
    return [LinearLayer(str(node.name), before, place, behind, None, axis)]


def _set(model: ir.Model, layer: LinearLayer, found: Fit) -> None:
    """Give a layer its new weight and bias, of its own where it shared them."""
    nodes = {str(node.name): node for node in model.graph}
    _replace(model, nodes[layer.node], 1, stored(nodes[layer.node], found.weight))
    if layer.bias is not None:
        name, index = layer.bias
        shape = sizes(nodes[name].inputs[index]) or ()
        _replace(model, nodes[name], index, found.bias.reshape([size or 0 for size in shape]))


def _replace(model: ir.Model, node: ir.Node, index: int, array: np.ndarray) -> None:
    """Let a node read an initializer of its own in place of another."""
    old = node.inputs[index]
    assert old is not None
    dtype = np.float32 if old.dtype is None else old.dtype.numpy()
    new = Editor(model, "slim.heal").initializer(array.astype(dtype), f"{node.name}/healed")
    node.replace_input_with(index, new)
    if not old.uses() and old.is_initializer():
        del model.graph.initializers[str(old.name)]
