"""Residual branches: what a network adds to its stream, and can do without."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN, is_op, source_layer
from edgec.core.op_traits import CONTRACTION, MOVEMENT, POOLING, ZERO_PRESERVING
from edgec.passes.editing import rank, same_shape, sizes
from edgec.passes.slim.layers import LINEAR, common_layer, is_pointwise, is_weight
from edgec.passes.slim.units import Branch, Extent

_WORK = CONTRACTION | POOLING


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """One residual branch of a graph.

    Attributes:
        add: the Add that ends it.
        skip: index of the input that is the way around.
        nodes: what only the branch computes.
        kind: `attention`, `mlp_block` or `conv_block`.
        layer: the layer of the user's model that it is told by.
    """

    add: ir.Node
    skip: int
    nodes: frozenset[ir.Node]
    kind: str
    layer: str

    @property
    def branch(self) -> Branch:
        """As a unit keeps it."""
        return Branch(str(self.add.outputs[0].name), self.skip)

    def zeros(self, member: int) -> list[Extent]:
        """The constants that make the branch zero where they are; empty where its end is of another form."""
        return [
            Extent(str(value.name), 0, np.full((sizes(value) or (0,))[0] or 0, member))
            for value in _last_constants(self.add.inputs[1 - self.skip])
        ]


def find_branches(graph: ir.Graph) -> list[Found]:
    """The residual branches, in the graph's order.

    A branch ends in an Add. What only it computes has a layer with weights or a pooling, and starts from what
    the Add's other input is made of.
    """
    found = []
    nodes = list(graph)
    for place, node in enumerate(nodes):
        if not is_op(node, "Add") or node.inputs[0] is node.inputs[1]:
            continue
        for skip in (0, 1):
            around, end = node.inputs[skip], node.inputs[1 - skip]
            if around is None or end is None or not same_shape(around, node.outputs[0]):
                continue
            own = _only_for(nodes[:place], end, node)
            if any(_works(each) for each in own) and _starts_from(own, around):
                found.append(Found(node, skip, frozenset(own), _kind(own), _layer(own)))
                break
    return found


def blocks(branches: list[Found]) -> list[tuple[Found, ...]]:
    """The branches in blocks: those behind one another up to an MLP are one; a lone one is its own."""
    before = _predecessors(branches)
    made: list[tuple[Found, ...]] = []
    used: set[Found] = set()
    for last in branches:
        if last.kind != "mlp_block" or last in used:
            continue
        run = [last]
        while (earlier := before.get(run[0])) and earlier.kind != "mlp_block" and earlier not in used:
            run.insert(0, earlier)
        used |= set(run)
        made.append(tuple(run))
    made += [(alone,) for alone in branches if alone not in used]
    place = {branch: index for index, branch in enumerate(branches)}
    return sorted(made, key=lambda block: place[block[0]])


def stacks(branches: list[Found]) -> list[list[tuple[Found, ...]]]:
    """The blocks of each stream of one size, where they stand behind one another."""
    before = _predecessors(branches)
    found: list[list[tuple[Found, ...]]] = []
    for block in blocks(branches):
        earlier = before.get(block[0])
        stack = next((stack for stack in found if stack[-1][-1] is earlier), None)
        if stack is None:
            found.append([block])
        else:
            stack.append(block)
    return found


def _only_for(earlier: list[ir.Node], end: ir.Value, add: ir.Node) -> list[ir.Node]:
    """The nodes that nobody needs once the Add does not read `end`."""
    own: dict[ir.Node, None] = {}
    waiting = {end.producer()}
    for node in reversed(earlier):
        if node not in waiting:
            continue
        if any(value.is_graph_output() for value in node.outputs):
            continue
        uses = [(value, use.node) for value in node.outputs for use in value.uses()]
        if any(reader not in own and not (reader is add and value is end) for value, reader in uses):
            continue
        own[node] = None
        waiting |= {value.producer() for value in node.inputs if value is not None}
    return list(own)


def _works(node: ir.Node) -> bool:
    if node.domain == EDGEC_DOMAIN:
        return is_op(node, "ChannelAttention", domain=EDGEC_DOMAIN)
    return node.op_type in _WORK


def _starts_from(own: list[ir.Node], around: ir.Value) -> bool:
    inside = set(own)
    starts = [
        value
        for node in own
        for value in node.inputs
        if value is not None and value.producer() not in inside and not value.is_initializer()
    ]
    stream = set(_stream(around))
    return any(value in stream for start in dict.fromkeys(starts) for value in _stream(start))


def _stream(value: ir.Value) -> Iterator[ir.Value]:
    """A value and what it was before, up to the nearest layers with weights."""
    seen: set[ir.Value] = set()
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if each in seen or each.is_initializer():
            continue
        seen.add(each)
        yield each
        maker = each.producer()
        if maker is not None and not _works(maker):
            waiting += [given for given in maker.inputs if given is not None]


def _kind(own: Iterable[ir.Node]) -> str:
    kinds = {"mlp_block"}
    for node in own:
        if is_op(node, "Attention", "Softmax") or node.domain == EDGEC_DOMAIN:
            return "attention"
        if is_op(node, "MatMul") and not any(is_weight(value) for value in node.inputs):
            return "attention"
        if node.op_type in POOLING or (is_op(node, *LINEAR) and not is_pointwise(node)):
            kinds.add("conv_block")
    return "conv_block" if "conv_block" in kinds else "mlp_block"


def _layer(own: Iterable[ir.Node]) -> str:
    working = [source_layer(node) for node in own if _works(node)]
    return common_layer(working) or working[-1]


def _predecessors(branches: list[Found]) -> dict[Found, Found]:
    """For each branch the nearest one in front, on the way around it, in a stream of as many elements."""
    by_sum = {branch.add.outputs[0]: (place, branch) for place, branch in enumerate(branches)}
    found: dict[Found, Found] = {}
    for branch in branches:
        around = branch.add.inputs[branch.skip]
        assert around is not None
        earlier = [by_sum[value] for value in _stream(around) if value in by_sum]
        near = max(earlier, key=lambda item: item[0], default=None)
        if near is not None and _elements(near[1].add.outputs[0]) == _elements(branch.add.outputs[0]):
            found[branch] = near[1]
    return found


def _elements(value: ir.Value) -> tuple[int, list[str]]:
    """How many elements a value has: the product of its sizes, and the open ones."""
    shape = value.shape
    assert shape is not None
    return (
        math.prod(size for size in shape if isinstance(size, int)),
        sorted(str(size) for size in shape if not isinstance(size, int)),
    )


def _moved_whole(node: ir.Node) -> ir.Value | None:
    """What a Concat puts together again, where all its parts are of one value; None otherwise."""
    sources = set()
    for value in node.inputs:
        while value is not None and (maker := value.producer()) is not None:
            if maker.op_type not in MOVEMENT - {"Concat"}:
                break
            value = maker.inputs[0]
        sources.add(value)
    return sources.pop() if len(sources) == 1 else None


def _last_constants(value: ir.Value | None) -> list[ir.Value]:
    """The constants of a branch's last layer: all that it makes is zero where they are."""
    found: list[ir.Value] = []
    while value is not None and (node := value.producer()) is not None:
        given = [each for each in node.inputs if each is not None]
        constants = [each for each in given if each.is_initializer() and rank(each)]
        if is_op(node, "Mul", "LayerNormalization", "RMSNormalization", "MatMul", "Gemm") or (
            is_op(node, "Conv", "ConvTranspose")
        ):
            return found + constants if constants else []
        if is_op(node, "BatchNormalization"):
            return found + constants[:2]
        if is_op(node, "Add") and len(given) == 2 and len(constants) == 1:
            found += constants
            value = next(each for each in given if each is not constants[0])
        elif is_op(node, "Concat"):
            value = _moved_whole(node)
        elif node.op_type in MOVEMENT or node.op_type in ZERO_PRESERVING:
            value = node.inputs[0]
        else:
            return []
    return []
