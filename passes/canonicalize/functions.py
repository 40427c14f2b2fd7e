"""Inline the model's own functions."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from edgec.core.dialect import EDGEC_DOMAIN
from edgec.core.errors import RequestError
from edgec.passes.infra import MatchLog, Pass, register


@register
class Functions(Pass):
    """Replace every call of a model-local function by the function's body.

    ::

        x ── pkg::Block ── y       ⇒       x ── MatMul ── Add ── Gelu ── y

    Functions of `ai.edgec` stay calls: they are ops of the neutral dialect, and a target chooses
    between their kernels and their bodies. Inlined nodes take the calling node's source layer.
    """

    name = "canonicalize.functions"

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Inline in place.

        Raises:
            RequestError: a function calls itself, or imports another opset than the model.
        """
        for node in ir.traversal.RecursiveGraphIterator(model.graph):
            if node.op_identifier() in model.functions and node.domain != EDGEC_DOMAIN:
                log.matched(node)
        if not log.matches:
            return
        try:
            InlinePass(criteria=lambda function: function.domain != EDGEC_DOMAIN)(model)
        except (ValueError, ir.passes.PreconditionError) as error:
            raise RequestError(
                f"a function of the model cannot be inlined: {error}",
                fix="inline the model's functions before compiling it (onnx.inliner)",
            ) from error
