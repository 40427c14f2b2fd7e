"""Attention masks that hide tokens from everyone."""

from __future__ import annotations

import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import constant, sizes


def key_mask(mask: ir.Value) -> ir.Value | None:
    """The (…, 1, N) form of a mask that treats all queries alike, without heads; None if it does not."""
    while (inner := _same_mask(mask)) is not None:
        mask = inner
    shape = sizes(mask)
    if shape is None or any(size != 1 for size in shape[1:-1]) or len(shape) not in (2, 4):
        return None
    return mask


def _same_mask(mask: ir.Value) -> ir.Value | None:
    """What a mask only repeats, or joins with a constant that hides nothing."""
    node = mask.producer()
    if node is None or not is_op(node, "Expand", "Identity", "And", "Add"):
        return None
    if node.op_type in ("Expand", "Identity"):
        return node.inputs[0]
    hides_nothing = bool(node.op_type == "And")
    for one, other in (node.inputs, node.inputs[::-1]):
        joined = constant(one)
        if joined is not None and (joined == hides_nothing).all():
            return other
    return None
