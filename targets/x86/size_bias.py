"""Proportional attention's bias by one kernel."""

from __future__ import annotations

import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN, is_op
from edgec.passes.editing import Editor, producer, scalar, sizes
from edgec.passes.infra import MatchLog, Pass, register


@register
class SizeBiasKernel(Pass):
    """Make the bias of reduced tokens in one step, a row for each head.

    ::

        sizes (B,N,1) ── Max(floor) ── Log ── Reshape (B,1,1,N) ──┐
        scores (B,H,T,N) ──────────────────────────────────────── Add ── Softmax
        ⇒
        sizes ── ai.edgec::SizeBias(heads=H) ── (B,H,1,N) ──┐
        scores ──────────────────────────────────────────── Add ── Softmax

    In OpenVINO the three steps cost seven small ones in a bf16 graph, 17 µs a layer: conversions and
    the row for each head that its bf16 kernel needs (`x86.wide_bias`).
    """

    name = "x86.size_bias"
    after = ("decompose.attention",)
    before = ("x86.wide_bias",)

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Replace in place; attentions that share the sizes share the bias."""
        editor = Editor(model, self.name, log)
        made: dict[tuple[ir.Value, int, float], ir.Value] = {}
        for node in list(model.graph):
            added = producer(node.inputs[0], "Add") if is_op(node, "Softmax") else None
            if added is None:
                continue
            for index, bias in enumerate(added.inputs):
                shape = sizes(added.inputs[1 - index])
                found = _logarithm(bias)
                if found is None or shape is None or len(shape) != 4 or shape[1] is None:
                    continue
                assert bias is not None
                key = (*found[:1], shape[1], found[1])
                if key not in made:
                    made[key] = editor.node(
                        "SizeBias",
                        [found[0]],
                        like=added,
                        before=bias.producer(),
                        attributes={"heads": shape[1], "floor": found[1]},
                        domain=EDGEC_DOMAIN,
                        shape=[shape[0] or 1, shape[1], 1, shape[3] or 1],
                    )
                old = bias.producer()
                added.replace_input_with(index, made[key])
                assert old is not None
                editor.prune(old)
                log.matched(added)
                break


def _logarithm(bias: ir.Value | None) -> tuple[ir.Value, float] | None:
    """The sizes and the floor of a bias that is `Reshape(Log(Max(sizes, floor)))`; None where it is not."""
    shaped = producer(bias, "Reshape")
    logarithm = None if shaped is None else producer(shaped.inputs[0], "Log")
    bounded = None if logarithm is None else producer(logarithm.inputs[0], "Max")
    if bounded is None or len(bounded.inputs) != 2:
        return None
    source, floor = bounded.inputs[0], scalar(bounded.inputs[1])
    known, row = sizes(source), sizes(bias)
    if source is None or floor is None or known is None or row is None:
        return None
    fits = len(known) == 3 and known[2] == 1 and len(row) == 4 and row[1:3] == (1, 1) and row[0] == known[0]
    return (source, floor) if fits and source.dtype == ir.DataType.FLOAT else None
