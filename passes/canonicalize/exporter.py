"""What exporters write differently, written in one way."""

from __future__ import annotations

import onnx_ir as ir

from edgec.passes.canonicalize import arithmetic, axes_form, linear_form
from edgec.passes.editing import Editor
from edgec.passes.infra import MatchLog, Pass, register
from edgec.passes.rules import Rules, rewrite


@register
class Exporter(Pass):
    """Bring what exporters spell differently to one form, so that each fusion matches it once.

    ::

        x ── Gemm(w, b, transB) ── y                 ⇒      x ── MatMul(wᵀ) ── Add b ── y
        x ── Einsum(bhqd,bhkd->bhqk) ── y            ⇒      x ── Transpose ── MatMul ── y
        c ── Add x · x - c · x / 8 · x^2             ⇒      x + c · x + (-c) · x · ⅛ · x · x
        x · (1 / y) · x^0.5 · 1 / x                  ⇒      x / y · Sqrt(x) · Reciprocal(x)
        min(max(x, a), b) · clip(x + 3, 0, 6) / 6    ⇒      Clip · HardSigmoid, with x HardSwish
        Softmax(axis=-1) · ReduceMean(axes=[-1])     ⇒      the same, axes counted from the front

               ┌── Slice [0:64]                                  ┌──
        qkv ───┼── Slice [64:128]                    ⇒   qkv ── Split ──
               └── Slice [128:192]                               └──

    A division by a constant becomes a product only where the inverse is exact (a power of two). The
    parts of a tensor become one Split only where they are all of it; single-index Gathers keep
    their missing axis by a Squeeze.
    """

    name = "canonicalize.exporter"
    enters = True
    after = ("canonicalize.constants", "canonicalize.identity")

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite in place."""
        rewrite(Editor(model, self.name, log), RULES)


def _merged(*tables: Rules) -> Rules:
    keys = {key for table in tables for key in table}
    return {key: [rule for table in tables for rule in table.get(key, ())] for key in sorted(keys)}


RULES = _merged(linear_form.RULES, arithmetic.RULES, axes_form.RULES)
