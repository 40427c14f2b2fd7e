"""`fuse.attention`: any attention over tokens becomes one `Attention`."""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor
from edgec.passes.fuse.assignments import drop_whole_assignments
from edgec.passes.fuse.attention_emit import Emitter, operand_type
from edgec.passes.fuse.attention_match import Site, read_softmax
from edgec.passes.fuse.attention_native import read_native
from edgec.passes.fuse.attention_shared import part_values
from edgec.passes.infra import MatchLog, Pass, Refusal, register

AXIS_KEY = "edgec.attention"
"""Metadata of an `Attention`: `tokens` where the projections prove that the softmax runs over tokens,
`unknown` where nothing tells (a pass that reduces tokens must then leave it alone)."""


def each_site(model: ir.Model, log: MatchLog | None = None) -> Iterator[Site]:
    """The attentions of the graph in order, softmaxes and native nodes; near misses go to the log.

    Each is read when its turn comes, so the graph may be edited at one before the next is asked for.
    """
    for node in list(model.graph):
        if not is_op(node, "Softmax", "Attention") or node.graph is None:
            continue
        try:
            site = read_softmax(node) if node.op_type == "Softmax" else read_native(node)
        except Refusal as miss:
            if log is not None:
                log.missed(node, miss)
            continue
        if site is not None:
            yield site


@register
class FuseAttention(Pass):
    """Any attention over tokens becomes one `Attention` with 4-D inputs.

    Before, in one of its many spellings::

        q ── Mul(1/√d) ──────────┐
        k ── Transpose ── Mul ── MatMul ── Add(bias) ── Where(mask, -inf) ── Softmax ──┐
        v ──────────────────────────────────────────────────────────────────────── MatMul ── y

    After::

        q (B,H,Sq,D) ─┐
        k (B,K,Sk,D) ─┼─ Attention(scale, is_causal) ── y (B,H,Sq,Dv)
        v (B,K,Sk,Dv) ┤
        mask ─────────┘

    The form is read, not matched: from each softmax back through scales, masks, casts and any data
    movement to the product that made its logits, and forward to the product it weighs, while every
    axis is followed (`axes.Axes`). What comes out is exact up to rounding, with one exception that
    the standard makes: a query all of whose keys are masked by -inf gives zeros, where an unguarded
    softmax gives NaN (see `attention_mask`).

    Probabilities that weigh several values (Zipformer) weigh them side by side, or are computed for each
    (`attention_shared`); those that the mask's condition sets to zero again are the mask's.

    Left alone, with the reason: probabilities or logits with another second consumer, heads that are mixed
    before or after the softmax, softmaxes over something else than a query-key product. Attention
    whose softmax runs over channels is left to `fuse.channel_attention`.
    """

    name = "fuse.attention"
    enters = True
    after = (
        "canonicalize.constants",
        "canonicalize.shapes",
        "canonicalize.identity",
        "canonicalize.layout",
        "canonicalize.exporter",
        "fuse.rope",
    )
    before = ("fuse.channel_attention", "fuse.matmul_add")

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Fuse every attention over tokens."""
        editor = Editor(model, self.name, log)
        drop_whole_assignments(editor)
        part_values(editor)
        for site in each_site(model, log):
            if site.over == "channels":
                continue
            try:
                node = _fuse(Emitter(editor, site), site)
            except Refusal as miss:
                log.missed(site.anchor, miss)
                continue
            node.metadata_props[AXIS_KEY] = site.over
            log.matched(node)
        editor.remove_dead()


def _element_type(site: Site) -> ir.DataType:
    """The type the attention runs in: the queries', or the softmax's where a mask is added in that."""
    dtype = operand_type(site.query)
    if site.precision in (None, dtype):
        return dtype
    for term in site.terms:
        added_after_cast = term.fill is None and term.node.outputs[0].dtype != dtype
        if added_after_cast or term.fill not in (None, -math.inf):
            return site.precision or dtype
    return dtype


def _fuse(emitter: Emitter, site: Site) -> ir.Node:
    dtype = _element_type(site)
    precision = site.precision or dtype
    mask = emitter.mask(dtype)
    inputs = emitter.inputs()
    emitter.multiplied(inputs)
    bias = mask.value
    inputs.query, inputs.key = emitter.cast(inputs.query, dtype), emitter.cast(inputs.key, dtype)
    inputs.value = emitter.cast(inputs.value, dtype)
    made = emitter.editor.node(
        "Attention",
        [inputs.query, inputs.key, inputs.value, *([] if bias is None else [bias])],
        like=site.anchor,
        before=site.end,
        attributes={
            "scale": inputs.scale,
            "is_causal": int(mask.causal or site.causal) or None,
            "softcap": site.softcap or None,
            "softmax_precision": int(precision) if precision != dtype else None,
        },
        shape=emitter.result_shape(),
        dtype=dtype,
    )
    node = made.producer()
    assert node is not None
    emitter.place(emitter.cast(made, operand_type(site.value)))
    return node
