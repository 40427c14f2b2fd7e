"""How ops that only move entries carry the members of a dependency group."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.canonicalize.movement import permutation
from edgec.passes.editing import attribute, constant, producer, rank, sizes
from edgec.passes.slim.dependencies import NONE, Group, Rule


def _transpose(group: Group, node: ir.Node) -> None:
    order = permutation(node)
    if order is None:
        group.hold_all(node, "its rank is not known")
        return
    for place, axis in enumerate(order):
        group.tie(node.inputs[0], axis, node.outputs[0], place)


def shape_entries(value: ir.Value | None) -> list[int | None] | None:
    """The numbers of a shape, None for those that are computed; None where it is computed as a whole.

    A shape is a constant, or put together by a Concat of which some parts are.
    """
    whole = constant(value)
    if whole is not None:
        return [int(number) for number in whole.reshape(-1)]
    node = producer(value, "Concat")
    if node is None:
        return None
    entries: list[int | None] = []
    for part in node.inputs:
        array, count = constant(part), (sizes(part) or (None,))[0]
        if array is None and count is None:
            return None
        entries += [None] * (count or 0) if array is None else [int(number) for number in array]
    return entries


def _hold_computed(group: Group, node: ir.Node, entries: list[int | None] | None) -> None:
    """Hold the members on axes whose size a node is told by a computed number."""
    out = node.outputs[0]
    for axis in group.axes(out):
        place = axis if entries is None else axis - (rank(out) or 0) + len(entries)
        if entries is None or (place >= 0 and entries[place] is None):
            members = group.members(out, axis)
            assert members is not None
            group.hold(members, f"a {node.op_type} to a computed shape", node)


def _reshape(group: Group, node: ir.Node) -> None:
    """Reshape, Flatten, Squeeze and Unsqueeze."""
    data, out = node.inputs[0], node.outputs[0]
    entries = shape_entries(node.inputs[1]) if is_op(node, "Reshape") else None
    if is_op(node, "Reshape") and entries is None:
        group.hold_all(node, "a Reshape to a computed shape")
        return
    if data is None or data.shape is None or out.shape is None:
        group.hold_all(node, "its shape is not known")
        return
    for source, target in ((data, out), (out, data), (data, out)):
        assert source.shape is not None
        assert target.shape is not None
        for axis in group.axes(source):
            members = group.members(source, axis)
            assert members is not None
            span = _span(source.shape, target.shape, axis)
            if span is None:
                group.hold(members, "a reshape merges the members with an axis of open size", node)
                continue
            first, dims, new_first, new_dims = span
            moved = group.reshape(dims, axis - first, members, new_dims)
            for place, found in moved.items():
                group.assign(target, new_first + place, found)
    if is_op(node, "Reshape"):
        _hold_computed(group, node, entries)


Span = tuple[int, tuple[int, ...], int, tuple[int, ...]]


def _span(shape: ir.Shape, new_shape: ir.Shape, axis: int) -> Span | None:
    """The smallest run of axes around one that a reshape keeps as a whole, and what it becomes.

    A run ends where as many elements lie in front of it, or behind it, before as after.

    Returns:
        the first axis and the sizes, before and after; None where some of the sizes are open.
    """
    starts, ends = [], []
    for before, after in (
        (_products(shape), _products(new_shape)),
        (_products(shape, backward=True), _products(new_shape, backward=True)),
    ):
        for place, product in enumerate(before):
            same = [index for index, other in enumerate(after) if other == product]
            if same and place <= axis:
                starts.append((place, same[-1]))
            elif same:
                ends.append((place, same[0]))
    if not starts or not ends:
        return None
    (start, new_start), (end, new_end) = max(starts), min(ends)
    dims, new_dims = list(shape)[start:end], list(new_shape)[new_start:new_end]
    if not new_dims or not all(isinstance(size, int) for size in (*dims, *new_dims)):
        return None
    return start, tuple(map(int, dims)), new_start, tuple(map(int, new_dims))  # type: ignore[arg-type]


def _products(shape: ir.Shape, *, backward: bool = False) -> list[tuple[int, tuple[str, ...]]]:
    """How many elements lie in front of each axis and of the end; behind each where backward."""
    found: list[tuple[int, tuple[str, ...]]] = [(1, ())]
    for place, size in enumerate(reversed(shape.dims) if backward else shape):
        number, names = found[-1]
        if isinstance(size, int):
            found.append((number * size, names))
        else:
            found.append((number, tuple(sorted([*names, size.value or f"?{id(shape)}{place}"]))))
    return found[::-1] if backward else found


def _concat(group: Group, node: ir.Node) -> None:
    out = node.outputs[0]
    count = rank(out)
    shapes = [sizes(value) for value in node.inputs]
    if count is None or None in shapes:
        group.hold_all(node, "its shape is not known")
        return
    axis = int(attribute(node, "axis", 0)) % count
    lengths = [shape[axis] for shape in shapes if shape is not None]
    for _ in range(2):
        for value in node.inputs:
            for other in range(count):
                if other != axis:
                    group.tie(value, other, out, other)
    _segments(group, node, list(node.inputs), lengths, out, axis)


def _split(group: Group, node: ir.Node) -> None:
    data = node.inputs[0]
    count = rank(data)
    shapes = [sizes(value) for value in node.outputs]
    if count is None or None in shapes or (len(node.inputs) > 1 and constant(node.inputs[1]) is None):
        group.hold_all(node, "its shape is not known")
        return
    axis = int(attribute(node, "axis", 0)) % count
    lengths = [shape[axis] for shape in shapes if shape is not None]
    for _ in range(2):
        for value in node.outputs:
            for other in range(count):
                if other != axis:
                    group.tie(value, other, data, other)
    assert data is not None
    _segments(group, node, list(node.outputs), lengths, data, axis)


def _segments(
    group: Group,
    node: ir.Node,
    parts: list[ir.Value | None],
    lengths: list[int | None],
    whole: ir.Value,
    axis: int,
) -> None:
    """The parts lie end to end in the whole."""
    if None in lengths:
        group.hold_all(node, "its sizes are open")
        return
    ends = np.cumsum([0, *lengths])  # type: ignore[list-item]
    for part, start, end in zip(parts, ends[:-1], ends[1:], strict=True):
        members = group.members(part, axis)
        if members is not None:
            spread = np.full(ends[-1], NONE)
            spread[start:end] = members
            group.assign(whole, axis, spread)
        found = group.members(whole, axis)
        if found is not None:
            group.assign(part, axis, found[start:end])


def taken(node: ir.Node, axis: int) -> np.ndarray | None:
    """Which entries of an axis of its first input a Slice takes, in order; None where computed."""
    shape = sizes(node.inputs[0])
    given = [None if value is None else constant(value) for value in node.inputs[1:]]
    if shape is None or any(value is not None for value in node.inputs[1:] if constant(value) is None):
        return None
    size = shape[axis]
    if size is None or given[0] is None or given[1] is None:
        return None
    starts, ends = given[0].reshape(-1), given[1].reshape(-1)
    axes = np.arange(len(starts)) if len(given) < 3 or given[2] is None else given[2].reshape(-1)
    steps = np.ones_like(starts) if len(given) < 4 or given[3] is None else given[3].reshape(-1)
    for start, end, place, step in zip(starts, ends, axes, steps, strict=True):
        if int(place) % len(shape) == axis:
            stop = None if step < 0 and end < -size else int(end)
            return np.arange(size)[int(start) : stop : int(step)]
    return np.arange(size)


def _slice(group: Group, node: ir.Node) -> None:
    data, out = node.inputs[0], node.outputs[0]
    for axis in range(rank(data) or 0):
        if axis not in (*group.axes(data), *group.axes(out)):
            continue
        index = taken(node, axis)
        if index is None:
            group.hold_all(node, "a Slice at a computed place")
            return
        _picked(group, data, axis, index, out, axis)


def _picked(
    group: Group, data: ir.Value | None, axis: int, index: np.ndarray, out: ir.Value, place: int
) -> None:
    """The output's axis holds these entries of the input's."""
    members = group.members(data, axis)
    if members is not None:
        group.assign(out, place, members[index])
    found = group.members(out, place)
    size = (sizes(data) or ())[axis]
    if found is not None and size is not None:
        spread = np.full(size, NONE)
        for entry, member in zip(index, found, strict=True):
            if member >= 0 and spread[entry] >= 0:
                group.join([int(member)], [int(spread[entry])])
            spread[entry] = max(int(member), int(spread[entry]))
        group.assign(data, axis, spread)
        members = group.members(data, axis)
        if members is not None:
            group.assign(out, place, members[index])


def _gather(group: Group, node: ir.Node) -> None:
    data, indices, out = node.inputs[0], node.inputs[1], node.outputs[0]
    count, index_rank = rank(data), rank(indices)
    if count is None or index_rank is None:
        group.hold_all(node, "its shape is not known")
        return
    axis = int(attribute(node, "axis", 0)) % count
    for other in range(count):
        if other != axis:
            group.tie(data, other, out, other if other < axis else other + index_rank - 1)
    index, size = constant(indices), (sizes(data) or ())[axis]
    along = vector_axis(index)
    for place in range(index_rank):
        if place != along:
            group.tie(indices, place, out, axis + place)
    if axis not in group.axes(data) and (along is None or axis + along not in group.axes(out)):
        return
    if index is None or size is None or (along is None and index.size > 1):
        group.hold_all(node, "a Gather at computed places")
        return
    index = index.reshape(-1) % size
    if along is not None:
        _picked(group, data, axis, index, out, axis + along)
        return
    members = group.members(data, axis)
    if members is not None:
        group.hold(members[index], "one of them is read alone", node)


def vector_axis(index: np.ndarray | None) -> int | None:
    """The axis of constant indices that are a vector, whatever axes of size 1 they have; None otherwise."""
    if index is None or index.size < 2 or index.size != max(index.shape):
        return None
    return index.shape.index(index.size)


def _expand(group: Group, node: ir.Node) -> None:
    data, out = node.inputs[0], node.outputs[0]
    before, after = sizes(data), sizes(out)
    if before is None or after is None:
        group.hold_all(node, "its shape is not known")
        return
    for axis, size in enumerate(after):
        own = axis - len(after) + len(before)
        if own >= 0 and before[own] == size:
            group.tie(data, own, out, axis)
    _hold_computed(group, node, shape_entries(node.inputs[1]))


def _tile(group: Group, node: ir.Node) -> None:
    data, out = node.inputs[0], node.outputs[0]
    before, repeats = sizes(data), constant(node.inputs[1])
    if before is None or repeats is None:
        group.hold_all(node, "a Tile by a computed number")
        return
    for axis, size in enumerate(before):
        if size is not None:
            _picked(group, data, axis, np.tile(np.arange(size), int(repeats[axis])), out, axis)
        elif axis in (*group.axes(data), *group.axes(out)):
            group.hold_all(node, "its sizes are open")


def _pad(group: Group, node: ir.Node) -> None:
    data, out = node.inputs[0], node.outputs[0]
    bounds = paddings(node)
    if bounds is None:
        group.hold_all(node, "a Pad by a computed number")
        return
    for axis, (front, back) in enumerate(bounds):
        if not front and not back:
            group.tie(data, axis, out, axis)
            continue
        if axis not in (*group.axes(data), *group.axes(out)):
            continue
        size = (sizes(data) or ())[axis]
        if size is None or front < 0 or back < 0 or attribute(node, "mode", "constant") != "constant":
            group.hold_all(node, "a Pad that repeats or cuts the members")
            return
        members = group.members(data, axis)
        if members is not None:
            outside = np.full(front, NONE), np.full(back, NONE)
            group.assign(out, axis, np.concatenate([outside[0], members, outside[1]]))
        found = group.members(out, axis)
        if found is not None:
            group.assign(data, axis, found[front : front + size])


def paddings(node: ir.Node) -> list[tuple[int, int]] | None:
    """What a Pad adds in front of and behind each axis; None where computed."""
    count, pads = rank(node.inputs[0]), constant(node.inputs[1])
    given = node.inputs[3] if len(node.inputs) > 3 else None
    axes = np.arange(count or 0) if given is None else constant(given)
    if count is None or pads is None or axes is None:
        return None
    found = [(0, 0)] * count
    pads = pads.reshape(-1)
    for place, axis in enumerate(axes.reshape(-1)):
        found[int(axis) % count] = (int(pads[place]), int(pads[place + len(axes)]))
    return found


def _depth_to_space(group: Group, node: ir.Node) -> None:
    """Each channel of fewer and larger planes takes `blocksize`² of the others."""
    shrinks = is_op(node, "DepthToSpace")
    deep, wide = (node.inputs[0], node.outputs[0]) if shrinks else (node.outputs[0], node.inputs[0])
    if any(axis > 1 for value in (deep, wide) for axis in group.axes(value)):
        group.hold_all(node, f"{node.op_type} mixes the members as places")
    area = int(attribute(node, "blocksize", 1)) ** 2
    inner = shrinks and attribute(node, "mode", "DCR") == "CRD"
    group.tie(deep, 0, wide, 0)
    for _ in range(2):
        members = group.members(deep, 1)
        if members is not None:
            table = members.reshape((-1, area)) if inner else members.reshape((area, -1)).T
            made = table.max(axis=1)
            for column in table.T:
                both = (column >= 0) & (made >= 0)
                group.join(column[both], made[both])
            group.assign(wide, 1, made)
        found = group.members(wide, 1)
        if found is not None:
            group.assign(deep, 1, np.repeat(found, area) if inner else np.tile(found, area))


MOVEMENT_RULES: dict[str, Rule] = {
    "Transpose": _transpose,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Expand": _expand,
    "Tile": _tile,
    "Pad": _pad,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _depth_to_space,
}
