"""Linear layers and convolutions as things whose outputs and inputs can be scaled and shifted."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, attribute, constant, producer
from edgec.passes.fuse.matching import as_vector, with_constant


@dataclasses.dataclass(frozen=True)
class Linear:
    """`MatMul(x, weight) [+ bias]` with a constant weight of two axes, `[inputs, outputs]`.

    Attributes:
        matmul: the MatMul.
        add: the Add of a bias that is one number an output, where there is one.
        weight: the weight.
        bias: the bias as a vector, None where there is none.
    """

    matmul: ir.Node
    add: ir.Node | None
    weight: np.ndarray
    bias: np.ndarray | None

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """MatMul and Add."""
        return (self.matmul,) if self.add is None else (self.matmul, self.add)

    @property
    def output(self) -> ir.Value:
        """The layer's result."""
        return self.nodes[-1].outputs[0]


def linear(value: ir.Value | None) -> Linear | None:
    """The linear layer that makes the value, if one does."""
    node = producer(value, "MatMul", "Add")
    if node is None:
        return None
    add, bias = None, None
    if is_op(node, "Add"):
        found = with_constant(node, "Add")
        matmul = producer(found[0], "MatMul") if found is not None else None
        if found is None or matmul is None:
            return None
        add, node, bias = node, matmul, constant(found[1])
    weight = constant(node.inputs[1])
    if weight is None or weight.ndim != 2 or constant(node.inputs[0]) is not None:
        return None
    if add is not None:
        shape = node.outputs[0].shape
        assert bias is not None
        bias = as_vector(bias, weight.shape[1], of_rank=None if shape is None else len(shape))
        if bias is None:
            return None
    return Linear(node, add, weight, bias)


def scale_linear(editor: Editor, layer: Linear, scale: np.ndarray, shift: np.ndarray | None) -> ir.Value:
    """Make the layer compute `scale · layer + shift`; the value that now does.

    Weights are made anew, in fp64 and rounded once, so that other readers of the old ones keep them.
    """
    matmul, dtype = layer.matmul, layer.weight.dtype
    stem = matmul.name or "MatMul"
    weight = (layer.weight.astype(np.float64) * scale).astype(dtype)
    matmul.replace_input_with(1, editor.initializer(weight, f"{stem}/weight"))
    bias = np.zeros(scale.shape) if layer.bias is None else layer.bias.astype(np.float64) * scale
    if layer.bias is None and shift is None:
        return layer.output
    made = editor.initializer((bias if shift is None else bias + shift).astype(dtype), f"{stem}/bias")
    return _set_bias(editor, layer, made)


def scale_linear_inputs(
    editor: Editor, layer: Linear, scale: np.ndarray, shift: np.ndarray | None
) -> ir.Value:
    """Make the layer compute `layer(scale · x + shift)`, one number an input; the value that now does."""
    matmul, dtype = layer.matmul, layer.weight.dtype
    wide = layer.weight.astype(np.float64)
    weight = (wide * scale.reshape(-1, 1)).astype(dtype)
    matmul.replace_input_with(1, editor.initializer(weight, f"{matmul.name or 'MatMul'}/weight"))
    if shift is None:
        return layer.output
    bias = shift @ wide if layer.bias is None else shift @ wide + layer.bias
    return _set_bias(editor, layer, editor.initializer(bias.astype(dtype), f"{matmul.name or 'MatMul'}/bias"))


def _set_bias(editor: Editor, layer: Linear, bias: ir.Value) -> ir.Value:
    if layer.add is not None:
        layer.add.replace_input_with(1 if constant(layer.add.inputs[1]) is not None else 0, bias)
        return layer.output
    out = layer.matmul.outputs[0]
    readers = list(out.uses())
    made = editor.node("Add", [out, bias], like=layer.matmul, after=layer.matmul, shape=out.shape)
    for node, index in readers:
        node.replace_input_with(index, made)
    return made


def weight_of(node: ir.Node) -> np.ndarray | None:
    """The constant weight of a Conv or ConvTranspose whose bias is constant too."""
    if not is_op(node, "Conv", "ConvTranspose"):
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and constant(bias) is None:
        return None
    return constant(node.inputs[1])


def output_channels(node: ir.Node, weight: np.ndarray) -> int:
    """The output channels of a Conv (weight [M, C/g, …]) or ConvTranspose (weight [C, M/g, …])."""
    if is_op(node, "Conv"):
        return weight.shape[0]
    return weight.shape[1] * int(attribute(node, "group", 1))


def scale_convolution(editor: Editor, node: ir.Node, scale: np.ndarray, shift: np.ndarray | None) -> None:
    """Make a convolution compute `scale · convolution + shift`, one number a channel, in place."""
    weight = weight_of(node)
    assert weight is not None
    stem, dtype = node.name or node.op_type, weight.dtype
    wide = weight.astype(np.float64)
    if is_op(node, "Conv"):
        wide *= scale.reshape(-1, *[1] * (weight.ndim - 1))
    else:
        groups = int(attribute(node, "group", 1))
        grouped = wide.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        grouped *= scale.reshape(groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
        wide = grouped.reshape(weight.shape)
    old = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    node.replace_input_with(1, editor.initializer(wide.astype(dtype), f"{stem}/weight"))
    if old is None and shift is None:
        return
    bias = np.zeros(scale.shape) if old is None else old.astype(np.float64) * scale
    made = editor.initializer((bias if shift is None else bias + shift).astype(dtype), f"{stem}/bias")
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, made)
