"""Following the token axis through a graph.

Once a tensor in the middle of a network has fewer tokens, everything computed from it must. The survey
goes through the nodes in order and knows of every value whether it carries the token axis, and where;
`readers` tells what one node does with it. Where a node needs all tokens, they are restored first.
"""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from edgec.core.dialect import is_op, source_layer
from edgec.passes.editing import constant, rank
from edgec.passes.tokens.readers import Obstacle, leading_cut, read


@dataclasses.dataclass
class Survey:
    """What a sweep met.

    Attributes:
        singled: leading tokens that must be protected.
        restores: the nodes that need all tokens, with reasons, in order.
        refusal: why the tokens cannot be reduced here at all; None where they can.
        products: how many products with weights take fewer rows.
        attentions: the attentions whose keys are fewer.
    """

    singled: int = 0
    restores: list[tuple[ir.Node, str]] = dataclasses.field(default_factory=list)
    refusal: str | None = None
    products: int = 0
    attentions: list[ir.Node] = dataclasses.field(default_factory=list)


def nodes_after(graph: ir.Graph, node: ir.Node) -> list[ir.Node]:
    """The nodes behind a node, in order."""
    nodes = list(graph)
    return nodes[nodes.index(node) + 1 :]


def survey(graph: ir.Graph, stream: ir.Value) -> Survey:
    """What would happen if `stream` (B, N, C) had fewer tokens; changes nothing."""
    found = Survey()
    carries: dict[ir.Value, int] = {stream: 1}
    anchor = stream.producer()
    assert anchor is not None
    assert stream.shape is not None
    for node in nodes_after(graph, anchor):
        if not any(value in carries for value in node.inputs if value is not None):
            continue
        try:
            step = read(node, carries)
        except Obstacle as obstacle:
            reason = str(obstacle)
            blocked = next(
                (
                    value
                    for value in node.inputs
                    if value in carries and value is not None and not restorable(value, carries[value])
                ),
                None,
            )
            if blocked is not None:
                found.refusal = f"{node.op_type} of {source_layer(node)}: {reason}"
                return found
            found.restores.append((node, reason))
            found.singled = max(found.singled, leading_cut(node, carries))
            continue
        carries.update(step.carries)
        found.singled = max(found.singled, step.singled)
        found.products += _is_product(node)
        if is_op(node, "Attention") and node.inputs[1] in carries:
            found.attentions.append(node)
    return found


def restorable(value: ir.Value, axis: int) -> bool:
    """Whether `TokenRestore` can be put behind the value: rank 3, tokens in axis 1 or 2."""
    return rank(value) == 3 and axis in (1, 2)


def _is_product(node: ir.Node) -> bool:
    return is_op(node, "MatMul", "Gemm") and any(
        value is not None and constant(value) is not None for value in node.inputs
    )
