"""Following the token axis through a graph.

Once a tensor in the middle of a network has fewer tokens, everything computed from it must. A `Flow` goes
through the nodes in order and knows of every value whether it carries the token axis, and where; `readers`
tells what one node does with it. Where a node needs all tokens, they are restored first.

A network may have several sequences of tokens: two towers, the stages of a pyramid, a decoder beside an
encoder. Which reductions a value has behind it is what `Flow.chains` tells; nothing else counts tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TypeVar

import onnx_ir as ir

from edgec.core.dialect import is_op, source_layer
from edgec.passes.editing import attribute, constant, consumers, rank, sizes
from edgec.passes.tokens.readers import Obstacle, Pick, Step, leading_cut, read, split_picks

Level = TypeVar("Level")
"""What tells a value's tokens from another's of the same sequence."""

Chain = tuple[int, ...]
"""The reductions that a value's tokens have gone through since all of them were there, in order."""


@dataclasses.dataclass
class Survey:
    """What a sweep met.

    Attributes:
        singled: leading tokens that must be protected.
        heard: leading tokens that are read by their place for what the network gives: class tokens.
        restores: the nodes that need all tokens, with reasons, in order.
        refusal: why the tokens cannot be reduced here at all; None where they can.
        products: how many products with weights take fewer rows.
        attentions: the attentions whose keys are fewer.
    """

    singled: int = 0
    heard: frozenset[int] = frozenset()
    restores: list[tuple[ir.Node, str]] = dataclasses.field(default_factory=list)
    refusal: str | None = None
    products: int = 0
    attentions: list[ir.Node] = dataclasses.field(default_factory=list)


def pass_on(
    node: ir.Node, carries: Mapping[ir.Value, tuple[int, Level]]
) -> tuple[Step, dict[ir.Value, tuple[int, Level]]]:
    """What the node does with the token axis, and which of its outputs carry it, at which level.

    Args:
        node: one of whose inputs carries tokens at least.
        carries: by value, the token axis and the level.

    Raises:
        Obstacle: it needs all tokens.
    """
    mine = {value: carries[value] for value in node.inputs if value in carries}  # type: ignore[index]
    step = read(node, {value: axis for value, (axis, _) in mine.items()})  # type: ignore[misc]
    if is_op(node, "Attention"):
        query, key, value = node.inputs[:3]
        if key in mine and mine[key][1] != mine[value][1]:
            raise Obstacle("its keys and its values have different tokens")
        mine = {each: found for each, found in mine.items() if each is query}
    levels = [level for _, level in mine.values()]
    if any(level != levels[0] for level in levels):
        raise Obstacle("its inputs have different tokens")
    return step, {value: (axis, levels[0]) for value, axis in step.carries.items()}


class Flow:
    """The token axis in one graph, which must not be edited as long as this is asked.

    Args:
        graph: the graph.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._nodes = list(graph)
        self._place = {node: place for place, node in enumerate(self._nodes)}
        self._chains: dict[object, dict[ir.Value, Chain]] = {}
        self._heard: dict[ir.Value, frozenset[int]] = {}

    def survey(self, stream: ir.Value) -> Survey:
        """What would happen if `stream` (B, N, C) had fewer tokens."""
        found = Survey()
        carries: dict[ir.Value, tuple[int, int]] = {stream: (1, 0)}
        picks: list[Pick] = []
        for node in self._behind(stream):
            if any(value in carries for value in _captured(node)):
                found.refusal = f"{node.op_type} of {source_layer(node)}: a body of it reads tokens"
                return found
            mine = [value for value in node.inputs if value in carries]
            if not mine:
                continue
            try:
                step, made = pass_on(node, carries)
            except Obstacle as obstacle:
                reason = str(obstacle)
                if not all(restorable(value, carries[value][0]) for value in mine if value is not None):
                    found.refusal = f"{node.op_type} of {source_layer(node)}: {reason}"
                    return found
                axes = {value: carries[value][0] for value in mine if value is not None}
                found.restores.append((node, reason))
                found.singled = max(found.singled, leading_cut(node, axes))
                picks += split_picks(node, axes)
                continue
            carries.update(made)
            found.singled = max(found.singled, step.singled)
            picks += step.picks
            found.products += _is_product(node)
            if is_op(node, "Attention") and node.inputs[1] in carries:
                found.attentions.append(node)
        for value in self._graph.outputs:
            if value in carries and not restorable(value, carries[value][0]):
                found.refusal = f"the output {value.name!r} needs all tokens, which cannot be restored there"
        found.heard = frozenset(row for pick in picks for row in self._rows_heard(pick))
        return found

    def chains(self, reduced: Mapping[ir.Value, int], restored: ir.Value | None) -> dict[ir.Value, Chain]:
        """Which reductions each value has behind it; a value that is missing has none.

        Args:
            reduced: the streams whose tokens are reduced, each with the reduction's number. A stream's own
                chain is the one in front of that.
            restored: the stream where all tokens are restored, where there is one.

        Raises:
            Obstacle: reduced tokens meet others where they cannot be restored; names the node.
        """
        key = (frozenset(reduced.items()), restored)
        if key not in self._chains:
            self._chains[key] = self._follow(reduced, restored)
        return self._chains[key]

    def _follow(self, reduced: Mapping[ir.Value, int], restored: ir.Value | None) -> dict[ir.Value, Chain]:
        found: dict[ir.Value, Chain] = {}
        carries: dict[ir.Value, tuple[int, Chain]] = {}
        for node in self._nodes:
            mine = [value for value in node.inputs if value in carries]
            if mine:
                try:
                    carries.update(pass_on(node, carries)[1])
                except Obstacle as obstacle:
                    if not all(restorable(value, carries[value][0]) for value in mine if value is not None):
                        raise Obstacle(f"{node.op_type} of {source_layer(node)}: {obstacle}") from None
            for value in node.outputs:
                if value in carries:
                    found[value] = carries[value][1]
                if value is restored:
                    carries.pop(value, None)
                elif value in reduced:
                    carries[value] = (1, (*found.get(value, ()), reduced[value]))
        return found

    def _behind(self, value: ir.Value) -> list[ir.Node]:
        node = value.producer()
        return self._nodes if node is None else self._nodes[self._place[node] + 1 :]

    def _rows_heard(self, pick: Pick) -> list[int]:
        """The rows of a pick that reach an output, alone or with others, otherwise than among all tokens.

        A row that is only set aside while the others are treated, and put in front of them again, is heard
        where its place in the sequence that is put together is.
        """
        waiting, seen = [pick.value], {pick.value}
        heard: set[int] = set()
        while waiting:
            value = waiting.pop()
            if value.is_graph_output():
                return list(pick.rows)
            for node in consumers(value):
                first = self._joined_at(node, value)
                if first is not None:
                    whole = self._heard_in(node.outputs[0])
                    heard.update(row for place, row in enumerate(pick.rows) if first + place in whole)
                    continue
                for output in node.outputs:
                    if output not in seen:
                        seen.add(output)
                        waiting.append(output)
        return sorted(heard)

    def _heard_in(self, sequence: ir.Value) -> frozenset[int]:
        if sequence not in self._heard:
            self._heard[sequence] = self.survey(sequence).heard
        return self._heard[sequence]

    def _joined_at(self, node: ir.Node, value: ir.Value) -> int | None:
        """Where a Concat puts a value's tokens in a sequence that later attention sees; None elsewhere."""
        shape = sizes(node.outputs[0])
        if not is_op(node, "Concat") or attribute(node, "axis") not in (1, -2) or len(shape or ()) != 3:
            return None
        counts = [(sizes(each) or (None, None))[1] for each in node.inputs[: node.inputs.index(value)]]
        if None in counts or not self._attends(node.outputs[0]):
            return None
        return sum(count or 0 for count in counts)

    def _attends(self, value: ir.Value) -> bool:
        """Whether a later attention's keys are computed from a value."""
        reached = {value}
        for node in self._behind(value):
            if is_op(node, "Attention") and node.inputs[1] in reached:
                return True
            if any(each in reached for each in node.inputs):
                reached.update(node.outputs)
        return False


def restorable(value: ir.Value, axis: int) -> bool:
    """Whether `TokenRestore` can be put behind the value: rank 3, tokens in axis 1 or 2."""
    return rank(value) == 3 and axis in (1, 2)


def _captured(node: ir.Node) -> Iterator[ir.Value]:
    """What the bodies of an If or a Loop read of the graph around them, and more."""
    for given in node.attributes.values():
        if given.type == ir.AttributeType.GRAPH:
            body = given.as_graph()
            yield from body.outputs
            for inner in body.all_nodes():
                yield from (value for value in inner.inputs if value is not None)


def _is_product(node: ir.Node) -> bool:
    return is_op(node, "MatMul", "Gemm") and any(
        value is not None and constant(value) is not None for value in node.inputs
    )
