"""Ops that move data."""

from __future__ import annotations

import numpy as np

from edgec.targets.coreml.checker.arguments import Arguments
from edgec.targets.coreml.checker.registry import kernel


@kernel("reshape")
def reshape(a: Arguments) -> np.ndarray:
    """0 keeps a size, -1 takes the rest."""
    x, wanted = a["x"], a.integers("shape")
    if 0 in wanted and x.size:
        own = (
            [1] * (len(wanted) - x.ndim) + list(x.shape)[-len(wanted) :] if len(wanted) != x.ndim else x.shape
        )
        wanted = [own[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return x.reshape(wanted)


@kernel("transpose")
def transpose(a: Arguments) -> np.ndarray:
    """Axes permuted."""
    return a["x"].transpose(a.integers("perm"))


@kernel("expand_dims")
def expand_dims(a: Arguments) -> np.ndarray:
    """Axes of size one put in."""
    return np.expand_dims(a["x"], tuple(a.integers("axes")))


@kernel("squeeze")
def squeeze(a: Arguments) -> np.ndarray:
    """Axes of size one taken out."""
    return np.squeeze(a["x"], tuple(a.integers("axes"))) if "axes" in a else np.squeeze(a["x"])


@kernel("concat")
def concat(a: Arguments) -> np.ndarray:
    """Joined along an axis, element by element where interleaved."""
    values, axis = a.all("values"), int(a.number("axis"))
    if not a.flag("interleave"):
        return np.concatenate(values, axis)
    axis %= values[0].ndim
    stacked = np.stack(values, axis + 1)
    shape = list(values[0].shape)
    shape[axis] *= len(values)
    return stacked.reshape(shape)


@kernel("stack")
def stack(a: Arguments) -> np.ndarray:
    """Joined along a new axis."""
    return np.stack(a.all("values"), int(a.number("axis")))


@kernel("split")
def split(a: Arguments) -> list[np.ndarray]:
    """Cut into parts along an axis."""
    x, axis = a["x"], int(a.number("axis"))
    if "split_sizes" in a:
        return np.split(x, np.cumsum(a.integers("split_sizes"))[:-1], axis)
    return np.split(x, int(a.number("num_splits")), axis)


def slices_of(a: Arguments, x: np.ndarray) -> tuple[slice | int, ...]:
    """The index that begin, end, stride and the masks describe."""
    rank = x.ndim
    begin, end = a.integers("begin"), a.integers("end")
    stride = a.integers("stride", [1] * rank)
    begin_mask, end_mask = a.flags("begin_mask", rank), a.flags("end_mask", rank)
    squeeze_mask = a.flags("squeeze_mask", rank)
    index: list[slice | int] = []
    for axis in range(rank):
        if squeeze_mask[axis]:
            index.append(begin[axis])
            continue
        first = None if begin_mask[axis] else begin[axis]
        last = None if end_mask[axis] else end[axis]
        index.append(slice(first, last, stride[axis]))
    return tuple(index)


@kernel("slice_by_index")
def slice_by_index(a: Arguments) -> np.ndarray:
    """A part by begin, end and stride."""
    x = a["x"]
    return np.asarray(x[slices_of(a, x)])


@kernel("slice_update")
def slice_update(a: Arguments) -> np.ndarray:
    """X with a part replaced."""
    x = np.array(a["x"])
    index = slices_of(a, x)
    x[index] = np.reshape(a["update"], x[index].shape)
    return x


@kernel("slice_by_size")
def slice_by_size(a: Arguments) -> np.ndarray:
    """A part by begin and size; -1 takes the rest."""
    x = a["x"]
    begins = [
        begin + size if begin < 0 else begin for begin, size in zip(a.integers("begin"), x.shape, strict=True)
    ]
    sizes = a.integers("size")
    return x[
        tuple(
            slice(begin, None if size == -1 else begin + size)
            for begin, size in zip(begins, sizes, strict=True)
        )
    ]


@kernel("tile")
def tile(a: Arguments) -> np.ndarray:
    """Repeated along each axis."""
    return np.tile(a["x"], a.integers("reps"))


@kernel("pad")
def pad(a: Arguments) -> np.ndarray:
    """The last axes padded by a constant, a mirror or the edge."""
    x, flat = a["x"], a.integers("pad")
    pairs = list(zip(flat[0::2], flat[1::2], strict=True))
    pairs = [(0, 0)] * (x.ndim - len(pairs)) + pairs
    mode = a.text("mode", "constant")
    if mode == "constant":
        return np.pad(x, pairs, constant_values=a.number("constant_val", 0))
    if mode == "reflect":
        return np.pad(x, pairs, mode="reflect")
    return np.pad(x, pairs, mode="edge")


@kernel("reverse")
def reverse(a: Arguments) -> np.ndarray:
    """Order turned round along the axes."""
    return np.flip(a["x"], tuple(a.integers("axes")) if "axes" in a else None)


@kernel("reverse_sequence")
def reverse_sequence(a: Arguments) -> np.ndarray:
    """The first `lengths[i]` steps of each sample turned round."""
    x, lengths = np.array(a["x"]), a.integers("lengths")
    sequence, batch = int(a.number("seq_axis", 0)), int(a.number("batch_axis", 0))
    moved = np.moveaxis(x, (batch, sequence), (0, 1))
    for sample, length in enumerate(lengths):
        moved[sample, :length] = moved[sample, :length][::-1].copy()
    return np.moveaxis(moved, (0, 1), (batch, sequence))


@kernel("depth_to_space")
def depth_to_space(a: Arguments) -> np.ndarray:
    """Channels (block, block, C) into space."""
    x, block = a["x"], int(a.number("block_size"))
    n, c, h, w = x.shape
    apart = x.reshape(n, block, block, c // block**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    return apart.reshape(n, c // block**2, h * block, w * block)


@kernel("pixel_shuffle")
def pixel_shuffle(a: Arguments) -> np.ndarray:
    """Channels (C, block, block) into space."""
    x, block = a["x"], int(a.number("upscale_factor"))
    n, c, h, w = x.shape
    apart = x.reshape(n, c // block**2, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
    return apart.reshape(n, c // block**2, h * block, w * block)


@kernel("space_to_depth")
def space_to_depth(a: Arguments) -> np.ndarray:
    """Space into channels (block, block, C)."""
    x, block = a["x"], int(a.number("block_size"))
    n, c, h, w = x.shape
    apart = x.reshape(n, c, h // block, block, w // block, block).transpose(0, 3, 5, 1, 2, 4)
    return apart.reshape(n, c * block**2, h // block, w // block)


@kernel("pixel_unshuffle")
def pixel_unshuffle(a: Arguments) -> np.ndarray:
    """Space into channels (C, block, block)."""
    x, block = a["x"], int(a.number("downscale_factor"))
    n, c, h, w = x.shape
    apart = x.reshape(n, c, h // block, block, w // block, block).transpose(0, 1, 3, 5, 2, 4)
    return apart.reshape(n, c * block**2, h // block, w // block)


@kernel("band_part")
def band_part(a: Arguments) -> np.ndarray:
    """Zero outside a band around the diagonal of the last two axes."""
    x = a["x"]
    rows, columns = np.indices(x.shape[-2:])
    lower, upper = int(a.number("lower", -1)), int(a.number("upper", -1))
    inside = ((lower < 0) | (rows - columns <= lower)) & ((upper < 0) | (columns - rows <= upper))
    return np.where(inside, x, np.zeros((), x.dtype))


@kernel("flatten2d")
def flatten2d(a: Arguments) -> np.ndarray:
    """To rank 2, cut at the axis."""
    x, axis = a["x"], int(a.number("axis", 1))
    return x.reshape(int(np.prod(x.shape[:axis], initial=1)), -1)


@kernel("sliding_windows")
def sliding_windows(a: Arguments) -> np.ndarray:
    """All windows along an axis, side by side on a new axis behind it."""
    x, size, stride = a["x"], int(a.number("size")), int(a.number("stride", 1))
    axis = int(a.number("axis")) % x.ndim
    count = (x.shape[axis] - size) // stride + 1
    return np.stack(
        [np.take(x, np.arange(at * stride, at * stride + size), axis) for at in range(count)], axis
    )


@kernel("shape")
def shape(a: Arguments) -> np.ndarray:
    """The sizes."""
    return np.array(a["x"].shape, np.int32)


@kernel("fill")
def fill(a: Arguments) -> np.ndarray:
    """One value everywhere."""
    return np.full(a.integers("shape"), a.get("value", np.float32(0)))


@kernel("fill_like")
def fill_like(a: Arguments) -> np.ndarray:
    """One value in another tensor's shape."""
    return np.full(a["ref_tensor"].shape, a.get("value", np.float32(0)))


@kernel("range_1d")
def range_1d(a: Arguments) -> np.ndarray:
    """From start to end in steps."""
    return np.arange(a["start"], a["end"], a["step"])
