"""Heads on the last axis but one, as the attention kernel and the products around it have them."""

from __future__ import annotations

import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, attribute

HEADS_LAST = [0, 2, 1, 3]
"""(B, H, N, D) to (B, N, H, D), and back."""


def heads_last(editor: Editor, like: ir.Node, value: ir.Value) -> ir.Value:
    """(B, N, H, D) of a (B, H, N, D): what a transpose made it from, else a transpose of it."""
    turn = value.producer()
    if turn is not None and turns_back(turn) and turn.inputs[0] is not None:
        return turn.inputs[0]
    # No shape: where padding goes, the value's own is of the padded form still.
    return editor.node("Transpose", [value], like=like, attributes={"perm": HEADS_LAST}, dtype=value.dtype)


def turns_back(node: ir.Node) -> bool:
    """Whether a node gives (B, N, H, D) of a (B, H, N, D), or the other way round."""
    return is_op(node, "Transpose") and list(attribute(node, "perm") or []) == HEADS_LAST
