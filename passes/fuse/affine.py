"""Folding constant factors and offsets behind a norm into its scale and bias."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, constant, sizes, sole_consumer
from edgec.passes.fuse.matching import other_readers, with_constant


def absorb_affine(editor: Editor, norm: ir.Node, shape: tuple[int, ...]) -> bool:
    """Fold one Mul or Add of a constant behind a norm into its Scale or B; whether it did.

    Args:
        editor: the editor.
        norm: a LayerNormalization (Mul and Add) or an RMSNormalization (Mul only).
        shape: shape of the norm's scale.
    """
    out = norm.outputs[0]
    reader = sole_consumer(out)
    found = with_constant(reader, "Mul", "Add") if reader is not None else None
    if reader is None or found is None:
        return False
    if is_op(reader, "Add") and not is_op(norm, "LayerNormalization"):
        return False
    array = _spread(constant(found[1]), shape, len(sizes(out) or ()))
    scale = constant(norm.inputs[1])
    bias = constant(norm.inputs[2]) if len(norm.inputs) > 2 and norm.inputs[2] is not None else None
    if (
        array is None
        or scale is None
        or (bias is None and len(norm.inputs) > 2 and norm.inputs[2] is not None)
    ):
        return False
    extra = other_readers(out, reader)
    if extra is not None or any(value.uses() for value in norm.outputs[1:]):
        editor.log.missed(norm, extra or "its mean or deviation is read")
        return False
    stem = norm.name or norm.op_type
    if is_op(reader, "Mul"):
        norm.replace_input_with(1, editor.initializer(scale * array, f"{stem}/scale"))
        if bias is not None:
            norm.replace_input_with(2, editor.initializer(bias * array, f"{stem}/bias"))
    else:
        total = array.copy() if bias is None else bias + array
        made = editor.initializer(total.astype(scale.dtype, copy=False), f"{stem}/bias")
        if len(norm.inputs) < 3:
            norm.resize_inputs(3)
        norm.replace_input_with(2, made)
    editor.replace(reader.outputs[0], out)
    editor.prune(reader)
    return True


def _spread(array: np.ndarray | None, shape: tuple[int, ...], rank: int) -> np.ndarray | None:
    """The constant over the scale's shape; None where it varies along another axis or adds axes."""
    if array is None or array.ndim > rank:
        return None
    lead = array.ndim - len(shape)
    if lead > 0:
        if any(size != 1 for size in array.shape[:lead]):
            return None
        array = array.reshape(array.shape[lead:])
    try:
        return np.ascontiguousarray(np.broadcast_to(array, shape))
    except ValueError:
        return None
