"""GELU in primitive ops."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, attribute
from edgec.passes.infra import MatchLog, Pass, register


@register
class DecomposeGelu(Pass):
    """Write `Gelu` as the error function or the tangent that it stands for.

    ::

        x ── Gelu ── y            ⇒   x ── Mul(1/√2) ── Erf ── Add(1) ── Mul(x) ── Mul(½) ── y
        x ── Gelu(tanh) ── y      ⇒   x ── √(2/π)·(x + 0.044715·x³) ── Tanh ── Add(1) ── Mul(x) ── Mul(½) ── y

    For engines whose ONNX is older than opset 20. Both forms as in Hendrycks and Gimpel, "Gaussian
    Error Linear Units", arXiv 1606.08415.
    """

    name = "decompose.gelu"
    enters = True

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite every `Gelu`."""
        editor = Editor(model, self.name, log)
        for node in list(model.graph):
            if is_op(node, "Gelu"):
                _write(editor, node)
                log.matched(node)
                editor.prune(node)
        editor.remove_dead()


def _write(editor: Editor, node: ir.Node) -> None:
    value = node.inputs[0]
    assert value is not None
    dtype = (value.dtype or ir.DataType.FLOAT).numpy()

    def op(op_type: str, *inputs: ir.Value) -> ir.Value:
        return editor.node(op_type, inputs, like=node, shape=value.shape)

    def number(what: float) -> ir.Value:
        return editor.initializer(np.asarray(what, dtype=dtype), f"{node.name}/number")

    if attribute(node, "approximate", "none") == "tanh":
        cube = op("Mul", op("Mul", value, value), value)
        inner = op("Add", value, op("Mul", cube, number(0.044715)))
        curve = op("Tanh", op("Mul", inner, number(math.sqrt(2.0 / math.pi))))
    else:
        curve = op("Erf", op("Mul", value, number(math.sqrt(0.5))))
    weighted = op("Mul", value, op("Add", curve, number(1.0)))
    editor.replace(node.outputs[0], op("Mul", weighted, number(0.5)))
