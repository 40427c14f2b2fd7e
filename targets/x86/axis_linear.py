"""Linear layers over heads or other short axes, without turning the tensor."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, attribute, producer, sizes, sole_consumer
from edgec.passes.fuse.linear import Linear, linear
from edgec.passes.fuse.matching import other_readers
from edgec.passes.infra import MatchLog, Pass, register

_MOST = 64
"""Inputs and outputs up to this many: beyond, both engines multiply faster by a weight on the right, which
they have laid out beforehand, than the two turns take."""


@register
class AxisLinear(Pass):
    """Multiply by a small weight from the left, where a linear layer works along an axis before the last.

    ::

        x [1,4,196,196] ── Transpose (0,2,3,1) ── MatMul(W) ── Add(b) ── Transpose (0,3,1,2) ── y
        ⇒
        x ── Reshape [1,4,38416] ── MatMul(Wᵀ, ·) ── Add(b [4,1]) ── Reshape [1,4,196,196] ── y

    Talking heads (arXiv 2003.02436, CaiT) mix the heads of all scores before and behind the softmax. The
    weight is tiny; turning the scores there and back is what takes the time. The Reshapes move nothing.
    """

    name = "x86.axis_linear"
    after = ("decompose.attention",)
    before = ("x86.flat_linear", "x86.blocked_linear")

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite in place; a match is a linear layer."""
        editor = Editor(model, self.name, log)
        for node in list(model.graph):
            if node.graph is None or not is_op(node, "MatMul"):
                continue
            turned = producer(node.inputs[0], "Transpose")
            reader = sole_consumer(node.outputs[0])
            layer = linear(reader.outputs[0]) if reader is not None and is_op(reader, "Add") else None
            layer = layer or linear(node.outputs[0])
            if turned is None or layer is None or layer.matmul is not node:
                continue
            back = sole_consumer(layer.output)
            if back is None or not is_op(back, "Transpose"):
                continue
            axis = _axis(attribute(turned, "perm"), attribute(back, "perm"))
            if axis is None:
                continue
            reason = _obstacle(turned, layer, axis)
            if reason:
                log.missed(node, reason)
                continue
            _rewrite(editor, turned, layer, back, axis)
            log.matched(node)


def _axis(there: tuple[int, ...] | None, back: tuple[int, ...] | None) -> int | None:
    """The axis that one Transpose takes to the end and the other takes home; None where they do not."""
    if there is None or back is None or len(there) != len(back):
        return None
    last = len(there) - 1
    axis = there[last]
    moved = [*(place for place in range(last + 1) if place != axis), axis]
    if axis == last or list(there) != moved or [there[place] for place in back] != list(range(last + 1)):
        return None
    return axis


def _obstacle(turned: ir.Node, layer: Linear, axis: int) -> str | None:
    shared = other_readers(turned.outputs[0], layer.matmul)
    if shared is not None:
        return shared
    if max(layer.weight.shape) > _MOST:
        return f"its weight {list(layer.weight.shape)} is larger than {_MOST}"
    shape = sizes(turned.inputs[0])
    if shape is None or None in shape[axis + 1 :]:
        return f"the sizes of {turned.inputs[0].name} are open"  # type: ignore[union-attr]
    return None


def _rewrite(editor: Editor, turned: ir.Node, layer: Linear, back: ir.Node, axis: int) -> None:
    source, node = turned.inputs[0], layer.matmul
    assert source is not None
    assert source.shape is not None
    inputs, outputs = layer.weight.shape
    lead, rest = list(source.shape[:axis]), [int(size) for size in source.shape[axis + 1 :]]  # type: ignore[arg-type]
    count = int(np.prod(rest))
    stem = node.name or "MatMul"

    def shape(*numbers: int) -> ir.Value:
        # A zero keeps a size as it is, an open one too.
        return editor.initializer(np.array([*[0] * axis, *numbers], np.int64), f"{stem}/shape")

    def make(op_type: str, values: list[ir.Value], *numbers: int) -> ir.Value:
        return editor.node(
            op_type, values, like=node, before=back, shape=[*lead, *numbers], dtype=source.dtype
        )

    value = source if len(rest) == 1 else make("Reshape", [source, shape(inputs, count)], inputs, count)
    weight = editor.initializer(np.ascontiguousarray(layer.weight.T), f"{stem}/weight")
    value = make("MatMul", [weight, value], outputs, count)
    if layer.bias is not None:
        column = editor.initializer(layer.bias.astype(layer.weight.dtype)[:, None], f"{stem}/bias")
        value = make("Add", [value, column], outputs, count)
    if len(rest) > 1:
        value = make("Reshape", [value, shape(outputs, *rest)], outputs, *rest)
    editor.replace(back.outputs[0], value)
    editor.prune(back)
