"""SiLU in one form."""

from __future__ import annotations

import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, consumers, producer, same_shape, sole_consumer
from edgec.passes.fuse.matching import with_scalar
from edgec.passes.infra import MatchLog, Pass, register


@register
class Silu(Pass):
    """Bring SiLU to `Mul(x, Sigmoid(x))`.

    ::

        x ── Neg ── Exp ── Add 1 ──┐
        x ──────────────────────  Div ── y          x ── Sigmoid ──┐
                                              ⇒     x ──────────  Mul ── y
        x ── Sigmoid ── Mul(·, x) ── y

    ONNX has no op for it before opset 24, and every engine recognises this product. A product that
    is already in this form counts as a match (Elfwing et al., arXiv:1702.03118).
    """

    name = "fuse.silu"
    enters = True
    after = ("canonicalize.identity", "canonicalize.exporter", "fuse.gelu")

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite in place; a match is a SiLU of the resulting graph."""
        editor = Editor(model, self.name, log)
        for node in editor.graph:
            if is_op(node, "Exp"):
                _from_exp(editor, node)
        for node in editor.graph:
            if is_op(node, "Sigmoid"):
                _order(editor, node)


def _order(editor: Editor, gate: ir.Node) -> None:
    x, out = gate.inputs[0], gate.outputs[0]
    assert x is not None
    for product in consumers(out):
        if product.graph is not editor.graph or not is_op(product, "Mul") or x not in product.inputs:
            continue
        editor.log.matched(gate)
        if product.inputs[0] is not x:
            product.replace_input_with(0, x)
            product.replace_input_with(1, out)


def _from_exp(editor: Editor, node: ir.Node) -> None:
    """`v / (1 + exp(-x))` is `v · sigmoid(x)`, for any v."""
    negated = producer(node.inputs[0], "Neg")
    total = sole_consumer(node.outputs[0])
    if negated is None or total is None or with_scalar(total, "Add") != (node.outputs[0], 1.0):
        return
    x, sum_ = negated.inputs[0], total.outputs[0]
    quotient = sole_consumer(sum_)
    if quotient is None or not same_shape(x, sum_):
        return
    if is_op(quotient, "Reciprocal"):
        value = None
    elif is_op(quotient, "Div") and quotient.inputs[1] is sum_:
        value = quotient.inputs[0]
    else:
        return
    made = editor.node("Sigmoid", [x], like=node, before=quotient, shape=sum_.shape)
    if value is not None:
        made = editor.node("Mul", [value, made], like=node, before=quotient, shape=quotient.outputs[0].shape)
    if value is not x:
        editor.log.matched(node)
    editor.replace(quotient.outputs[0], made)
    editor.prune(quotient)
