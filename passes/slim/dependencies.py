"""Which entries of which values leave together: dependency groups by propagation over a graph.

A group starts at one axis of one value, each entry a member of its own. What an op says about its inputs
and outputs carries members on, and joins members that can only leave together. It is the dependency group of
DepGraph (Fang et al., arXiv 2301.12900), kept for each entry: concatenations, splits, gathers and reshapes
need no offsets. What cannot be cut holds its members in place, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx_ir as ir

from edgec.passes.editing import consumers, sizes

Rule = Callable[["Group", ir.Node], None]
"""Carries a node's members between its inputs and outputs; run again whenever some are new."""

NONE = -1
"""An entry that is no member."""


class Group:
    """The entries that depend on one another.

    Args:
        rule: gives the rule of a node.
        graph: the graph whose nodes may take part; a value that a body inside it reads holds its members.
        merge_last: where a reshape takes members apart, what they are joined to: the entries of the last
            axis that it makes, not of the first.
    """

    def __init__(self, graph: ir.Graph, rule: Callable[[ir.Node], Rule], *, merge_last: bool = False) -> None:
        self.graph = graph
        self.merge_last = merge_last
        self.held: dict[ir.Value, dict[int, np.ndarray]] = {}
        self.nodes: dict[ir.Node, None] = {}
        self.normalized = False
        self._rule = rule
        self._parent: list[int] = []
        self._obstacles: dict[int, tuple[str, ir.Node | None]] = {}
        self._waiting: dict[ir.Node, None] = {}

    def fresh(self, count: int) -> np.ndarray:
        """New members, (count,) int."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def spread(self) -> None:
        """Carry the members as far as they reach."""
        while self._waiting:
            node = next(iter(self._waiting))
            del self._waiting[node]
            self.nodes[node] = None
            self._rule(node)(self, node)

    def members(self, value: ir.Value | None, axis: int) -> np.ndarray | None:
        """The members along an axis, (size,) int; None where it has none."""
        return None if value is None else self.held.get(value, {}).get(axis)

    def axes(self, value: ir.Value | None) -> list[int]:
        """The axes of a value that hold members."""
        return [] if value is None else list(self.held.get(value, {}))

    def assign(self, value: ir.Value | None, axis: int, members: np.ndarray) -> None:
        """Say that an axis holds these members, beside those it is known to hold."""
        if value is None or not (members >= 0).any():
            return
        shape = sizes(value)
        if shape is None or shape[axis] != len(members):
            self.hold(members, f"the size of `{value.name}` is not known", value.producer())
            return
        held = self.held.setdefault(value, {})
        known = held.get(axis)
        if known is None:
            held[axis] = members.copy()
            self._reached(value, members)
            return
        both = (known >= 0) & (members >= 0)
        self.join(known[both], members[both])
        new = (known < 0) & (members >= 0)
        if new.any():
            known[new] = members[new]
            self._reached(value, members[new])

    def tie(self, one: ir.Value | None, axis: int, other: ir.Value | None, other_axis: int) -> None:
        """Say that two axes hold the same members, entry by entry."""
        for source, place, target, target_place in (
            (one, axis, other, other_axis),
            (other, other_axis, one, axis),
        ):
            members = self.members(source, place)
            if members is not None:
                self.assign(target, target_place, members)

    def join(self, some: Iterable[int], others: Iterable[int]) -> None:
        """Say that members leave together, pair by pair."""
        for one, other in zip(some, others, strict=True):
            first, second = sorted((self.root(int(one)), self.root(int(other))))
            if first != second:
                self._parent[second] = first
                if second in self._obstacles:
                    self._obstacles.setdefault(first, self._obstacles[second])

    def hold(self, members: np.ndarray, reason: str, node: ir.Node | None) -> None:
        """Say that members cannot leave, and why."""
        for member in np.unique(members[members >= 0]):
            self._obstacles.setdefault(self.root(int(member)), (reason, node))

    def hold_all(self, node: ir.Node, reason: str, values: Iterable[ir.Value | None] | None = None) -> None:
        """Say that no member on these values of a node, by default on any, can leave."""
        for value in (*node.inputs, *node.outputs) if values is None else values:
            for members in self.held.get(value, {}).values() if value is not None else ():
                self.hold(members, reason, node)

    def root(self, member: int) -> int:
        """The member that stands for all that leave with this one."""
        while self._parent[member] != member:
            self._parent[member] = self._parent[self._parent[member]]
            member = self._parent[member]
        return member

    def roots(self, members: np.ndarray) -> np.ndarray:
        """`root` of each, NONE where there is none."""
        table = np.array([self.root(member) for member in range(len(self._parent))] + [NONE])
        return table[members]

    def free(self) -> list[int]:
        """The roots that can leave, in order."""
        roots = dict.fromkeys(self.root(member) for member in range(len(self._parent)))
        return [root for root in roots if root not in self._obstacles]

    @property
    def obstacle(self) -> tuple[str, ir.Node | None] | None:
        """Why the first of the members that cannot leave cannot, and the node that says so."""
        return next(iter(self._obstacles.values()), None)

    def reshape(
        self, dims: tuple[int, ...], axis: int, members: np.ndarray, new_dims: tuple[int, ...]
    ) -> dict[int, np.ndarray]:
        """Where members of one axis lie once its axes are arranged anew; those in one row leave together.

        Args:
            dims: sizes before.
            axis: the axis with the members.
            members: (dims[axis],) int.
            new_dims: sizes after, of the same product.

        Returns:
            the axis that holds them and its members.
        """
        view = [1] * len(dims)
        view[axis] = len(members)
        spread = np.broadcast_to(members.reshape(view), dims).reshape(new_dims)
        roots = self.roots(spread)
        candidates = [place for place, size in enumerate(new_dims) if size > 1] or [0]
        pure = [place for place in candidates if _only_along(roots, place)]
        place = pure[0] if pure else candidates[-1 if self.merge_last else 0]
        rows = np.moveaxis(spread, place, 0).reshape(new_dims[place], -1)
        made = np.full(len(rows), NONE)
        for index, row in enumerate(rows):
            inside = np.unique(row[row >= 0])
            if len(inside):
                made[index] = inside[0]
                self.join(inside[1:], [int(inside[0])] * (len(inside) - 1))
        return {place: made}

    def _reached(self, value: ir.Value, members: np.ndarray) -> None:
        maker = value.producer()
        if value.is_graph_output():
            self.hold(members, f"`{value.name}` is an output of the graph", maker)
        if value.is_graph_input():
            self.hold(members, f"`{value.name}` is an input of the graph", None)
        elif maker is None and not value.is_initializer():
            self.hold(members, f"`{value.name}` is made outside of the graph", None)
        for node in (*consumers(value), *([] if maker is None else [maker])):
            if node.graph is self.graph:
                self._waiting[node] = None
            else:
                self.hold(members, f"a body of a control flow reads `{value.name}`", node)


def _only_along(members: np.ndarray, axis: int) -> bool:
    rows = np.moveaxis(members, axis, 0).reshape(members.shape[axis], -1)
    return bool((rows == rows[:, :1]).all())
