"""Parting a packed tensor where it was packed."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgec.passes.canonicalize.movement import permutation, reshaped, transposed
from edgec.passes.editing import Editor, attribute, constant, producer, sizes, sole_consumer


def split_before_movement(editor: Editor, node: ir.Node) -> bool:
    """Carry a Split up over a Transpose and a Reshape to an axis of the packed tensor.

    `[…, parts·inner] → Reshape […, parts, inner] → Transpose → Split(parts)` takes a run of
    `inner` numbers for each part, so it is a Split of the packed axis into `sizes·inner`.
    """
    source, axis = node.inputs[0], int(attribute(node, "axis", 0))
    lengths = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    transpose = producer(source, "Transpose")
    reshape = producer(source if transpose is None else transpose.inputs[0], "Reshape")
    if source is None or lengths is None or reshape is None or axis < 0:
        return False
    if sole_consumer(source) is not node or sole_consumer(reshape.outputs[0]) not in (transpose, node):
        return False
    perm = None if transpose is None else permutation(transpose)
    if transpose is not None:
        if perm is None:
            return False
        axis = perm[axis]
    packed, wide = reshape.inputs[0], sizes(reshape.outputs[0])
    narrow = sizes(packed)
    if packed is None or packed.shape is None or narrow is None or wide is None:
        return False
    place = _packed_axis(narrow, wide, axis)
    if place is None:
        return False
    packed_axis, inner = place
    vector = editor.initializer(lengths.astype(np.int64) * inner, f"{node.name or 'Split'}/sizes")
    made = editor.node(
        "Split",
        [packed, vector],
        like=node,
        attributes={"axis": packed_axis},
        outputs=len(node.outputs),
        dtype=packed.dtype,
    )
    split = made.producer()
    assert split is not None
    middle = list(reshape.outputs[0].shape or ())
    for old, part, length in zip(node.outputs, split.outputs, lengths.tolist(), strict=True):
        shape = list(packed.shape)
        shape[packed_axis] = length * inner
        part.shape, part.type = ir.Shape(shape), packed.type
        middle[axis] = length
        new = reshaped(editor, part, middle, like=node)
        if new is None:
            return False
        if perm is not None:
            new = transposed(editor, new, perm, like=node)
        editor.replace(old, new)
    return True


def _packed_axis(
    narrow: tuple[int | None, ...], wide: tuple[int | None, ...], axis: int
) -> tuple[int, int] | None:
    """Which axis of the packed shape the axis is the outermost factor of, and how many numbers each takes."""
    for packed_axis, size in enumerate(narrow):
        if size is None or _larger(narrow[:packed_axis]) != _larger(wide[:axis]):
            continue
        product = 1
        for end in range(axis, len(wide)):
            product *= wide[end] or 0
            if product == size and _larger(wide[end + 1 :]) == _larger(narrow[packed_axis + 1 :]):
                return packed_axis, math.prod(number or 0 for number in wide[axis + 1 : end + 1])
    return None


def _larger(shape: tuple[int | None, ...]) -> list[int | None]:
    """The sizes other than one."""
    return [size for size in shape if size != 1]
