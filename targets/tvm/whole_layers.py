"""Linear layers and convolutions with the activation and the sum behind them, as one op each."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, attribute, constant, same_shape, sole_consumer
from edgec.passes.fuse.linear import linear
from edgec.passes.infra import MatchLog, Pass, register
from edgec.targets.tvm.dialect import CONVOLUTION, DOMAIN, LINEAR, activation_behind, declare


@register
class WholeLayers(Pass):
    """Give a product what follows it, so that its sums are finished while they are in registers.

    ::

        x ── MatMul(W) ── Add(b) ── Gelu ── y                 x ── Linear(W, b; gelu) ── y
        x ── MatMul(W) ── Add(b) ── Add(r) ── y       ⇒       x ── Linear(W, b, r) ── y
        x ── Conv(W, b) ── Sigmoid ── Mul(·, conv) ── y       x ── Convolution(W, b; silu) ── y

    The ops are this target's own (`ai.edgec.tvm`): the importer makes calls of kernels of them.
    """

    name = "tvm.whole_layers"
    after = ("decompose.attention", "decompose.quantised")

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite in place; a match is a layer."""
        declare(model)
        editor = Editor(model, self.name, log)
        for node in list(model.graph):
            if node.graph is None:
                continue
            if is_op(node, "MatMul"):
                _linear(editor, node, log)
            elif is_op(node, "Conv"):
                _convolution(editor, node, log)
        editor.remove_dead()


def _linear(editor: Editor, node: ir.Node, log: MatchLog) -> None:
    reader = sole_consumer(node.outputs[0])
    layer = linear(reader.outputs[0]) if reader is not None and is_op(reader, "Add") else None
    layer = layer if layer is not None and layer.matmul is node else linear(node.outputs[0])
    x = node.inputs[0]
    if layer is None or x is None:
        return
    if layer.weight.dtype != np.float32:
        log.missed(node, f"it is {layer.weight.dtype}")
        return
    weight = node.inputs[1]
    bias = np.zeros(0, np.float32) if layer.bias is None else layer.bias.astype(np.float32)
    values = [x, weight, editor.initializer(bias, f"{node.name}/bias")]
    _replace(editor, LINEAR, values, layer.output, {}, node)
    log.matched(node)


def _convolution(editor: Editor, node: ir.Node, log: MatchLog) -> None:
    weight = constant(node.inputs[1])
    if weight is None or weight.ndim != 4 or weight.dtype != np.float32:
        log.missed(node, "its weight is not a constant of four axes in fp32")
        return
    if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        log.missed(node, "its padding is left to the runtime")
        return
    held = node.inputs[2] if len(node.inputs) > 2 else None
    bias = held if held is not None else editor.initializer(np.zeros(0, np.float32), f"{node.name}/bias")
    attributes = {
        "strides": list(attribute(node, "strides") or (1, 1)),
        "pads": list(attribute(node, "pads") or (0, 0, 0, 0)),
        "dilations": list(attribute(node, "dilations") or (1, 1)),
        "group": attribute(node, "group", 1),
    }
    _replace(editor, CONVOLUTION, [node.inputs[0], node.inputs[1], bias], node.outputs[0], attributes, node)
    log.matched(node)


def _replace(
    editor: Editor,
    op_type: str,
    values: list[ir.Value | None],
    output: ir.Value,
    attributes: dict,
    like: ir.Node,
) -> None:
    """Put the op where its last input is there, in place of everything up to what it gives."""
    found = activation_behind(output)
    activation, output = found if found is not None else ("none", output)
    place = output.producer()
    total = sole_consumer(output)
    residual = None
    if total is not None and is_op(total, "Add"):
        other = next((value for value in total.inputs if value is not output), None)
        # An Add of a value with itself has no other.
        if (
            other is not None
            and constant(other) is None
            and same_shape(other, output)
            and other is not output
        ):
            residual, output, place = other, total.outputs[0], total
    assert place is not None
    if residual is not None:
        values = [*values, residual]
    made = editor.node(
        op_type,
        values,
        like=like,
        before=place,
        domain=DOMAIN,
        attributes={**attributes, "activation": activation},
        shape=None if output.shape is None else output.shape.copy(),
        dtype=output.dtype,
    )
    editor.replace(output, made)
