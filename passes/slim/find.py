"""Which units a network has: dependency groups started at its attentions and linear layers, and wholes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN, is_op, source_layer
from edgec.core.op_traits import UNARY
from edgec.passes.editing import rank, sizes
from edgec.passes.infra import MatchLog
from edgec.passes.slim.dependencies import Group
from edgec.passes.slim.layers import (
    LINEAR,
    common_layer,
    is_depthwise,
    is_pointwise,
    is_weight,
    layer_parts,
    made_channels,
    summed_axis,
)
from edgec.passes.slim.rules import head_counts, rule_of
from edgec.passes.slim.units import Extent, Names, Reader, Unit
from edgec.passes.slim.whole_units import find_products, find_wholes


def find_units(model: ir.Model, log: MatchLog) -> list[Unit]:
    """The units of a neutral graph: widths in the graph's order, then whole branches, then products.

    Args:
        model: the neutral graph; not changed.
        log: told each unit, and what cannot be cut with the reason.
    """
    return _Finder(model, log).find()


class _Finder:
    def __init__(self, model: ir.Model, log: MatchLog) -> None:
        self.graph = model.graph
        self.log = log
        self.units: list[Unit] = []
        self._known: set[tuple[ir.Value, int]] = set()
        self._names = Names()

    def find(self) -> list[Unit]:
        for node in self.graph:
            if is_op(node, "Attention"):
                self._attention(node)
            elif is_op(node, "ChannelAttention", domain=EDGEC_DOMAIN):
                self._start("heads", node, node.inputs[0], 1)
        for node in self.graph:
            place = made_channels(node)
            if place is not None and place not in self._known:
                self._start("channels", node, *place)
        for node in self.graph.all_nodes():
            if node.graph is not self.graph and is_op(node, "Attention", *LINEAR):
                self.log.missed(node, "it is in the body of a control flow")
        order = {value.name: place for place, node in enumerate(self.graph) for value in node.outputs}
        self.units.sort(key=lambda unit: min(order.get(each.value, 0) for each in unit.activations))
        self.units += find_wholes(self.graph, self._names, self.log)
        self.units += find_products(self.graph, self._names, self.log)
        return self.units

    def _attention(self, node: ir.Node) -> None:
        queries, keys = head_counts(node)
        query, value = node.inputs[0], node.inputs[2]
        if queries is None or keys is None or query is None or value is None:
            self.log.missed(node, "its numbers of heads are not known")
            return
        if rank(query) == 4:
            self._start("heads", node, query, 1)
            self._start("qk_width", node, query, 3)
            self._start("v_width", node, value, 3)
            return
        for kind, operand, heads in (
            ("heads", query, queries),
            ("qk_width", query, queries),
            ("v_width", value, keys),
        ):
            size = (sizes(operand) or (None,))[-1]
            if size is None:
                self.log.missed(node, "the width of its heads is not known")
                continue
            width = size // heads
            layout = (
                np.repeat(np.arange(heads), width) if kind == "heads" else np.tile(np.arange(width), heads)
            )
            self._start(kind, node, operand, 2, layout)

    def _start(
        self, kind: str, node: ir.Node, value: ir.Value | None, axis: int, layout: np.ndarray | None = None
    ) -> None:
        """Spread one axis of a value, and keep the unit or the reason why it is none."""
        shape = sizes(value)
        if value is None or shape is None or shape[axis] is None:
            self.log.missed(node, "the size of what it makes is not known")
            return
        layout = np.arange(int(shape[axis] or 0)) if layout is None else layout
        if layout.max(initial=0) < 1 or self._is_known(kind, value, axis):
            return
        group = self._spread(value, axis, layout)
        if not group.free():
            group = self._spread(value, axis, layout, merge_last=True) if kind == "channels" else group
        self._known |= {(held, place) for held, places in group.held.items() for place in places}
        free = group.free()
        if len(free) < 2:
            reason, blocking = group.obstacle or ("its members can only leave together", None)
            where = "" if blocking is None or blocking is node else f" (`{source_layer(blocking)}`)"
            self.log.missed(node, f"{_SAID[kind]}: {reason}{where}")
            return
        self.units.append(self._unit(kind, node, group, free))
        self.log.matched(node)

    def _is_known(self, kind: str, value: ir.Value, axis: int) -> bool:
        """Whether its members are a unit: attentions share weights, or are part of something wider."""
        return any(
            (unit.kind == kind or unit.kind not in ("mlp", "heads"))
            and any(each.value == value.name and each.axis == axis for each in unit.activations)
            for unit in self.units
        )

    def _spread(self, value: ir.Value, axis: int, layout: np.ndarray, *, merge_last: bool = False) -> Group:
        group = Group(self.graph, rule_of, merge_last=merge_last)
        group.assign(value, axis, group.fresh(int(layout.max()) + 1)[layout])
        group.spread()
        return group

    def _unit(self, kind: str, node: ir.Node, group: Group, free: list[int]) -> Unit:
        number = {root: place for place, root in enumerate(free)}
        slices: list[Extent] = []
        activations: list[Extent] = []
        for value, places in group.held.items():
            for axis, members in places.items():
                roots = group.roots(members)
                table = np.array([number.get(int(root), -1) for root in roots])
                if (table >= 0).any():
                    extent = Extent(str(value.name), axis, table)
                    (slices if value.is_initializer() else activations).append(extent)
        readers = [reader for node in group.nodes if (reader := _reader(node, group)) is not None]
        if kind == "channels" or (kind != "heads" and any(_adds(node, group) for node in group.nodes)):
            kind = _kind(group)
        layer = _layer(kind, node, group)
        return Unit(
            self._names.take(kind, layer, source_layer(node)),
            kind,
            layer,
            len(free),
            slices=tuple(slices),
            activations=tuple(activations),
            readers=tuple(readers),
            normalized=group.normalized,
        )


_SAID = {
    "heads": "heads",
    "qk_width": "width of queries and keys",
    "v_width": "width of values",
    "channels": "width",
}


def _reader(node: ir.Node, group: Group) -> Reader | None:
    """A linear layer that sums over the members."""
    if not is_op(node, *LINEAR) or is_depthwise(node):
        return None
    for data, weight in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
        if data is None or weight is None or not weight.is_initializer():
            continue
        if any(axis in group.axes(data) for axis in [summed_axis(node, data)]):
            return Reader(str(node.name), str(data.name), str(weight.name))
    return None


def _kind(group: Group) -> str:
    """What is between the linear layers of a group.

    `residual` is a normalised stream that branches are added to, `heads` those of an attention without a
    softmax, `mlp` between two layers with a nonlinear function that mix no places, else `channels`.
    """
    sums = [node for node in group.nodes if _adds(node, group)]
    if sums and group.normalized:
        return "residual"
    if any(is_op(node, "MatMul") and _joins(node, group) for node in group.nodes):
        return "heads"
    linear = [node for node in group.nodes if is_op(node, *LINEAR)]
    curved = any(node.op_type in UNARY and not is_op(node, "Identity", "Cast") for node in group.nodes)
    if sums or not curved or any(not is_pointwise(node) for node in linear):
        return "channels"
    return "mlp"


def _adds(node: ir.Node, group: Group) -> bool:
    return is_op(node, "Add") and _joins(node, group)


def _joins(node: ir.Node, group: Group) -> bool:
    """Whether all operands of a node are activations with members."""
    return all(value in group.held and not is_weight(value) for value in node.inputs)


def _layer(kind: str, node: ir.Node, group: Group) -> str:
    """The layer a unit is told by: what its linear layers share, where that is near, or where it starts."""
    layers = [source_layer(each) for each in group.nodes if is_op(each, *LINEAR)]
    if kind in ("channels", "residual") or not layers:
        return source_layer(node)
    shared = common_layer(layers)
    near = len(layer_parts(shared)) >= len(layer_parts(layers[0])) - 2
    return shared if shared and near else source_layer(node)
