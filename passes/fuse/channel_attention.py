"""`fuse.channel_attention`: attention over channels becomes one op of edgec's own."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN
from edgec.passes.editing import Editor, constant
from edgec.passes.fuse.attention import each_site
from edgec.passes.fuse.attention_emit import Emitter, operand_type
from edgec.passes.fuse.attention_logits import name_of
from edgec.passes.fuse.attention_match import Site
from edgec.passes.fuse.attention_views import spread
from edgec.passes.fuse.axes import Layout
from edgec.passes.infra import MatchLog, Pass, Refusal, register
from edgec.plugins.ops.channel_attention.op import OP_TYPE


@register
class FuseChannelAttention(Pass):
    """Attention whose softmax runs over channels becomes one `ai.edgec::ChannelAttention`.

    Before (XCiT, EdgeNeXt, DaViT's channel blocks; C channels a head, N tokens)::

        q (B,H,C,N) ── L2 norm ──┐
        k (B,H,C,N) ── L2 norm ── Transpose ── MatMul ── Mul(temperature) ── Softmax ──┐
        v (B,H,C,N) ────────────────────────────────────────────────────────────── MatMul ── y (B,H,C,N)

    After::

        q ── L2 norm ─┐
        k ── L2 norm ─┼─ ChannelAttention ── y
        v ────────────┤
        temperature ──┘

    The op keeps passes that count tokens away from it: its rows are channels. That they are is proved
    from the projections (`features.feature_index`); where the projections do not tell, the attention
    is left to `fuse.attention`, whose op computes the same thing.
    """

    name = "fuse.channel_attention"
    after = ("canonicalize.constants", "canonicalize.shapes", "canonicalize.exporter", "fuse.attention")
    before = ("fuse.matmul_add",)

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Fuse every attention over channels."""
        editor = Editor(model, self.name, log)
        for site in each_site(model):
            if site.over != "channels":
                continue
            try:
                log.matched(_fuse(Emitter(editor, site), site))
            except Refusal as miss:
                log.missed(site.anchor, miss)
        editor.remove_dead()


def _fuse(emitter: Emitter, site: Site) -> ir.Node:
    if site.terms:
        raise Refusal(f"{name_of(site.terms[0].node)} masks or biases an attention over channels")
    if site.causal or site.softcap:
        raise Refusal("an attention over channels is causal or capped")
    dtype = operand_type(site.query)
    if site.precision not in (None, dtype):
        raise Refusal(f"the softmax over channels runs in {site.precision}, its product in {dtype}")
    inputs = emitter.inputs(grouped=False)
    temperature = _temperature(emitter, site, inputs.scale, dtype)
    made = emitter.editor.node(
        OP_TYPE,
        [inputs.query, inputs.key, inputs.value, temperature],
        like=site.anchor,
        before=site.end,
        domain=EDGEC_DOMAIN,
        shape=emitter.result_shape(),
        dtype=dtype,
    )
    node = made.producer()
    assert node is not None
    emitter.place(made)
    return node


def _temperature(emitter: Emitter, site: Site, scale: float, dtype: ir.DataType) -> ir.Value:
    """All that the product is multiplied by, as one tensor."""
    editor, like, before = emitter.editor, site.anchor, site.end
    total: ir.Value | None = None
    target: Layout = (site.batch, site.heads, site.rows, site.columns)
    for step, layout in site.multipliers:
        assert step.operand is not None
        own = emitter.aligned(step.operand, layout)
        tensor = spread(editor, site.axes, step.operand, own, target, like=like, before=before)
        array = constant(tensor)
        if step.kind == "divide":
            tensor = (
                editor.node("Reciprocal", [tensor], like=like, before=before, shape=tensor.shape)
                if array is None
                else editor.initializer(1 / array, "temperature")
            )
        total = tensor if total is None else editor.node("Mul", [total, tensor], like=like, before=before)
    name = f"{like.name or like.op_type}/temperature"
    factor = np.array(scale, dtype.numpy())
    if total is None:
        return editor.initializer(factor.reshape(1, 1, 1, 1), name)
    array = constant(total)
    if array is not None:
        return editor.initializer(array * factor, name)
    if scale == 1.0:
        return total
    return editor.node(
        "Mul", [total, editor.initializer(factor, name)], like=like, before=before, shape=total.shape
    )
