"""Linear layers in the rank whose bias OpenVINO's int8 product takes with it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, constant_tensor, producer, sizes
from edgec.passes.infra import MatchLog, Pass, register

_UNARY = ("Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "Relu", "Sigmoid", "Softplus", "Tanh")
_WITH_CONSTANT = ("Add", "Div", "Mul", "Sub")


@register
class FlatLinear(Pass):
    """Run linear layers over images as over sequences, with what follows them point by point.

    ::

        x [1,56,56,96] ── MatMul(W) ── Add(b) ── Gelu ── MatMul(V) ── Add(c) ── y [1,56,56,96]
        ⇒
        x ── Reshape [1,3136,96] ── MatMul(W) ── Add(b) ── Gelu ── MatMul(V) ── Add(c) ── Reshape ── y

    Above rank 3, OpenVINO 2026.4 leaves the bias of an int8 product and the activation behind it to kernels
    of their own, which take a quarter of EdgeNeXt's time. A Reshape moves nothing.
    """

    name = "x86.flat_linear"
    after = ("decompose.attention", "decompose.norm_affine", "x86.flat_norm")
    before = ("x86.blocked_linear",)

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Flatten every linear layer of known sizes and rank above 3, and what follows point by point."""
        editor = Editor(model, self.name, log)
        flat: dict[ir.Value, ir.Value] = {}
        flattened: set[ir.Node | None] = set()
        for node in list(model.graph):
            if _is_linear(node):
                _flatten_linear(editor, node, flat)
                flattened.add(node)
                log.matched(node)
            elif (place := _data_input(node)) is not None:
                before = node.inputs[place]
                follows = before is not None and before.producer() in flattened
                if follows and sizes(node.outputs[0]) == sizes(before):
                    _follow(editor, node, place, flat)
                    flattened.add(node)
        done = {value for value in flat if value.producer() in flattened}
        for value in done:
            left = [use for use in value.uses() if use.node not in flattened]
            if left or value.is_graph_output():
                _back(editor, value, flat[value])
        editor.remove_dead()


def _is_linear(node: ir.Node) -> bool:
    if not is_op(node, "MatMul"):
        return False
    weight, shape = constant_tensor(node.inputs[1]), sizes(node.inputs[0])
    return (
        weight is not None
        and len(weight.shape) == 2
        and shape is not None
        and len(shape) > 3
        and all(size is not None for size in shape)
    )


def _data_input(node: ir.Node) -> int | None:
    """Which input of a pointwise op is computed, where the others broadcast along the last axis only."""
    if is_op(node, *_UNARY):
        return 0
    if not is_op(node, *_WITH_CONSTANT):
        return None
    for place in (0, 1):
        tensor = constant_tensor(node.inputs[1 - place])
        if tensor is not None and all(size == 1 for size in tuple(tensor.shape)[:-1]):
            return place
    return None


def _flatten_linear(editor: Editor, node: ir.Node, flat: dict[ir.Value, ir.Value]) -> None:
    value, output = node.inputs[0], node.outputs[0]
    assert value is not None
    if value not in flat:
        flat_value = _peeled(value, _flat_shape(value))
        if flat_value is None:
            shape = _flat_shape(value)
            target = editor.initializer(np.asarray(shape, np.int64), f"{node.name}/flat")
            flat_value = editor.node("Reshape", [value, target], like=node, before=node, shape=shape)
        flat[value] = flat_value
    shape = [*_flat_shape(value)[:-1], (sizes(output) or (None,))[-1] or -1]
    flat[output] = editor.node("MatMul", [flat[value], node.inputs[1]], like=node, before=node, shape=shape)


def _follow(editor: Editor, node: ir.Node, place: int, flat: dict[ir.Value, ir.Value]) -> None:
    value, output = node.inputs[place], node.outputs[0]
    assert value is not None
    inputs = list(node.inputs)
    inputs[place] = flat[value]
    if len(inputs) == 2:
        other = constant_tensor(inputs[1 - place])
        assert other is not None
        if len(other.shape) > 1:
            narrow = other.numpy().reshape(-1)
            inputs[1 - place] = editor.initializer(narrow, f"{node.name}/constant")
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    flat[output] = editor.node(
        node.op_type,
        inputs,
        like=node,
        before=node,
        attributes=attributes,
        shape=_flat_shape(output),
    )


def _flat_shape(value: ir.Value) -> list[int]:
    shape = [size for size in sizes(value) or () if size is not None]
    return [shape[0], int(np.prod(shape[1:-1])), shape[-1]]


def _peeled(value: ir.Value, shape: list[int]) -> ir.Value | None:
    """What a Reshape in front made the value of, where that is flat already."""
    reshape = producer(value, "Reshape")
    before = reshape.inputs[0] if reshape is not None else None
    return before if before is not None and sizes(before) == tuple(shape) else None


def _back(editor: Editor, value: ir.Value, flattened: ir.Value) -> None:
    node = value.producer()
    assert node is not None
    shape = [size for size in sizes(value) or () if size is not None]
    target = editor.initializer(np.asarray(shape, np.int64), f"{node.name}/shape")
    restored = editor.node("Reshape", [flattened, target], like=node, before=node, shape=shape)
    editor.replace(value, restored)
