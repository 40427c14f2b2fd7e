"""What a node says of the sizes of its values, after some of their entries have left."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, attribute, constant, producer, rank, sizes
from edgec.passes.slim.movement_rules import paddings, shape_entries, taken, vector_axis
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


def _narrowed(value: ir.Value | None, kept: Kept, sizes_: dict[int, int]) -> ir.Shape | None:
    """The shape of a value once entries have left, with some sizes given."""
    if value is None or value.shape is None:
        return None
    left = {axis: int(mask.sum()) for axis, mask in kept.get(value, {}).items()}
    return ir.Shape([{**left, **sizes_}.get(axis, size) for axis, size in enumerate(value.shape)])


def _ints(editor: Editor, node: ir.Node, index: int, numbers: np.ndarray | list[int], what: str) -> None:
    """Give a node an int64 constant of its own."""
    value = editor.initializer(np.array(numbers, np.int64), f"{node.name}/{what}")
    node.replace_input_with(index, value)


def _shape(editor: Editor, node: ir.Node, kept: Kept) -> None:
    """Reshape and Expand: the sizes that they make."""
    out, given = node.outputs[0], node.inputs[1]
    entries = shape_entries(given)
    if given is None or entries is None or out not in kept:
        return
    first = (rank(out) or 0) - len(entries)  # an Expand may leave leading axes out
    for place, number in enumerate(entries):
        size = _size(out, place + first, kept)
        # An Expand leaves a 1 to its operand's size, a Reshape finds a -1 by itself.
        if size is not None and number not in (None, 1 if is_op(node, "Expand") else -1):
            entries[place] = size
    maker = producer(given, "Concat")
    if maker is None:
        _ints(editor, node, 1, [number or 0 for number in entries], "shape")
        return
    parts: list[ir.Value | None] = []
    for part in maker.inputs:
        count = (sizes(part) or (0,))[0] or 0
        numbers, entries = entries[:count], entries[count:]
        own = part
        if constant(part) is not None:
            own = editor.initializer(np.array(numbers, np.int64), f"{node.name}/sizes")
        parts.append(own)
    shape = editor.node(
        "Concat", parts, like=node, attributes={"axis": 0}, shape=given.shape, dtype=given.dtype
    )
    node.replace_input_with(1, shape)


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
    """A run that stays one ends elsewhere; what becomes uneven is gathered first."""
    data = node.inputs[0]
    assert data is not None
    given = [None if value is None else constant(value) for value in node.inputs[1:]]
    bounds = {}
    for number, (start, end) in enumerate(zip(given[0], given[1], strict=True)):  # type: ignore[arg-type]
        axis = number if len(given) < 3 or given[2] is None else int(given[2][number])
        step = 1 if len(given) < 4 or given[3] is None else int(given[3][number])
        bounds[axis % (rank(data) or 1)] = (int(start), int(end), step)
    for axis in list(bounds):
        mask, index = _mask(node.inputs[0], axis, kept), taken(node, axis)
        if mask is None or index is None:
            continue
        left = (np.cumsum(mask) - 1)[index[mask[index]]]
        steps = set(np.diff(left).tolist()) or {1}
        if len(steps) > 1:
            places = editor.initializer(left.astype(np.int64), f"{node.name}/indices")
            picked = editor.node("Gather", [data, places], like=node, attributes={"axis": axis})
            picked.shape = _narrowed(node.inputs[0], kept, {axis: len(left)})
            data, bounds[axis] = picked, (0, len(left), 1)
            continue
        step = steps.pop()
        end = int(left[-1]) + step
        bounds[axis] = (int(left[0]), end if end >= 0 else -int(mask.sum()) - 1, step)
    node.replace_input_with(0, data)
    node.resize_inputs(5)
    columns = [*zip(*bounds.values(), strict=True)]
    for place, numbers in enumerate((columns[0], columns[1], list(bounds), columns[2]), start=1):
        _ints(editor, node, place, list(numbers), ("starts", "ends", "axes", "steps")[place - 1])


def _gather(editor: Editor, node: ir.Node, kept: Kept) -> None:
    axis = int(attribute(node, "axis", 0)) % (rank(node.inputs[0]) or 1)
    mask = _mask(node.inputs[0], axis, kept)
    index = constant(node.inputs[1])
    if mask is None or index is None:
        return
    index, along = index % len(mask), vector_axis(index)
    if along is not None:
        shape = [-1 if place == along else 1 for place in range(index.ndim)]
        index = index[mask[index]].reshape(shape)
    _ints(editor, node, 1, (np.cumsum(mask) - 1)[index], "indices")


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
            node.attributes["scale"] = ir.AttrFloat32("scale", 1 / math.sqrt(shape[-1]))
        return
    width = shape[-1] // queries
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
