"""Norms of one tensor that became the same, computed once."""

from __future__ import annotations

import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, attribute, constant
from edgec.passes.infra import MatchLog, Pass, register


@register
class SharedNorm(Pass):
    """Let parallel branches read one LayerNormalization.

    ::

        x ─┬─ LayerNormalization(1, 0) ── MatMul(W)      ⇒      x ── LayerNormalization ─┬─ MatMul(W)
           └─ LayerNormalization(1, 0) ── MatMul(V)                                      └─ MatMul(V)

    Parallel branches (Three Things, arXiv 2203.09795) are trained with a norm each, whose scales and shifts
    differ; `decompose.norm_affine` moves those into the linear layers, and what is left of the norms is the
    same.
    """

    name = "x86.shared_norm"
    after = ("decompose.norm_affine",)

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Merge in place; a match is a norm that went."""
        editor = Editor(model, self.name, log)
        kept: dict[ir.Value, list[ir.Node]] = {}
        for node in list(model.graph):
            source = node.inputs[0] if is_op(node, "LayerNormalization") else None
            if source is None or any(value.uses() for value in node.outputs[1:]):
                continue
            first = next((other for other in kept.get(source, ()) if _same(node, other)), None)
            if first is None:
                if source in kept:
                    log.missed(node, f"its scale or shift is not that of {kept[source][0].name}")
                kept.setdefault(source, []).append(node)
            elif not node.outputs[0].is_graph_output():
                editor.replace(node.outputs[0], first.outputs[0])
                editor.prune(node)
                log.matched(first)


def _same(node: ir.Node, other: ir.Node) -> bool:
    defaults = {"axis": -1, "epsilon": 1e-5, "stash_type": 1}
    if any(attribute(node, key, value) != attribute(other, key, value) for key, value in defaults.items()):
        return False
    if len(node.inputs) != len(other.inputs):
        return False
    return all(_equal(mine, theirs) for mine, theirs in zip(node.inputs[1:], other.inputs[1:], strict=True))


def _equal(mine: ir.Value | None, theirs: ir.Value | None) -> bool:
    if mine is theirs:
        return True
    one, two = constant(mine), constant(theirs)
    if one is None or two is None:
        return False
    return one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()
