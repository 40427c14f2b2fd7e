"""Which units a network has: dependency groups started at its attentions and linear layers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN, is_op, source_layer
from edgec.core.op_traits import UNARY
from edgec.passes.editing import constant_tensor, rank, sizes
from edgec.passes.infra import MatchLog
from edgec.passes.slim.dependencies import Group
from edgec.passes.slim.rules import head_counts, is_depthwise, rule_of
from edgec.passes.slim.units import Extent, Reader, Unit

_LINEAR = ("MatMul", "Gemm", "Conv", "ConvTranspose")


def find_units(model: ir.Model, log: MatchLog) -> list[Unit]:
    """The units of a neutral graph, in its order; none of them shares a member with another of its kind.

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
        self._names: set[str] = set()

    def find(self) -> list[Unit]:
        for node in self.graph:
            if is_op(node, "Attention"):
                self._attention(node)
            elif is_op(node, "ChannelAttention", domain=EDGEC_DOMAIN):
                self._start("heads", node, node.inputs[0], 1)
        for node in self.graph:
            place = _made_by_weights(node)
            if place is not None and place not in self._known:
                self._start("channels", node, *place)
        for node in self.graph.all_nodes():
            if node.graph is not self.graph and is_op(node, *_LINEAR):
                self.log.missed(node, "it is in the body of a control flow")
        order = {value.name: place for place, node in enumerate(self.graph) for value in node.outputs}
        return sorted(self.units, key=lambda unit: min(order.get(e.value, 0) for e in unit.activations))

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
        if not free or (len(free) == 1 and kind != "heads"):
            reason, blocking = group.obstacle or ("its members can only leave together", None)
            where = "" if blocking is None or blocking is node else f" (`{source_layer(blocking)}`)"
            self.log.missed(node, f"{_SAID[kind]}: {reason}{where}")
            return
        self.units.append(self._unit(kind, node, group, free))
        self.log.matched(node)

    def _is_known(self, kind: str, value: ir.Value, axis: int) -> bool:
        """Whether a unit of the same kind has the axis already: attentions that share their weights."""
        return any(
            unit.kind == kind
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
        slices, activations = [], []
        for value, places in group.held.items():
            for axis, members in places.items():
                roots = group.roots(members)
                table = np.array([number.get(int(root), -1) for root in roots])
                if (table >= 0).any():
                    extent = Extent(str(value.name), axis, table)
                    (slices if value.is_initializer() else activations).append(extent)
        readers = [reader for node in group.nodes if (reader := _reader(node, group)) is not None]
        if kind == "channels":
            kind = _kind(group)
        layer = _layer(kind, node, group)
        return Unit(
            self._name(kind, layer, node),
            kind,
            layer,
            len(free),
            slices=tuple(slices),
            activations=tuple(activations),
            readers=tuple(readers),
            normalized=group.normalized,
        )

    def _name(self, kind: str, layer: str, node: ir.Node) -> str:
        own = _written(f"{kind}:{layer}")
        if own in self._names:
            own = _written(f"{kind}:{source_layer(node)}")
        name, count = own, 1
        while name in self._names:
            count += 1
            name = f"{own}#{count}"
        self._names.add(name)
        return name


_SAID = {
    "heads": "heads",
    "qk_width": "width of queries and keys",
    "v_width": "width of values",
    "channels": "width",
}


def _written(name: str) -> str:
    """A name without the signs of a plan's text."""
    return "".join("_" if sign in "+= \t\n" else sign for sign in name)


def _made_by_weights(node: ir.Node) -> tuple[ir.Value, int] | None:
    """The output of a linear layer and its axis of channels, where each channel has weights of its own."""
    if not is_op(node, *_LINEAR) or len(node.inputs) < 2:
        return None
    out, count = node.outputs[0], rank(node.outputs[0])
    if count is None:
        return None
    if is_op(node, "MatMul"):
        left, right = (constant_tensor(value) is not None for value in node.inputs[:2])
        if left == right:
            return None
        return (out, count - 1) if right else (out, count - 2)
    if constant_tensor(node.inputs[1]) is None or is_depthwise(node):
        return None
    return out, 1


def _reader(node: ir.Node, group: Group) -> Reader | None:
    """A linear layer that sums over the members."""
    if not is_op(node, *_LINEAR) or is_depthwise(node):
        return None
    for data, weight in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
        if data is None or weight is None or not weight.is_initializer():
            continue
        if any(axis in group.axes(data) for axis in [_summed(node, data)]):
            return Reader(str(node.name), str(data.name), str(weight.name))
    return None


def _summed(node: ir.Node, data: ir.Value) -> int:
    """The axis of an operand that a linear layer sums over."""
    if is_op(node, "Conv", "ConvTranspose"):
        return 1
    count = rank(data) or 0
    if is_op(node, "Gemm"):
        return 0 if node.attributes.get_int("transA", 0) else 1
    return count - 1 if data is node.inputs[0] else count - 2


def _kind(group: Group) -> str:
    """What is between the linear layers of a group.

    `residual` is a normalised stream that branches are added to, `heads` those of an attention without a
    softmax, `mlp` between two layers with a nonlinear function that mix no places, else `channels`.
    """
    sums = [node for node in group.nodes if is_op(node, "Add") and _joins(node, group)]
    if sums and group.normalized:
        return "residual"
    if any(is_op(node, "MatMul") and _joins(node, group) for node in group.nodes):
        return "heads"
    linear = [node for node in group.nodes if is_op(node, *_LINEAR)]
    curved = any(node.op_type in UNARY and not is_op(node, "Identity", "Cast") for node in group.nodes)
    if sums or not curved or any(not _is_pointwise(node) for node in linear):
        return "channels"
    return "mlp"


def _joins(node: ir.Node, group: Group) -> bool:
    """Whether all operands of a node are activations with members."""
    return all(value in group.held and not value.is_initializer() for value in node.inputs)


def _is_pointwise(node: ir.Node) -> bool:
    if is_op(node, "MatMul", "Gemm"):
        return True
    shape = sizes(node.inputs[1])
    return shape is not None and all(size == 1 for size in shape[2:]) and not is_depthwise(node)


def _layer(kind: str, node: ir.Node, group: Group) -> str:
    """The layer a unit is told by: of an MLP what its linear layers share, else the first of them."""
    first = source_layer(node)
    if kind != "mlp":
        return first
    shared = common_layer(source_layer(each) for each in group.nodes if is_op(each, *_LINEAR))
    near = len(list(_parts(shared))) >= len(list(_parts(first))) - 2
    return shared if shared and near else first


def common_layer(layers: Iterable[str]) -> str:
    """The innermost layer that all of these are in; empty where there is none."""
    parts = [list(_parts(layer)) for layer in layers]
    shared = itertools.takewhile(lambda names: len(set(names)) == 1, zip(*parts, strict=False))
    return "".join(names[0] for names in shared).strip("./")


def _parts(layer: str) -> Iterator[str]:
    """The parts of a layer's name, each with the sign behind it."""
    part = ""
    for sign in layer + ".":
        part += sign
        if sign in "./":
            yield part
            part = ""
