"""Ops that move or reshape data without looking at it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgec.targets.coreml.lowering.rank import (
    apart,
    expanded,
    flattened,
    folded,
    settled,
    sizes_in_view,
    transposed,
)
from edgec.targets.coreml.lowering.site import (
    MAX_RANK,
    Folded,
    Operand,
    Refusal,
    Site,
    broadcast_shape,
    dtype_of,
    is_fixed,
    positive_axis,
    rank_of,
    shape_of,
)
from edgec.targets.coreml.lowering.table import lowers


@lowers("Reshape")
def reshape(site: Site) -> Operand:
    """0 keeps a size unless `allowzero` says otherwise, -1 takes the rest."""
    x = site.raw(0)
    wanted = [int(size) for size in site.constant(1, "the shape").reshape(-1)]
    if isinstance(x, Folded):
        return _of_folded(site, x, _filled(wanted, x.sizes, site))
    x = site.operand(0)
    if not site.attribute("allowzero", 0):
        wanted = [x.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    if not is_fixed(x):
        return _open_reshape(site, x, wanted)
    wanted = _filled(wanted, shape_of(x), site)
    if len(wanted) > MAX_RANK:
        return folded(x, wanted)
    return site.emit("reshape", x=x, shape=np.array(wanted, np.int32))


def _filled(wanted: list[int], sizes: tuple[int, ...], site: Site) -> list[int]:
    """The sizes asked for, with 0 and -1 as numbers."""
    if not site.attribute("allowzero", 0):
        wanted = [sizes[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    if -1 in wanted:
        rest = math.prod(size for size in wanted if size != -1)
        wanted[wanted.index(-1)] = math.prod(sizes) // max(rest, 1)
    return wanted


def _of_folded(site: Site, x: Folded, sizes: Sequence[int]) -> Operand:
    """A view of high rank in another shape."""
    flat = flattened(site, x)
    return folded(flat, sizes) if len(sizes) > MAX_RANK else site.reshape(flat, sizes)


def _open_reshape(site: Site, x: Operand, wanted: list[Any]) -> Operand:
    """With open sizes: at most one of them may appear in the result, and it becomes -1."""
    open_at = [at for at, size in enumerate(wanted) if not isinstance(size, (int, np.integer))]
    if len(open_at) > 1 or (open_at and -1 in wanted):
        raise Refusal("it needs more than one open size", "fix all but one of the model's open dimensions")
    target = [-1 if at in open_at else int(size) for at, size in enumerate(wanted)]
    return site.emit("reshape", x=x, shape=np.array(target, np.int32))


@lowers("Flatten")
def flatten(site: Site) -> Operand:
    """To rank 2, split at `axis`."""
    x = site.operand(0)
    shape = shape_of(x)
    axis = int(site.attribute("axis", 1))
    axis = axis + len(shape) if axis < 0 else axis
    rows = int(np.prod(shape[:axis], initial=1))
    return site.emit("reshape", x=x, shape=np.array([rows, int(np.prod(shape)) // rows], np.int32))


@lowers("Transpose")
def transpose(site: Site) -> Operand:
    """Axes permuted, reversed by default."""
    x = site.raw(0)
    if isinstance(x, Folded):
        return transposed(x, site.attribute("perm") or list(range(len(x.sizes)))[::-1])
    x = site.operand(0)
    perm = site.attribute("perm") or list(range(rank_of(x)))[::-1]
    return site.emit("transpose", x=x, perm=np.array(perm, np.int32))


@lowers("Squeeze")
def squeeze(site: Site) -> Operand:
    """Drops axes of size one."""
    x = site.raw(0)
    if isinstance(x, Folded):
        return _of_folded(site, x, _without_ones(site, x.sizes))
    x = site.operand(0)
    axes = site.optional_constant(1, "the axes")
    if axes is None:
        axes = np.array([axis for axis, size in enumerate(shape_of(x)) if size == 1])
    kept = {positive_axis(int(axis), rank_of(x)) for axis in axes.reshape(-1)}
    if not kept:
        return site.emit("identity", x=x)
    if len(kept) == rank_of(x):
        return site.emit("squeeze", x=x)
    return site.emit("squeeze", x=x, axes=np.array(sorted(kept), np.int32))


def _without_ones(site: Site, sizes: tuple[int, ...]) -> list[int]:
    axes = site.optional_constant(1, "the axes")
    if axes is None:
        return [size for size in sizes if size != 1]
    dropped = {positive_axis(int(axis), len(sizes)) for axis in axes.reshape(-1)}
    return [size for axis, size in enumerate(sizes) if axis not in dropped]


@lowers("Unsqueeze")
def unsqueeze(site: Site) -> Operand:
    """Inserts axes of size one."""
    axes = site.constant(1, "the axes").reshape(-1)
    x = site.raw(0)
    own = x.sizes if isinstance(x, Folded) else tuple(x.shape)
    rank = len(own) + len(axes)
    if rank > MAX_RANK:
        remaining = iter(x.sizes if isinstance(x, Folded) else shape_of(x))
        added = {positive_axis(int(axis), rank) for axis in axes}
        sizes = [1 if axis in added else next(remaining) for axis in range(rank)]
        return _of_folded(site, x, sizes) if isinstance(x, Folded) else folded(x, sizes)
    return site.emit("expand_dims", x=site.operand(0), axes=axes.astype(np.int32))


@lowers("Concat")
def concat(site: Site) -> Operand:
    """Joins along an axis; bools by way of int32, which is all that `concat` takes."""
    values = [value for value in site.operands() if 0 not in value.shape]
    if not values:
        raise Refusal("every operand is empty, which Core ML lacks")
    axis = positive_axis(int(site.attribute("axis")), rank_of(values[0]))
    if len(values) == 1:
        return site.emit("identity", x=values[0])
    if dtype_of(values[0]) == np.bool_:
        joined = site.emit("concat", values=[site.cast(value, np.int32) for value in values], axis=axis)
        return site.cast(joined, np.bool_)
    return site.emit("concat", values=values, axis=axis)


@lowers("Split")
def split(site: Site) -> Any:
    """Into the given sizes, or into equal parts with a smaller last one."""
    if isinstance(site.raw(0), Folded):
        return _split_view(site, site.raw(0))
    x = site.operand(0)
    axis = positive_axis(int(site.attribute("axis", 0)), rank_of(x))
    sizes = site.optional_constant(1, "the sizes")
    if sizes is None:
        count = int(site.attribute("num_outputs", 0)) or len(site.node.outputs)
        whole = x.shape[axis]
        part = -(-whole // count)
        sizes = np.array([part] * (count - 1) + [whole - part * (count - 1)])
    sizes = sizes.reshape(-1).astype(np.int32)
    if len(sizes) == 1:
        return [site.emit("identity", x=x)]
    if (sizes == 0).any():
        return _parts_with_empty_ones(site, x, axis, sizes)
    return list(site.emit("split", x=x, split_sizes=sizes, axis=axis))


def _split_view(site: Site, x: Folded) -> list[Operand]:
    """Parts of a view: its axis goes in front, as rows that a split takes."""
    axis = positive_axis(int(site.attribute("axis", 0)), len(x.sizes))
    sizes = site.optional_constant(1, "the sizes")
    if sizes is None:
        count = int(site.attribute("num_outputs", 0)) or len(site.node.outputs)
        part = -(-x.sizes[axis] // count)
        sizes = np.array([part] * (count - 1) + [x.sizes[axis] - part * (count - 1)])
    others = [size for at, size in enumerate(x.sizes) if at != axis]
    rows = apart(site, x, [axis])
    lengths = [int(size) for size in sizes.reshape(-1)]
    parts = (
        [rows]
        if len(lengths) == 1
        else site.emit("split", x=rows, split_sizes=np.array(lengths, np.int32), axis=0)
    )
    order = [*range(1, axis + 1), 0, *range(axis + 1, len(x.sizes))]
    return [
        settled(site, transposed(folded(part, (length, *others)), order))
        for part, length in zip(parts, lengths, strict=True)
    ]


def _parts_with_empty_ones(site: Site, x: Operand, axis: int, sizes: np.ndarray) -> list[Operand]:
    """Core ML has no empty tensors: an empty part stays an array here, for `Concat` to leave out."""
    shape = list(shape_of(x))
    shape[axis] = 0
    empty = np.zeros(shape, dtype_of(x))
    full = sizes[sizes > 0]
    parts = (
        [site.emit("identity", x=x)]
        if len(full) == 1
        else site.emit("split", x=x, split_sizes=full, axis=axis)
    )
    remaining = iter(parts)
    return [next(remaining) if size else empty for size in sizes]


@lowers("Slice")
def slice_(site: Site) -> Operand:
    """Clamped as ONNX says, then one `slice_by_index` with masks at the ends."""
    x = site.operand(0)
    rank = rank_of(x)
    starts = site.constant(1, "the starts").reshape(-1)
    ends = site.constant(2, "the ends").reshape(-1)
    axes = site.optional_constant(3, "the axes")
    axes = np.arange(len(starts)) if axes is None else axes.reshape(-1)
    steps = site.optional_constant(4, "the steps")
    steps = np.ones(len(starts), np.int64) if steps is None else steps.reshape(-1)
    begin, end, stride = [0] * rank, [0] * rank, [1] * rank
    begin_mask, end_mask = [True] * rank, [True] * rank
    for start, stop, axis, step in zip(starts, ends, axes, steps, strict=True):
        at = positive_axis(int(axis), rank)
        size = x.shape[at]
        if not isinstance(size, (int, np.integer)):
            begin[at], end[at], begin_mask[at], end_mask[at] = _open_bounds(int(start), int(stop), int(step))
        else:
            begin[at], end[at], end_mask[at] = _bounds(int(start), int(stop), int(step), int(size))
            begin_mask[at] = False
        stride[at] = int(step)
    return site.emit(
        "slice_by_index",
        x=x,
        begin=np.array(begin, np.int32),
        end=np.array(end, np.int32),
        stride=np.array(stride, np.int32),
        begin_mask=begin_mask,
        end_mask=end_mask,
    )


def _bounds(start: int, stop: int, step: int, size: int) -> tuple[int, int, bool]:
    """Begin, end and end mask of one axis, by Python's own rules for slices (which are ONNX's)."""
    first, last, _ = slice(start, stop, step).indices(size)
    if len(range(first, last, step)) == 0:
        raise Refusal("the slice is empty, which Core ML lacks")
    # Backwards to the very first element: no end index says that, the mask does.
    return first, max(last, 0), last < 0


def _open_bounds(start: int, stop: int, step: int) -> tuple[int, int, bool, bool]:
    if step < 0:
        raise Refusal("a backward slice over an open size is not lowered", "fix the dimension")
    limit = 2**31 - 1
    return max(start, -limit), min(max(stop, -limit), limit), False, stop >= limit


@lowers("Expand")
def expand(site: Site) -> Operand:
    """Leading ones by reshape, the rest by `tile`."""
    x = site.raw(0)
    wanted = [int(size) for size in site.constant(1, "the shape").reshape(-1)]
    if isinstance(x, Folded) or len(wanted) > MAX_RANK:
        return expanded(site, x, broadcast_shape([sizes_in_view(x), wanted]))
    x = site.operand(0)
    if not is_fixed(x):
        return _open_expand(site, x, wanted)
    own = shape_of(x)
    target = np.broadcast_shapes(own, tuple(wanted))
    if tuple(target) == own:
        return site.emit("identity", x=x)
    x = site.reshape(x, (*[1] * (len(target) - len(own)), *own))
    reps = [size // have for size, have in zip(target, shape_of(x), strict=True)]
    return _tile(site, x, reps)


def _open_expand(site: Site, x: Operand, wanted: list[int]) -> Operand:
    if len(wanted) > rank_of(x) or any(size != 1 for size in wanted):
        raise Refusal("it expands an open shape", "fix the model's open dimensions")
    return site.emit("identity", x=x)


@lowers("Tile")
def tile(site: Site) -> Operand:
    """Repeats along each axis."""
    return _tile(site, site.operand(0), [int(count) for count in site.constant(1, "the repeats").reshape(-1)])


def _tile(site: Site, x: Operand, reps: list[int]) -> Operand:
    if all(count == 1 for count in reps):
        return site.emit("identity", x=x)
    return site.emit("tile", x=x, reps=np.array(reps, np.int32))


@lowers("DepthToSpace")
def depth_to_space(site: Site) -> Operand:
    """DCR is `depth_to_space`, CRD is `pixel_shuffle`."""
    block = int(site.attribute("blocksize"))
    if site.attribute("mode", "DCR") == "CRD":
        return site.emit("pixel_shuffle", x=site.operand(0), upscale_factor=block)
    return site.emit("depth_to_space", x=site.operand(0), block_size=block)


@lowers("SpaceToDepth")
def space_to_depth(site: Site) -> Operand:
    """Blocks of space into channels."""
    if site.attribute("mode", "DCR") == "CRD":
        return site.emit(
            "pixel_unshuffle", x=site.operand(0), downscale_factor=np.uint32(site.attribute("blocksize"))
        )
    return site.emit("space_to_depth", x=site.operand(0), block_size=int(site.attribute("blocksize")))


@lowers("Pad")
def pad(site: Site) -> Operand:
    """Constants by `pad`; mirrored, repeated and wrapped edges by indices; negative pads are slices."""
    x = site.operand(0)
    shape = shape_of(x)
    rank = len(shape)
    pads = [int(pad) for pad in site.constant(1, "the pads").reshape(-1)]
    axes = site.optional_constant(3, "the axes")
    chosen = (
        list(range(rank)) if axes is None else [positive_axis(int(axis), rank) for axis in axes.reshape(-1)]
    )
    before, after = [0] * rank, [0] * rank
    for at, axis in enumerate(chosen):
        before[axis], after[axis] = pads[at], pads[at + len(chosen)]
    mode = site.attribute("mode", "constant")
    if mode != "constant":
        return _padded_by_index(site, x, before, after, mode)
    value = site.optional_constant(2, "the value")
    dtype = dtype_of(x)
    number = np.array(0 if value is None else value.reshape(-1)[0]).astype(dtype)
    if any(size < 0 for size in (*before, *after)):
        x = _cropped(site, x, [min(0, size) for size in before], [min(0, size) for size in after])
        before, after = [max(0, size) for size in before], [max(0, size) for size in after]
    ends = np.array([size for pair in zip(before, after, strict=True) for size in pair], np.int32)
    if not ends.any():
        return site.emit("identity", x=x)
    if dtype.kind == "f":
        return site.emit("pad", x=x, pad=ends, mode="constant", constant_val=number)
    padded = site.emit(
        "pad", x=site.floating(x), pad=ends, mode="constant", constant_val=number.astype(np.float32)
    )
    return site.cast(padded, dtype)


def _cropped(site: Site, x: Operand, before: list[int], after: list[int]) -> Operand:
    begin = [-size for size in before]
    end = [size + cut for size, cut in zip(shape_of(x), after, strict=True)]
    return site.emit("slice_by_index", x=x, begin=np.array(begin, np.int32), end=np.array(end, np.int32))


def _padded_by_index(site: Site, x: Operand, before: list[int], after: list[int], mode: str) -> Operand:
    modes = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    if mode not in modes:
        raise Refusal(f"pad mode {mode!r} is unknown")
    for axis, size in enumerate(shape_of(x)):
        if before[axis] or after[axis]:
            low, high = max(0, before[axis]), max(0, after[axis])
            places = np.pad(np.arange(size, dtype=np.int32), (low, high), mode=modes[mode])  # type: ignore[call-overload]
            places = places[-min(0, before[axis]) : len(places) + min(0, after[axis])]
            x = site.emit("gather", x=x, indices=places, axis=axis)
    return x


@lowers("Trilu")
def triangle(site: Site) -> Operand:
    """Keeps one triangle of the last two axes, zeros the other."""
    x = site.operand(0)
    offset = site.optional_constant(1, "the diagonal")
    rows, columns = shape_of(x)[-2:]
    ones = np.ones((rows, columns), bool)
    shift = 0 if offset is None else int(offset.reshape(-1)[0])
    keep = np.triu(ones, shift) if site.attribute("upper", 1) else np.tril(ones, shift)
    keep = keep.reshape((*[1] * (rank_of(x) - 2), rows, columns))
    dtype = dtype_of(x)
    if dtype == np.bool_:
        return site.emit("logical_and", x=x, y=keep)
    return site.select(cond=keep, a=x, b=np.zeros((), dtype))


@lowers("ReverseSequence")
def reverse_sequence(site: Site) -> Operand:
    """Reverses the first `lengths[i]` steps of each sample."""
    return site.emit(
        "reverse_sequence",
        x=site.operand(0),
        lengths=site.operand(1),
        seq_axis=int(site.attribute("time_axis", 0)),
        batch_axis=int(site.attribute("batch_axis", 1)),
    )


@lowers("Shape", "Size")
def shape(site: Site) -> Operand:
    """Known now where the shape is fixed; `shape` otherwise."""
    x = site.operand(0)
    if is_fixed(x):
        sizes = np.array(shape_of(x), np.int64)
        if site.op == "Size":
            return np.array(int(np.prod(sizes, initial=1)), np.int64)
        return sizes[_shape_part(site, len(sizes))]
    if site.op == "Size":
        raise Refusal("the size of an open shape is not lowered", "fix the model's open dimensions")
    sizes = site.emit("shape", x=x)
    part = _shape_part(site, rank_of(x))
    if part == slice(0, rank_of(x)):
        return sizes
    return site.emit(
        "slice_by_index", x=sizes, begin=np.array([part.start], np.int32), end=np.array([part.stop], np.int32)
    )


def _shape_part(site: Site, rank: int) -> slice:
    first, last, _ = slice(site.attribute("start", 0), site.attribute("end")).indices(rank)
    return slice(first, last)


@lowers("EyeLike")
def eye_like(site: Site) -> Operand:
    """Ones on one diagonal, known from the shape alone."""
    x = site.operand(0)
    rows, columns = shape_of(x)
    kinds = {1: np.float32, 6: np.int32, 7: np.int32, 9: np.bool_, 10: np.float16}
    asked = int(site.attribute("dtype", 0))
    if asked and asked not in kinds:
        raise Refusal(f"ONNX type {asked} has no form in Core ML")
    kind = kinds[asked] if asked else dtype_of(x)
    return np.eye(rows, columns, int(site.attribute("k", 0)), dtype=kind)


@lowers("Range")
def range_(site: Site) -> Operand:
    """A range of known bounds is a constant and never comes here."""
    raise Refusal(f"the size of {site.op} depends on the data", "fix its bounds before the export")
