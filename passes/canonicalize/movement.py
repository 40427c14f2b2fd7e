"""Rules for Transpose and Reshape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.core.op_traits import BROADCASTING, UNARY
from edgec.passes.canonicalize.identity import hand_on
from edgec.passes.editing import Editor, attribute, constant, producer, same_shape, sole_consumer

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""Ops that keep the order of the elements."""


def reshaped(
    editor: Editor,
    value: ir.Value,
    shape: Sequence[int | ir.SymbolicDim],
    *,
    like: ir.Node,
    before: ir.Node | None = None,
    after: ir.Node | None = None,
) -> ir.Value | None:
    """A Reshape of the value, or None where its shape cannot be written as a constant.

    One open size is -1; more are only possible where the value has the same size at the same place.
    """
    own = list(value.shape) if value.shape is not None else []
    if 0 in shape or (not own and shape):
        return None
    vector = [size if isinstance(size, int) else -1 for size in shape]
    if vector.count(-1) > 1:
        vector = [
            0 if size == -1 and axis < len(own) and own[axis] == shape[axis] else size
            for axis, size in enumerate(vector)
        ]
        if vector.count(-1) > 1 or any(
            isinstance(size, ir.SymbolicDim) and size.value is None for size in shape
        ):
            return None
    target = editor.initializer(np.array(vector, np.int64), f"{like.name or like.op_type}/shape")
    return editor.node(
        "Reshape",
        [value, target],
        like=like,
        before=before,
        after=after,
        shape=list(shape),
        dtype=value.dtype,
    )


def permutation(node: ir.Node) -> list[int] | None:
    """A Transpose's axes; None where neither they nor the rank are known."""
    perm = attribute(node, "perm")
    if perm is not None:
        return [int(axis) for axis in perm]
    value = node.inputs[0]
    return None if value is None or value.shape is None else list(range(len(value.shape)))[::-1]


def transposed(
    editor: Editor,
    value: ir.Value,
    perm: Sequence[int],
    *,
    like: ir.Node,
    before: ir.Node | None = None,
    after: ir.Node | None = None,
) -> ir.Value:
    """A Transpose of the value; the value itself where nothing moves."""
    if list(perm) == sorted(perm):
        return value
    shape = None if value.shape is None else [value.shape[axis] for axis in perm]
    return editor.node(
        "Transpose",
        [value],
        like=like,
        before=before,
        after=after,
        attributes={"perm": list(perm)},
        shape=shape,
        dtype=value.dtype,
    )


def as_reshape(editor: Editor, node: ir.Node) -> bool:
    """Flatten, Squeeze and Unsqueeze of known sizes are Reshapes."""
    value, out = node.inputs[0], node.outputs[0]
    if value is None or out.shape is None:
        return False
    made = reshaped(editor, value, list(out.shape), like=node)
    if made is None:
        return False
    editor.replace(out, made)
    return True


def reshape_of_reshape(editor: Editor, node: ir.Node) -> bool:
    """Of two Reshapes in turn the second says it all."""
    out = node.outputs[0]
    first = producer(node.inputs[0], *_RESHAPES)
    if first is None or out.shape is None or first.inputs[0] is None:
        return False
    origin = first.inputs[0]
    if same_shape(origin, out) and hand_on(editor, node, origin):
        return True
    made = reshaped(editor, origin, list(out.shape), like=node)
    if made is None:
        return False
    editor.replace(out, made)
    return True


def transpose_of_transpose(editor: Editor, node: ir.Node) -> bool:
    """Two Transposes in turn are one, or none."""
    first = producer(node.inputs[0], "Transpose")
    if first is None or first.inputs[0] is None:
        return False
    one, two = permutation(first), permutation(node)
    if one is None or two is None:
        return False
    perm = [one[axis] for axis in two]
    out = node.outputs[0]
    if perm == sorted(perm):
        return hand_on(editor, node, first.inputs[0])
    editor.replace(out, transposed(editor, first.inputs[0], perm, like=node))
    return True


def transpose_of_ones(editor: Editor, node: ir.Node) -> bool:
    """A Transpose that keeps the order of all axes larger than one moves no element."""
    perm, value, out = permutation(node), node.inputs[0], node.outputs[0]
    if perm is None or value is None or value.shape is None or out.shape is None:
        return False
    moved = [axis for axis in perm if value.shape[axis] != 1]
    if moved != sorted(moved) or perm == sorted(perm):
        return False
    made = reshaped(editor, value, list(out.shape), like=node)
    if made is None:
        return False
    editor.replace(out, made)
    return True


def ones_in_place(editor: Editor, node: ir.Node) -> bool:
    """Between a Reshape and its Transpose, axes of size one stand where the Transpose leaves them.

    `[1,197,192] → [197,3,64,1] → (3,1,0,2)` is written `[1,197,192] → [1,197,3,64] → (0,2,1,3)`, the
    form that engines know; only where more of the packed tensor's leading axes then stay in place.
    """
    perm, value = permutation(node), node.inputs[0]
    first = producer(value, "Reshape")
    if perm is None or first is None or value is None or value.shape is None or first.inputs[0] is None:
        return False
    if sole_consumer(value) is not node:
        return False
    shape = list(value.shape)
    order = iter(sorted(axis for axis in perm if shape[axis] != 1))
    wanted = [axis if shape[axis] == 1 else next(order) for axis in perm]
    better = [shape[axis] for axis in wanted]
    origin = list(first.inputs[0].shape or ())
    if _in_common(origin, better) <= _in_common(origin, shape):
        return False
    made = reshaped(editor, first.inputs[0], better, like=node)
    if made is None:
        return False
    new_perm = [wanted.index(axis) for axis in perm]
    editor.replace(node.outputs[0], transposed(editor, made, new_perm, like=node))
    return True


def _in_common(one: Sequence[int | ir.SymbolicDim], other: Sequence[int | ir.SymbolicDim]) -> int:
    """How many leading sizes agree."""
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def ones_before_transpose(editor: Editor, node: ir.Node) -> bool:
    """A Reshape that only drops axes of size one goes in front of the Transpose it follows.

    There it meets the Reshape that made those axes. Only where one is there to meet, or the node
    count would stay and nothing be gained.
    """
    transpose = producer(node.inputs[0], "Transpose")
    if transpose is None or sole_consumer(transpose.outputs[0]) is not node:
        return False
    perm, value, out = permutation(transpose), transpose.inputs[0], node.outputs[0]
    if perm is None or value is None or value.shape is None or out.shape is None:
        return False
    if producer(value, *_RESHAPES) is None and not is_op(value.producer(), "Split"):
        return False
    between = [value.shape[axis] for axis in perm]
    kept = _kept(between, list(out.shape))
    if kept is None or len(kept) == len(perm):
        return False
    source_axes = [perm[axis] for axis in kept]
    order = sorted(source_axes)
    smaller = reshaped(editor, value, [value.shape[axis] for axis in order], like=transpose, before=node)
    if smaller is None:
        return False
    made = transposed(
        editor, smaller, [order.index(axis) for axis in source_axes], like=transpose, before=node
    )
    editor.replace(out, made)
    return True


def _kept(shape: Sequence[int | ir.SymbolicDim], smaller: Sequence[int | ir.SymbolicDim]) -> list[int] | None:
    """The axes that are left when ones are dropped from a shape to get the smaller one; None if not so."""
    kept: list[int] = []
    rest = list(smaller)
    for axis, size in enumerate(shape):
        if rest and rest[0] == size and (size != 1 or len(shape) - axis - 1 < len(rest)):
            kept.append(axis)
            rest.pop(0)
        elif size != 1:
            return None
    if rest:
        return None
    return kept


def transpose_over_elementwise(editor: Editor, node: ir.Node) -> bool:
    """Carry a Transpose up over elementwise ops to the one that cancels it."""
    perm = permutation(node)
    chain: list[ir.Node] = []
    value = node.inputs[0]
    while value is not None:
        step = producer(value, *UNARY, *BROADCASTING)
        if step is None or sole_consumer(value) is not _next(chain, node):
            break
        source = _carried(step)
        if source is None:
            break
        chain.append(step)
        value = source
    first = producer(value, "Transpose")
    if perm is None or first is None or not chain or first.inputs[0] is None or value is None:
        return False
    one = permutation(first)
    if one is None or [one[axis] for axis in perm] != list(range(len(perm))):
        return False
    if sole_consumer(value) is not chain[-1] or len(perm) != len(value.shape or perm):
        return False
    current = first.inputs[0]
    for step in reversed(chain):
        out = step.outputs[0]
        inputs = [
            current if operand is _carried(step) else _moved(editor, operand, perm, step)
            for operand in step.inputs
        ]
        shape = None if out.shape is None else [out.shape[axis] for axis in perm]
        current = editor.node(
            step.op_type,
            inputs,
            like=step,
            before=node,
            attributes={name: attr.value for name, attr in step.attributes.items()},
            shape=shape,
            dtype=out.dtype,
        )
    editor.replace(node.outputs[0], current)
    return True


def _next(chain: Sequence[ir.Node], end: ir.Node) -> ir.Node:
    return chain[-1] if chain else end


def _carried(step: ir.Node) -> ir.Value | None:
    """The one operand of an elementwise node that is not constant, if it has the output's rank."""
    varying = [value for value in step.inputs if value is not None and constant(value) is None]
    if len(varying) != 1 or varying[0].shape is None or step.outputs[0].shape is None:
        return None
    return varying[0] if len(varying[0].shape) == len(step.outputs[0].shape) else None


def _moved(editor: Editor, operand: ir.Value | None, perm: Sequence[int], step: ir.Node) -> ir.Value | None:
    array = constant(operand)
    if array is None or array.ndim == 0 or operand is None or not is_op(step, *BROADCASTING):
        return operand
    full = array.reshape([1] * (len(perm) - array.ndim) + list(array.shape))
    return editor.initializer(full.transpose(list(perm)), f"{operand.name}_moved")
