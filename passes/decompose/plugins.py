"""Ops of edgec's own domain, written out."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from edgec.core.dialect import EDGEC_DOMAIN
from edgec.passes.infra import MatchLog, Pass, register
from edgec.plugins.infra import plugins


@register
class DecomposePlugins(Pass):
    """Replace every op of `ai.edgec` by its function body, which is its definition.

    ::

        x ── ai.edgec::ChannelAttention ── y      ⇒      x ── MatMul ── Softmax ── MatMul ── y

    For an engine that has no kernel of its own for the op. The inlined nodes take the op's source layer.

    Args:
        keep: op types that the engine has kernels for; they stay as they are.
    """

    name = "decompose.plugins"

    def __init__(self, keep: frozenset[str] = frozenset()) -> None:
        self.keep = keep

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Inline in place."""
        known = plugins()
        calls = [
            node
            for node in model.graph.all_nodes()
            if node.domain == EDGEC_DOMAIN and node.op_type in known and node.op_type not in self.keep
        ]
        if not calls:
            return
        for node in calls:
            log.matched(node)
        for op_type in {node.op_type for node in calls}:
            function = known[op_type].function()
            model.functions[function.identifier()] = function
        InlinePass(criteria=lambda function: function.domain == EDGEC_DOMAIN)(model)
        for identifier in [key for key in model.functions if key[0] == EDGEC_DOMAIN]:
            del model.functions[identifier]
        if all(node.domain != EDGEC_DOMAIN for node in model.graph.all_nodes()):
            model.opset_imports.pop(EDGEC_DOMAIN, None)
