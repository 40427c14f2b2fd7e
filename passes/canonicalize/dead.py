"""Remove what nobody reads."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedFunctionsPass, RemoveUnusedNodesPass, RemoveUnusedOpsetsPass

from edgec.passes.infra import MatchLog, Pass, register


@register
class Dead(Pass):
    """Remove nodes, weights, functions and opset imports that no output depends on.

    ::

        x ──┬── MatMul ── y                  x ── MatMul ── y
            └── Shape ── Gather        ⇒
        w (read by nobody)

    Optional outputs that nobody reads (the mean of a LayerNormalization, the mask of a Dropout)
    go too: several engines have no kernel that makes them.
    """

    name = "canonicalize.dead"
    after = ("canonicalize.settle", "canonicalize.sink_slice")

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Remove in place; a match is a removed node."""
        nodes = list(model.graph.all_nodes())
        RemoveUnusedNodesPass()(model)
        for node in nodes:
            if node.graph is None:
                log.matched(node)
        RemoveUnusedFunctionsPass()(model)
        RemoveUnusedOpsetsPass()(model)
