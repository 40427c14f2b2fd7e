"""Units that leave as a whole, branches, blocks and depth, and products that become low-rank."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import onnx_ir as ir

from edgec.core.dialect import is_op, source_layer
from edgec.passes.infra import MatchLog
from edgec.passes.slim.branches import Found, blocks, find_branches, stacks
from edgec.passes.slim.factors import weight_matrix
from edgec.passes.slim.layers import LINEAR, common_layer
from edgec.passes.slim.units import Names, Unit

LEAST_RANK = 8
"""Products with fewer inputs or outputs are not made thinner: two calls cost more than what they save."""


def find_wholes(graph: ir.Graph, names: Names, log: MatchLog) -> list[Unit]:
    """Whole branches, blocks of them, and stacks of blocks that can be cut in depth."""
    branches = find_branches(graph)
    units = []
    for branch in branches:
        units.append(_whole(branch.kind, branch.layer, [[branch]], names))
        log.matched(branch.add)
    for block in blocks(branches):
        if len(block) > 1:
            units.append(_whole("block", _shared(block), [block], names))
    for stack in stacks(branches):
        if len(stack) > 1:
            layer = _shared(list(itertools.chain(*stack)))
            units.append(_whole("depth", layer, stack, names))
    return units


def find_products(graph: ir.Graph, names: Names, log: MatchLog) -> list[Unit]:
    """Products of linear layers that two thinner ones can stand for."""
    units = []
    for node in graph:
        if not is_op(node, *LINEAR) or (matrix := weight_matrix(node)) is None:
            continue
        weight = node.inputs[1]
        assert weight is not None
        if min(matrix.shape) < LEAST_RANK:
            continue
        if len(weight.uses()) > 1:
            log.missed(node, f"rank: its weight `{weight.name}` is shared")
            continue
        layer = source_layer(node)
        units.append(Unit(names.take("rank", layer), "rank", layer, min(matrix.shape), node=str(node.name)))
    return units


def _whole(kind: str, layer: str, members: Sequence[Sequence[Found]], names: Names) -> Unit:
    ends = [[branch.zeros(number) for branch in each] for number, each in enumerate(members)]
    known = all(zeros for each in ends for zeros in each)
    slices = [extent for each in ends for zeros in each for extent in zeros] if known else []
    return Unit(
        names.take(kind, layer),
        kind,
        layer,
        len(members),
        slices=tuple(slices),
        branches=tuple(tuple(branch.branch for branch in each) for each in members),
    )


def _shared(branches: Sequence[Found]) -> str:
    return common_layer(branch.layer for branch in branches) or branches[0].layer
