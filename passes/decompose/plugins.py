"""Ops of edgec's own domain, written out."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from edgec.core.dialect import EDGEC_DOMAIN
from edgec.passes.infra import MatchLog, Pass, register
from edgec.plugins.infra import plugins

_HIDDEN = "kept:"


@register
class DecomposePlugins(Pass):
    """Replace every op of `ai.edgec` by its function body, which is its definition.

    ::

        x ── ai.edgec::ChannelAttention ── y      ⇒      x ── MatMul ── Softmax ── MatMul ── y

    For an engine that has no kernel of its own for the op. The inlined nodes take the op's source layer.

    Args:
        keep: op types that the engine has kernels for; they stay as they are.
        refused: of a node of such a type, why the kernel does not take it; empty where it does.
    """

    name = "decompose.plugins"

    def __init__(
        self, keep: frozenset[str] = frozenset(), refused: Callable[[ir.Node], str] | None = None
    ) -> None:
        self.keep, self.refused = keep, refused

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Inline in place."""
        known = plugins()
        calls: list[ir.Node] = []
        kept: list[ir.Node] = []
        for node in model.graph.all_nodes():
            if node.domain == EDGEC_DOMAIN and node.op_type in known:
                (kept if self._stays(node, log) else calls).append(node)
        if not calls:
            return
        for node in calls:
            log.matched(node)
        # The inliner goes by type: what stays hides under another one meanwhile.
        for node in kept:
            node.op_type = _HIDDEN + node.op_type
        try:
            self._inline(model, calls)
        finally:
            for node in kept:
                node.op_type = node.op_type.removeprefix(_HIDDEN)

    def _stays(self, node: ir.Node, log: MatchLog) -> bool:
        if node.op_type not in self.keep:
            return False
        reason = self.refused(node) if self.refused is not None else ""
        if reason:
            log.missed(node, reason)
        return not reason

    def _inline(self, model: ir.Model, calls: list[ir.Node]) -> None:
        known = plugins()
        for op_type in {node.op_type for node in calls}:
            function = known[op_type].function()
            model.functions[function.identifier()] = function
        InlinePass(criteria=lambda function: function.domain == EDGEC_DOMAIN)(model)
        for identifier in [key for key in model.functions if key[0] == EDGEC_DOMAIN]:
            del model.functions[identifier]
        if all(node.domain != EDGEC_DOMAIN for node in model.graph.all_nodes()):
            model.opset_imports.pop(EDGEC_DOMAIN, None)
