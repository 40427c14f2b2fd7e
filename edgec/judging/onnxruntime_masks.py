"""Masks that ONNX Runtime's `Attention` kernel (1.32, CPU) cannot take, or takes otherwise than ONNX does.

    mask (…, 1, keys) ─ Attention        ->        mask ─ Expand (…, queries, keys) ─ Attention

ONNX lets the mask broadcast; the kernel wants as many rows as there are queries.

    mask ─ Attention        ->        mask ─ Max(-1e38) ┐
                                      mask ─ IsInf ─ Where ─ Attention

A query all of whose keys have the least float32 added weighs them alike; the kernel gives it zeros, as it
should where they have -inf added.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.fuse.attention_mask import SWALLOWING_FILL

_MASK = 3


def has_foreign_masks(model: ir.Model) -> bool:
    """Whether any attention has such a mask."""
    return any(_is_single(node) or _may_be_lowest(node) for node in model.graph.all_nodes())


def adapt_masks(model: ir.Model) -> None:
    """Rewrite such masks in front of their attention, in place."""
    for node in list(model.graph.all_nodes()):
        if _may_be_lowest(node):
            _raise(node)
        if _is_single(node):
            _spread(node)


def _mask(node: ir.Node) -> ir.Value | None:
    return node.inputs[_MASK] if is_op(node, "Attention") and len(node.inputs) > _MASK else None


def _is_single(node: ir.Node) -> bool:
    mask = _mask(node)
    if mask is None or mask.shape is None or len(mask.shape) < 2:
        return False
    query = node.inputs[0]
    rows = None if query is None or query.shape is None else query.shape[-2]
    return mask.shape[-2] == 1 and rows != 1


def _may_be_lowest(node: ir.Node) -> bool:
    mask = _mask(node)
    if mask is None or mask.dtype != ir.DataType.FLOAT:
        return False
    if mask.const_value is None:
        return True
    values = mask.const_value.numpy()
    return bool(np.any(np.isfinite(values) & (values < SWALLOWING_FILL)))


def _raise(node: ir.Node) -> None:
    mask = node.inputs[_MASK]
    assert mask is not None
    least = ir.node("Constant", [], {"value": ir.tensor(np.array(SWALLOWING_FILL, np.float32))})
    raised = ir.node("Max", [mask, least.outputs[0]])
    infinite = ir.node("IsInf", [mask], {"detect_positive": 0})
    chosen = ir.node("Where", [infinite.outputs[0], mask, raised.outputs[0]])
    chosen.outputs[0].shape, chosen.outputs[0].type = mask.shape, mask.type
    graph = node.graph
    assert graph is not None
    graph.insert_before(node, [least, raised, infinite, chosen])
    node.replace_input_with(_MASK, chosen.outputs[0])


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
