"""Attention by edgec's own blocked kernel, instead of the engine's products around a softmax."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN, is_op
from edgec.passes.editing import Editor, attribute, sizes
from edgec.passes.infra import MatchLog, Pass, register
from edgec.targets.x86.heads import HEADS_LAST, heads_last, turns_back

LONG = 192
"""Tokens from which the kernel is worth a measurement: shorter logits stay in the caches anyway."""


@register
class BlockedAttention(Pass):
    """Run self-attention as sequences of one length that lie end to end.

    Before::

        (B,N,H,D) ── Transpose ── q, k, v (B,H,N,D) ── Attention ── (B,H,N,D) ── Transpose ── (B,N,H,D)

    After::

        (B,N,H,D) ── Reshape ── q, k, v (B·N,H,D) ── VarlenAttention(0, N, 2N …) ── Reshape ── (B,N,H,D)

    The kernel never holds the logits of more than a tile of keys (FlashAttention, arXiv 2205.14135), so its
    memory does not grow with N, and it takes heads where the projections leave them: the transposes go.
    """

    name = "x86.blocked_attention"
    before = ("decompose.attention",)

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite every attention that the kernel can run."""
        editor = Editor(model, self.name, log)
        for node in list(model.graph):
            if not is_op(node, "Attention"):
                continue
            obstacle = _obstacle(node)
            if obstacle:
                log.missed(node, obstacle)
                continue
            _rewrite(editor, node)
            log.matched(node)
        editor.remove_dead()


def longest(model: ir.Model) -> int:
    """Tokens of the longest attention that the pass would rewrite; 0 where there is none."""
    lengths = (
        (sizes(node.inputs[0]) or [0] * 4)[2]
        for node in model.graph
        if is_op(node, "Attention") and not _obstacle(node)
    )
    return max((length or 0 for length in lengths), default=0)


def _obstacle(node: ir.Node) -> str:
    """Why the kernel cannot run an attention; empty where it can."""
    shapes = [sizes(value) for value in node.inputs[:3]]
    if any(shape is None or len(shape) != 4 or None in shape for shape in shapes):
        return "a size is open"
    if shapes[0] != shapes[1] or shapes[1] != shapes[2]:
        return "queries, keys and values differ in shape"
    if any(value is not None for value in node.inputs[3:]):
        return "it has a mask or a past"
    if attribute(node, "is_causal", 0) or attribute(node, "softcap", 0.0):
        return "it is causal or has a cap"
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        return "its logits or keys are read"
    if node.inputs[0] is None or node.inputs[0].dtype != ir.DataType.FLOAT:
        return "it is not fp32"
    return ""


def _rewrite(editor: Editor, node: ir.Node) -> None:
    # `_obstacle` has seen to it that no size is open.
    batch, heads, length, depth = (size or 0 for size in sizes(node.inputs[0]) or ())
    rows = editor.initializer(np.array([batch * length, heads, depth], np.int64), "rows_shape")
    operands = [
        editor.node(
            "Reshape",
            [heads_last(editor, node, value), rows],
            like=node,
            shape=[batch * length, heads, depth],
        )
        for value in node.inputs[:3]
        if value is not None
    ]
    ends = editor.initializer(np.arange(batch + 1, dtype=np.int32) * length, "cu_seqlens")
    mixed = editor.node(
        "VarlenAttention",
        [*operands, ends],
        like=node,
        domain=EDGEC_DOMAIN,
        attributes={"scale": attribute(node, "scale") or 0.0, "max_length": length},
        shape=[batch * length, heads, depth],
        dtype=ir.DataType.FLOAT,
    )
    shape = editor.initializer(np.array([batch, length, heads, depth], np.int64), "heads_last_shape")
    joined = editor.node("Reshape", [mixed, shape], like=node, shape=[batch, length, heads, depth])
    output = node.outputs[0]
    for use in list(output.uses()):
        if turns_back(use.node):
            editor.replace(use.node.outputs[0], joined)
    if output.uses() or output.is_graph_output():
        turned = editor.node(
            "Transpose",
            [joined],
            like=node,
            attributes={"perm": HEADS_LAST},
            shape=[batch, heads, length, depth],
        )
        editor.replace(output, turned)
