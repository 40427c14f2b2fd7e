"""Constant factors and offsets behind a linear layer folded into it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, constant
from edgec.passes.fuse.linear import linear, scale_linear
from edgec.passes.fuse.matching import as_vector, other_readers, with_constant
from edgec.passes.infra import MatchLog, Pass, register
from edgec.passes.rules import Rules, rewrite


@register
class MatMulAdd(Pass):
    """Fold what follows a linear layer into its weight and bias.

    ::

        x ── MatMul(w) ── Add b ── Mul c ── Add d ── y      ⇒      x ── MatMul(c·w) ── Add (c·b + d) ── y

    The factor must be one number an output (a layer scale, the temperature of a head); it goes only
    into a layer that nobody else reads, and a weight that another layer shares is copied. The result
    is computed in fp64 and rounded once. Two constants added in turn become one, wherever they are.
    """

    name = "fuse.matmul_add"
    enters = True
    after = (
        "canonicalize.constants",
        "canonicalize.identity",
        "canonicalize.exporter",
        "fuse.conv_batchnorm",
        # Attention reads the factors of queries and keys where they are.
        "fuse.attention",
        "fuse.channel_attention",
    )

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Fold in place; a match is a node that was folded."""
        rewrite(Editor(model, self.name, log), _RULES)


def _factor(editor: Editor, node: ir.Node) -> bool:
    found = with_constant(node, "Mul", "Div")
    layer = None if found is None else linear(found[0])
    if found is None or layer is None:
        return False
    array, out = constant(found[1]), node.outputs[0]
    assert array is not None
    vector = as_vector(array, layer.weight.shape[1], of_rank=_rank(found[0]))
    if vector is None or array.dtype != layer.weight.dtype:
        return False
    if is_op(node, "Div"):
        if not vector.all():
            return False
        vector = 1.0 / vector.astype(np.float64)
    for value, reader in zip([n.outputs[0] for n in layer.nodes], [*layer.nodes[1:], node], strict=True):
        reason = other_readers(value, reader)
        if reason is not None:
            editor.log.missed(node, reason)
            return False
    made = scale_linear(editor, layer, vector.astype(np.float64), None)
    editor.replace(out, made)
    return True


def _offset(editor: Editor, node: ir.Node) -> bool:
    """`(x + a) + b` is `x + (a + b)`, where the sum is no larger than one of the two."""
    found = with_constant(node, "Add")
    first = None if found is None else found[0].producer()
    inner = with_constant(first, "Add")
    if found is None or inner is None or first is None:
        return False
    one, two = constant(inner[1]), constant(found[1])
    assert one is not None
    assert two is not None
    if one.dtype != two.dtype or np.broadcast(one, two).size > max(one.size, two.size):
        return False
    reason = other_readers(found[0], node)
    if reason is not None:
        editor.log.missed(node, reason)
        return False
    out = node.outputs[0]
    total = editor.initializer(one + two, f"{first.name or 'Add'}/sum")
    made = editor.node("Add", [inner[0], total], like=first, before=node, shape=out.shape)
    editor.replace(out, made)
    return True


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)


_RULES: Rules = {"Mul": [_factor], "Div": [_factor], "Add": [_offset]}
