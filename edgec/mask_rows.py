"""Masks with one row for all queries, as ONNX Runtime's `Attention` kernel cannot take them.

    mask (…, 1, keys) ─ Attention        ->        mask ─ Expand (…, queries, keys) ─ Attention

ONNX lets the mask broadcast; the kernel (1.32, CPU) wants as many rows as there are queries.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op

_MASK = 3


def has_single_rows(model: ir.Model) -> bool:
    """Whether any attention has such a mask."""
    return any(_is_single(node) for node in model.graph.all_nodes())


def spread_rows(model: ir.Model) -> None:
    """Expand such masks in front of their attention, in place."""
    for node in list(model.graph.all_nodes()):
        if _is_single(node):
            _spread(node)


def _is_single(node: ir.Node) -> bool:
    if not is_op(node, "Attention") or len(node.inputs) <= _MASK:
        return False
    mask = node.inputs[_MASK]
    if mask is None or mask.shape is None or len(mask.shape) < 2:
        return False
    query = node.inputs[0]
    rows = None if query is None or query.shape is None else query.shape[-2]
    return mask.shape[-2] == 1 and rows != 1


def _spread(node: ir.Node) -> None:
    mask, query = node.inputs[_MASK], node.inputs[0]
    assert mask is not None
    assert mask.shape is not None
    assert query is not None
    assert query.shape is not None
    at = len(query.shape) - 2
    rows = ir.node("Shape", [query], {"start": at, "end": at + 1})
    parts: list[ir.Value | None] = []
    made = [rows]
    if len(mask.shape) > 2:
        made.append(_ones(len(mask.shape) - 2))
        parts.append(made[-1].outputs[0])
    made.append(_ones(1))
    parts += [rows.outputs[0], made[-1].outputs[0]]
    shape = ir.node("Concat", parts, {"axis": 0})
    spread = ir.node("Expand", [mask, shape.outputs[0]])
    graph = node.graph
    assert graph is not None
    graph.insert_before(node, [*made, shape, spread])
    node.replace_input_with(_MASK, spread.outputs[0])


def _ones(count: int) -> ir.Node:
    return ir.node("Constant", [], {"value": ir.tensor(np.ones(count, np.int64))})
