"""RMSNormalization in primitive ops."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, attribute, rank
from edgec.passes.infra import MatchLog, Pass, register


@register
class DecomposeRmsNorm(Pass):
    """Write `RMSNormalization` as a mean of squares and a product.

    ::

        x ── RMSNormalization(γ, ε) ── y
        ⇒
        x ┬─ Mul(x, x) ── ReduceMean ── Add(ε) ── Sqrt ── Reciprocal ── Mul ── Mul(γ) ── y
          └────────────────────────────────────────────────────────────┘

    Computed in fp32 where the op asks for it (`stash_type`). Follows ONNX opset 23.
    """

    name = "decompose.rms_norm"
    enters = True

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite every `RMSNormalization` of known rank."""
        editor = Editor(model, self.name, log)
        for node in list(model.graph):
            if not is_op(node, "RMSNormalization"):
                continue
            if rank(node.inputs[0]) is None:
                log.missed(node, "the rank of its input is not known")
                continue
            _write(editor, node)
            log.matched(node)
            editor.prune(node)
        editor.remove_dead()


def _write(editor: Editor, node: ir.Node) -> None:
    value, gamma = node.inputs[0], node.inputs[1]
    assert value is not None
    assert gamma is not None
    dtype = value.dtype or ir.DataType.FLOAT
    inner = ir.DataType(attribute(node, "stash_type", 1))

    def cast(what: ir.Value, to: ir.DataType) -> ir.Value:
        if what.dtype == to:
            return what
        return editor.node("Cast", [what], like=node, attributes={"to": int(to)}, dtype=to, shape=what.shape)

    size = rank(value)
    assert size is not None
    first = attribute(node, "axis", -1) % size
    axes = editor.initializer(np.arange(first, size, dtype=np.int64), f"{node.name}/axes")
    epsilon = editor.initializer(
        np.asarray(attribute(node, "epsilon", 1e-5), dtype=inner.numpy()), f"{node.name}/epsilon"
    )
    wide = cast(value, inner)
    squares = editor.node("Mul", [wide, wide], like=node, shape=value.shape)
    mean = editor.node("ReduceMean", [squares, axes], like=node, attributes={"keepdims": 1})
    if value.shape is not None:
        mean.shape = ir.Shape([*value.shape[:first], *[1] * (size - first)])
    added = editor.node("Add", [mean, epsilon], like=node, shape=mean.shape)
    root = editor.node("Sqrt", [added], like=node, shape=mean.shape)
    inverse = editor.node("Reciprocal", [root], like=node, shape=mean.shape)
    normal = cast(editor.node("Mul", [wide, inverse], like=node, shape=value.shape), dtype)
    editor.replace(node.outputs[0], editor.node("Mul", [normal, gamma], like=node, shape=value.shape))
