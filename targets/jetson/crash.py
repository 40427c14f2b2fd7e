"""Which node a builder crashes on: a crash says nothing, so the graph is cut shorter until it stays away."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir


def first_to_crash(model: ir.Model, crashes: Callable[[ir.Model], bool]) -> ir.Node:
    """The last node of the shortest beginning of a graph that crashes a builder, found by bisection.

    Args:
        model: a model that crashes it, its nodes in an order of execution.
        crashes: tries a model.
    """
    nodes = list(model.graph)
    low, high = 1, len(nodes)
    while low < high:
        middle = (low + high) // 2
        if crashes(beginning(model, middle)):
            high = middle
        else:
            low = middle + 1
    return nodes[low - 1]


def beginning(model: ir.Model, count: int) -> ir.Model:
    """The first nodes of a model as a model; what they make and none of them reads is its output."""
    copy = model.clone()
    copy.graph.outputs.clear()
    for node in reversed(list(copy.graph)[count:]):
        copy.graph.remove(node, safe=True)
    for node in copy.graph:
        copy.graph.outputs.extend(value for value in node.outputs if value.name and not value.uses())
    return copy
