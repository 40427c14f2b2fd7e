"""Attention over a cache in the one form that OpenVINO runs without copying the cache."""

from __future__ import annotations

import math

import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import attribute, rank, sizes
from edgec.passes.infra import MatchLog, Pass, Refusal, register

DOMAIN = "ai.edgec.x86"
"""Ops that live between this lowering and OpenVINO's reading of it."""

OP = "GroupedAttention"


@register
class CachedAttention(Pass):
    """Say attention as what `openvino_steps` makes one operation of.

    ::

        q, k, v(, mask) ── Attention(scale)    ⇒    q, k, v(, mask) ── GroupedAttention(scale, groups)

    OpenVINO's own reading of `Attention` repeats grouped keys with Tile and guards hidden rows with a Select:
    its CPU plugin then finds no cache in it, and copies keys and values in every step. `groups` are the heads
    of queries that share a head of keys.
    """

    name = "x86.cached_attention"
    after = ("decompose.plugins",)

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rename every attention of four-dimensional queries, keys and values."""
        for node in list(model.graph):
            if not is_op(node, "Attention"):
                continue
            try:
                scale, groups = _settings(node)
            except Refusal as refusal:
                log.missed(node, refusal)
                continue
            node.domain, node.op_type = DOMAIN, OP
            node.attributes.clear()
            node.attributes.add(ir.AttrFloat32("scale", scale))
            node.attributes.add(ir.AttrInt64("groups", groups))
            model.opset_imports[DOMAIN] = 1
            log.matched(node)


def _settings(node: ir.Node) -> tuple[float, int]:
    if len(node.inputs) not in (3, 4) or None in node.inputs or len(node.outputs) != 1:
        raise Refusal("it has a cache of its own")
    if attribute(node, "is_causal", 0) or attribute(node, "softcap", 0.0):
        raise Refusal("it hides keys or caps scores by an attribute")
    shapes = [sizes(value) for value in node.inputs[:3]]
    if any(rank(value) != 4 for value in node.inputs[:3]):
        raise Refusal("its queries, keys and values are not of four dimensions")
    _, queries, _, width = shapes[0] or (None,) * 4
    _, keys, _, _ = shapes[1] or (None,) * 4
    if not queries or not keys or not width or queries % keys:
        raise Refusal("its heads are not known")
    return float(attribute(node, "scale", 1 / math.sqrt(width))), queries // keys
