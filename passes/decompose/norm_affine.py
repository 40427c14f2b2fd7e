"""The scale and shift of a LayerNorm, moved into the linear layers that read it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, attribute, constant, consumers, rank, sole_consumer
from edgec.passes.infra import MatchLog, Pass, register


@register
class DecomposeNormAffine(Pass):
    """Leave LayerNorm the normalising only, where linear layers alone read it.

    ::

        x ── LayerNormalization(γ, β) ── MatMul(W) ── Add(b) ── y
        ⇒
        x ── LayerNormalization(1, 0) ── MatMul(diag(γ)·W) ── Add(b + β·W) ── y

    For an engine whose normalisation kernel has no scale and shift, so that both cost a pass over the
    tensor. Exact up to the rounding of the weights, which is done once, in fp64.
    """

    name = "decompose.norm_affine"

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite every LayerNorm over the last axis with constant scale and shift."""
        editor = Editor(model, self.name, log)
        for node in list(model.graph):
            if is_op(node, "LayerNormalization") and _move(editor, node, log):
                log.matched(node)
        editor.remove_dead()


def _move(editor: Editor, node: ir.Node, log: MatchLog) -> bool:
    output = node.outputs[0]
    axis = attribute(node, "axis", -1)
    if axis != -1 and axis + 1 != rank(output):
        return False
    gamma = constant(node.inputs[1])
    shift = node.inputs[2] if len(node.inputs) > 2 else None
    beta = constant(shift)
    if gamma is None or (shift is not None and beta is None) or output.is_graph_output():
        return False
    if (gamma == 1).all() and (beta is None or (beta == 0).all()):
        return False
    linears = consumers(output)
    weights = [_weights(linear, output) for linear in linears]
    if not linears or any(weight is None for weight in weights):
        other = next(
            (linear for linear, weight in zip(linears, weights, strict=True) if weight is None), node
        )
        log.missed(node, f"{other.op_type} {other.name!r} reads it besides linear layers")
        return False
    for linear, weight in zip(linears, weights, strict=True):
        assert weight is not None
        wide = weight.astype(np.float64)
        scaled = (gamma.astype(np.float64)[:, None] * wide).astype(weight.dtype)
        linear.replace_input_with(1, editor.initializer(scaled, f"{linear.name}/scaled"))
        if beta is not None and beta.any():
            _add(editor, linear, beta.astype(np.float64) @ wide)
    node.replace_input_with(1, editor.initializer(np.ones_like(gamma), f"{node.name}/one"))
    if beta is not None:
        node.replace_input_with(2, editor.initializer(np.zeros_like(beta), f"{node.name}/zero"))
    return True


def _weights(linear: ir.Node, features: ir.Value) -> np.ndarray | None:
    if not is_op(linear, "MatMul") or linear.inputs[0] is not features:
        return None
    weight = constant(linear.inputs[1])
    return weight if weight is not None and weight.ndim == 2 else None


def _add(editor: Editor, linear: ir.Node, shift: np.ndarray) -> None:
    """Add a vector to a linear layer's output: to its bias where it has one."""
    output = linear.outputs[0]
    reader = sole_consumer(output)
    if is_op(reader, "Add"):
        assert reader is not None
        for index, value in enumerate(reader.inputs):
            bias = constant(value)
            if bias is not None and bias.ndim <= 1:
                summed = (bias.astype(np.float64) + shift).astype(bias.dtype)
                reader.replace_input_with(index, editor.initializer(summed, f"{linear.name}/shifted"))
                return
    dtype = (output.dtype or ir.DataType.FLOAT).numpy()
    bias_value = editor.initializer(shift.astype(dtype), f"{linear.name}/shift")
    product = editor.node("MatMul", linear.inputs, like=linear, shape=output.shape)
    editor.replace(output, editor.node("Add", [product, bias_value], like=linear, shape=output.shape))
    editor.prune(linear)
