"""Canonicalise what the fusions left."""

from __future__ import annotations

import onnx_ir as ir

from edgec.passes.canonicalize.constants import fold
from edgec.passes.canonicalize.identity import simplify
from edgec.passes.canonicalize.layout import arrange
from edgec.passes.editing import Editor
from edgec.passes.infra import MatchLog, Pass, register

_ROUNDS = 5


@register
class Settle(Pass):
    """Fold constants, remove identities and arrange data movement again, until nothing changes.

    ::

        q ── Reshape [197,3,64,1] ── Transpose (3,1,0,2) ── Attention
            ⇒      q ── Reshape [1,197,3,64] ── Transpose (0,2,1,3) ── Attention

    A fusion makes constants of constants, leaves a Transpose beside another, or computes a mask for
    each layer that all layers share. This is `canonicalize.constants`, `.shapes`, `.identity` and
    `.layout` once more; each is the same code under one name.
    """

    name = "canonicalize.settle"
    enters = True
    after = (
        "canonicalize.layout",
        "canonicalize.sink_slice",
        "fuse.attention",
        "fuse.channel_attention",
        "fuse.conv_batchnorm",
        "fuse.conv_branches",
        "fuse.gelu",
        "fuse.layer_norm",
        "fuse.matmul_add",
        "fuse.rms_norm",
        "fuse.rope",
        "fuse.silu",
        "fuse.stacked_sum",
    )

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite in place."""
        editor = Editor(model, self.name, log)
        for _ in range(_ROUNDS):
            before = len(log.matches)
            fold(editor)
            simplify(editor)
            arrange(editor)
            if len(log.matches) == before:
                break
