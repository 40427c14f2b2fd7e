"""LayerNormalization in primitive ops, for engines that do not know the op."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, attribute, rank
from edgec.passes.infra import MatchLog, Pass, register


@register
class DecomposeLayerNorm(Pass):
    """Write `LayerNormalization` as exporters wrote it before opset 17.

    ::

        x ── LayerNormalization(γ, β) ── y
        ⇒
        x ┬─ ReduceMean ── Sub ┬─ Mul(·,·) ── ReduceMean ── Add(ε) ── Sqrt ── Div ── Mul(γ) ── Add(β) ── y
          └────────────────┘   └───────────────────────────────────────────────┘

    For engines whose ONNX is older than opset 17; it is the form that their own fusions look for.
    """

    name = "decompose.layer_norm"
    enters = True

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite every `LayerNormalization` of known rank whose mean and deviation nobody reads."""
        editor = Editor(model, self.name, log)
        for node in list(model.graph):
            if not is_op(node, "LayerNormalization"):
                continue
            if rank(node.inputs[0]) is None:
                log.missed(node, "the rank of its input is not known")
            elif any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
                log.missed(node, "its mean or deviation is read")
            else:
                _write(editor, node)
                log.matched(node)
                editor.prune(node)
        editor.remove_dead()


def _write(editor: Editor, node: ir.Node) -> None:
    value = node.inputs[0]
    assert value is not None
    size = rank(value)
    assert size is not None
    first = attribute(node, "axis", -1) % size
    axes = editor.initializer(np.arange(first, size, dtype=np.int64), f"{node.name}/axes")
    dtype = (value.dtype or ir.DataType.FLOAT).numpy()
    epsilon = editor.initializer(
        np.asarray(attribute(node, "epsilon", 1e-5), dtype=dtype), f"{node.name}/epsilon"
    )
    small = None if value.shape is None else ir.Shape([*value.shape[:first], *[1] * (size - first)])

    def op(op_type: str, *inputs: ir.Value, shape: ir.Shape | None) -> ir.Value:
        return editor.node(op_type, inputs, like=node, shape=shape)

    mean = op("ReduceMean", value, axes, shape=small)
    centred = op("Sub", value, mean, shape=value.shape)
    variance = op("ReduceMean", op("Mul", centred, centred, shape=value.shape), axes, shape=small)
    deviation = op("Sqrt", op("Add", variance, epsilon, shape=small), shape=small)
    result = op("Div", centred, deviation, shape=value.shape)
    for op_type, parameter in zip(("Mul", "Add"), node.inputs[1:], strict=False):
        if parameter is not None:
            result = op(op_type, result, parameter, shape=value.shape)
    editor.replace(node.outputs[0], result)
