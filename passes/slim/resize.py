"""What a node says of the sizes of its values, after some of their entries have left."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, attribute, constant, rank, sizes
from edgec.passes.slim.movement_rules import paddings, taken
from edgec.passes.slim.rules import head_counts

Kept = dict[ir.Value, dict[int, np.ndarray]]
"""By value and axis, (size of the axis before,) bool: which entries stay."""


def resize(editor: Editor, node: ir.Node, kept: Kept) -> None:
    """Mend a node's attributes and shape constants; its values still have their shapes of before."""
    mend = _MENDS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if mend is not None:
        mend(editor, node, kept)


def _mask(value: ir.Value | None, axis: int, kept: Kept) -> np.ndarray | None:
    return None if value is None else kept.get(value, {}).get(axis)


def _size(value: ir.Value, axis: int, kept: Kept) -> int | None:
    mask = _mask(value, axis, kept)
    return (sizes(value) or ())[axis] if mask is None else int(mask.sum())


def _ints(editor: Editor, node: ir.Node, index: int, numbers: np.ndarray | list[int], what: str) -> None:
    """Give a node an int64 constant of its own."""
    value = editor.initializer(np.array(numbers, np.int64), f"{node.name}/{what}")
    node.replace_input_with(index, value)


def _shape(editor: Editor, node: ir.Node, kept: Kept) -> None:
    """Reshape and Expand: the sizes that they make."""
    out = node.outputs[0]
    shape = constant(node.inputs[1])
    if shape is None or out not in kept:
        return
    shape = shape.copy()
    first = (rank(out) or 0) - len(shape)  # an Expand may leave leading axes out
    for axis in kept[out]:
        place = axis - first
        # An Expand leaves a 1 to its operand's size, a Reshape finds a -1 by itself.
        if place >= 0 and shape[place] != (1 if is_op(node, "Expand") else -1):
            shape[place] = _size(out, axis, kept)
    _ints(editor, node, 1, shape, "shape")


def _split(editor: Editor, node: ir.Node, kept: Kept) -> None:
    axis = int(attribute(node, "axis", 0)) % (rank(node.inputs[0]) or 1)
    if _mask(node.inputs[0], axis, kept) is None:
        return
    numbers = [_size(out, axis, kept) or 0 for out in node.outputs]
    node.attributes.pop("num_outputs", None)
    if len(node.inputs) < 2:
        node.resize_inputs(2)
    _ints(editor, node, 1, numbers, "sizes")


def _slice(editor: Editor, node: ir.Node, kept: Kept) -> None:
    """A run that stays one ends elsewhere; anything else becomes a Gather."""
    data = node.inputs[0]
    assert data is not None
    bounds: list[tuple[int, int, int, int]] = []
    for axis, size in enumerate(sizes(data) or ()):
        index = taken(node, axis)
        assert index is not None
        mask = _mask(data, axis, kept)
        if mask is not None:
            places = np.cumsum(mask) - 1
            index = places[index[mask[index]]]
            size = int(mask.sum())
        if size is None or np.array_equal(index, np.arange(size)):
            continue
        steps = set(np.diff(index).tolist()) or {1}
        assert len(steps) == 1, "members leave a slice with a step as a whole"
        step = steps.pop()
        start, stop = int(index[0]), int(index[-1]) + step
        bounds.append((start, stop if stop >= 0 else -size - 1, axis, step))
    node.resize_inputs(5)
    bounds = bounds or [(0, np.iinfo(np.int64).max, 0, 1)]
    for index, numbers in enumerate(zip(*bounds, strict=True), start=1):
        _ints(editor, node, index, list(numbers), ("", "starts", "ends", "axes", "steps")[index])


def _gather(editor: Editor, node: ir.Node, kept: Kept) -> None:
    axis = int(attribute(node, "axis", 0)) % (rank(node.inputs[0]) or 1)
    mask = _mask(node.inputs[0], axis, kept)
    index = constant(node.inputs[1])
    if mask is None or index is None:
        return
    index = index % len(mask)
    index = (np.cumsum(mask) - 1)[index[mask[index]] if index.ndim else index]
    _ints(editor, node, 1, index, "indices")


def _pad(editor: Editor, node: ir.Node, kept: Kept) -> None:
    out = node.outputs[0]
    bounds = paddings(node)
    if bounds is None:
        return
    for axis, (front, back) in enumerate(bounds):
        mask = _mask(out, axis, kept)
        if mask is not None and (front or back):
            bounds[axis] = int(mask[:front].sum()), int(mask[len(mask) - back :].sum())
    pads = [front for front, _ in bounds] + [back for _, back in bounds]
    if len(node.inputs) > 3:
        node.resize_inputs(3)
    _ints(editor, node, 1, pads, "pads")


def _group(editor: Editor, node: ir.Node, kept: Kept) -> None:
    """Conv and ConvTranspose: groups leave as a whole."""
    groups = int(attribute(node, "group", 1))
    mask = _mask(node.inputs[0], 1, kept)
    if groups > 1 and mask is not None:
        stay = mask.reshape(groups, -1).any(axis=1)
        node.attributes["group"] = ir.AttrInt64("group", int(stay.sum()))


def _attention(editor: Editor, node: ir.Node, kept: Kept) -> None:
    queries, keys = head_counts(node)
    query, key = node.inputs[0], node.inputs[1]
    shape = sizes(query)
    if shape is None or shape[-1] is None or not queries:
        return
    if len(shape) == 4:
        if not attribute(node, "scale", 0.0) and _mask(query, 3, kept) is not None:
            node.attributes["scale"] = ir.AttrFloat32("scale", 1 / math.sqrt(shape[3]))
        return
    width = shape[2] // queries
    for value, count, name in ((query, queries, "q_num_heads"), (key, keys, "kv_num_heads")):
        mask = _mask(value, 2, kept)
        if mask is None or not count:
            continue
        table = mask.reshape(count, -1)
        if name == "q_num_heads" and not table.any(axis=0).all() and not attribute(node, "scale", 0.0):
            node.attributes["scale"] = ir.AttrFloat32("scale", 1 / math.sqrt(width))
        node.attributes[name] = ir.AttrInt64(name, int(table.any(axis=1).sum()))


def _rotary(editor: Editor, node: ir.Node, kept: Kept) -> None:
    data = node.inputs[0]
    count = rank(data)
    mask = _mask(data, (count or 1) - 1, kept)
    if mask is None:
        return
    heads, turned = int(attribute(node, "num_heads", 0)), int(attribute(node, "rotary_embedding_dim", 0))
    if count == 3 and heads:
        stay = mask.reshape(heads, -1).any(axis=1)
        node.attributes["num_heads"] = ir.AttrInt64("num_heads", int(stay.sum()))
    elif turned:
        left = int(mask[:turned].sum())
        node.attributes["rotary_embedding_dim"] = ir.AttrInt64("rotary_embedding_dim", left)


def _normalized(editor: Editor, node: ir.Node, kept: Kept) -> None:
    """A LayerNormalization or RMSNormalization whose statistics are over fewer entries."""
    data = node.inputs[0]
    shape = sizes(data)
    if shape is None:
        return
    first = int(attribute(node, "axis", -1)) % len(shape)
    _keep_scale(editor, node, kept, range(first, len(shape)))


def _keep_scale(editor: Editor, node: ir.Node, kept: Kept, axes: range) -> None:
    ratio = 1.0
    for axis in axes:
        mask = _mask(node.inputs[0], axis, kept)
        if mask is not None:
            ratio *= len(mask) / int(mask.sum())
    if ratio == 1.0:
        return
    scale = node.inputs[1]
    array = constant(scale)
    assert scale is not None
    assert array is not None
    own = editor.initializer((array * math.sqrt(ratio)).astype(array.dtype), f"{scale.name}_scaled")
    if scale in kept:
        kept[own] = kept[scale]
    node.replace_input_with(1, own)
    epsilon = float(attribute(node, "epsilon", 1e-5)) * ratio
    node.attributes["epsilon"] = ir.AttrFloat32("epsilon", epsilon)


def _group_norm(editor: Editor, node: ir.Node, kept: Kept) -> None:
    mask = _mask(node.inputs[0], 1, kept)
    groups = int(attribute(node, "num_groups", 1))
    if mask is None:
        return
    if groups == 1:
        _keep_scale(editor, node, kept, range(1, 2))
        return
    stay = mask.reshape(groups, -1).any(axis=1)
    node.attributes["num_groups"] = ir.AttrInt64("num_groups", int(stay.sum()))


def _resize(editor: Editor, node: ir.Node, kept: Kept) -> None:
    """Sizes that are given by number."""
    given = constant(node.inputs[3]) if len(node.inputs) > 3 else None
    out = node.outputs[0]
    if given is None or out not in kept:
        return
    axes = attribute(node, "axes") or range(rank(out) or 0)
    numbers = [_size(out, int(axis) % (rank(out) or 1), kept) or 0 for axis in axes]
    _ints(editor, node, 3, numbers, "sizes")


_MENDS: dict[str, Callable[[Editor, ir.Node, Kept], None]] = {
    "Reshape": _shape,
    "Expand": _shape,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Pad": _pad,
    "Conv": _group,
    "ConvTranspose": _group,
    "Attention": _attention,
    "RotaryEmbedding": _rotary,
    "LayerNormalization": _normalized,
    "RMSNormalization": _normalized,
    "GroupNormalization": _group_norm,
    "Resize": _resize,
}
