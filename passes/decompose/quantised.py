"""Files that are quantised already: Q/DQ pairs in primitive ops, for engines without kernels for them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, attribute, constant
from edgec.passes.infra import MatchLog, Pass, register

_FULL = ir.DataType.FLOAT


@register
class DecomposeQuantised(Pass):
    """Fold constants that are dequantised, and write Q/DQ pairs as the arithmetic that they stand for.

    ::

        bias (int32) ── DequantizeLinear ── Gemm             ⇒      bias (fp32) ── Gemm

        x ── QuantizeLinear(zero 5) ── DequantizeLinear ── y
        ⇒
        x ── Div(scale) ── Round ── Max(-128 - 5) ── Min(127 - 5) ── Mul(scale) ── y

    The answer is the file's, in fp32; engines that fuse the pairs into integer kernels round in other places.

    Args:
        symmetric: whether int8 pairs with a zero point of 0 stay, as TensorRT takes them (its documentation,
            "Working with Quantized Types"), and weights of that kind where the other operand of their product
            is quantised so too.
    """

    name = "decompose.quantised"

    def __init__(self, *, symmetric: bool = False) -> None:
        self.symmetric = symmetric

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite in place; a match is a folded constant or a pair that became arithmetic."""
        editor = Editor(model, self.name, log)
        found = [node for node in model.graph if is_op(node, "DequantizeLinear")]
        for node in found:
            if not (self.symmetric and _is_symmetric(node)) and _in_arithmetic(editor, node):
                log.matched(node)
        for node in found:
            stays = self.symmetric and _is_symmetric(node) and _multiplies_int8(node)
            array = None if stays else _dequantised(node)
            if array is not None:
                editor.replace(node.outputs[0], editor.initializer(array, f"{node.name}/folded"))
                log.matched(node)
        editor.remove_dead()


def has_pairs(model: ir.Model) -> bool:
    """Whether a model was quantised before edgec saw it."""
    return any(is_op(node, "QuantizeLinear", "DynamicQuantizeLinear") for node in model.graph)


def _is_symmetric(node: ir.Node) -> bool:
    """Whether a DequantizeLinear is of int8, with zero points of 0."""
    value = node.inputs[0]
    given = node.inputs[2] if len(node.inputs) > 2 else None
    zero = constant(given)
    centred = given is None or (zero is not None and not zero.any())
    return value is not None and value.dtype == ir.DataType.INT8 and centred


def _multiplies_int8(node: ir.Node) -> bool:
    """Whether a product reads dequantised weights, and its other operand is an int8 pair."""
    for use in node.outputs[0].uses():
        if not is_op(use.node, "MatMul", "Gemm", "Conv", "ConvTranspose") or use.idx > 1:
            return False
        other = use.node.inputs[1 - use.idx]
        maker = None if other is None else other.producer()
        if not is_op(maker, "DequantizeLinear"):
            return False
    return True


def _spread(array: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """Numbers by channel, so that they broadcast; one number as it is."""
    if array.size == 1:
        return array.reshape(())
    return array.reshape([-1 if place == axis % rank else 1 for place in range(rank)])


def _dequantised(node: ir.Node) -> np.ndarray | None:
    """What a constant DequantizeLinear gives; None where something is computed, or it goes by blocks."""
    array, scale = constant(node.inputs[0]), constant(node.inputs[1])
    if array is None or scale is None or attribute(node, "block_size", 0):
        return None
    given = node.inputs[2] if len(node.inputs) > 2 else None
    zero = constant(given)
    if given is not None and zero is None:
        return None
    axis, rank = attribute(node, "axis", 1), array.ndim
    wide = array.astype(np.float32)
    if zero is not None:
        wide = wide - _spread(zero.astype(np.float32), axis, rank)
    found: np.ndarray = (wide * _spread(scale.astype(np.float32), axis, rank)).astype(scale.dtype)
    return found


def _in_arithmetic(editor: Editor, node: ir.Node) -> bool:
    """Write a pair as arithmetic; False where it is none, or its steps are computed."""
    source = node.inputs[0]
    quantise = None if source is None else source.producer()
    if quantise is None or not is_op(quantise, "QuantizeLinear"):
        return False
    value, scale = quantise.inputs[0], constant(node.inputs[1])
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    same = [one is other for one, other in zip(quantise.inputs[1:], node.inputs[1:], strict=False)]
    if value is None or value.dtype != _FULL or scale is None or zero is None or not all(same):
        return False
    axis, rank = attribute(node, "axis", 1), len(value.shape or ())
    ends, middle = np.iinfo(zero.dtype), zero.astype(np.float32)

    def op(op_type: str, *inputs: ir.Value | np.ndarray) -> ir.Value:
        given = [
            one
            if isinstance(one, ir.Value)
            else editor.initializer(_spread(np.asarray(one), axis, rank), f"{node.name}/step")
            for one in inputs
        ]
        return editor.node(op_type, given, like=node, dtype=_FULL, shape=value.shape)

    steps = op("Round", op("Div", value, scale))
    steps = op("Min", op("Max", steps, ends.min - middle), ends.max - middle)
    editor.replace(node.outputs[0], op("Mul", steps, scale))
    return True
