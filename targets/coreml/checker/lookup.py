"""Gathering, scattering, ordering."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgec.targets.coreml.checker.arguments import Arguments
from edgec.targets.coreml.checker.registry import kernel


def _indices(value: Any, size: int) -> np.ndarray:
    """Indices as integers.

    Raises:
        IndexError: one lies outside, where Core ML's result is undefined.
    """
    array = np.asarray(value).astype(np.int64)
    if array.size and (array.min() < -size or array.max() >= size):
        raise IndexError(f"index {array.min() if array.min() < -size else array.max()} outside of {size}")
    return array


@kernel("gather")
def gather(a: Arguments) -> np.ndarray:
    """Rows of an axis."""
    x, axis, batch = a["x"], int(a.number("axis", 0)), int(a.number("batch_dims", 0))
    indices = _indices(a["indices"], x.shape[axis])
    if not batch:
        return np.take(x, indices, axis)
    flat_x = x.reshape(-1, *x.shape[batch:])
    flat_indices = indices.reshape(-1, *indices.shape[batch:])
    axis = axis % x.ndim - batch
    taken = [np.take(part, at, axis) for part, at in zip(flat_x, flat_indices, strict=True)]
    return np.stack(taken).reshape(*x.shape[:batch], *taken[0].shape)


@kernel("gather_along_axis")
def gather_along_axis(a: Arguments) -> np.ndarray:
    """One element a place, along an axis."""
    x, axis = a["x"], int(a.number("axis", 0))
    return np.take_along_axis(x, _indices(a["indices"], x.shape[axis]), axis)


@kernel("gather_nd")
def gather_nd(a: Arguments) -> np.ndarray:
    """Slices by index vectors."""
    x, batch = a["x"], int(a.number("batch_dims", 0))
    indices = np.asarray(a["indices"]).astype(np.int64)
    depth = indices.shape[-1]
    for column, size in enumerate(x.shape[batch : batch + depth]):
        _indices(indices[..., column], size)
    if not batch:
        return x[tuple(np.moveaxis(indices, -1, 0))]
    flat_x = x.reshape(-1, *x.shape[batch:])
    flat = indices.reshape(len(flat_x), *indices.shape[batch:])
    taken = np.stack([part[tuple(np.moveaxis(at, -1, 0))] for part, at in zip(flat_x, flat, strict=True)])
    return taken.reshape(*x.shape[:batch], *taken.shape[1:])


_MODES: dict[str, Callable[..., Any]] = {
    "add": np.add.at,
    "sub": np.subtract.at,
    "mul": np.multiply.at,
    "div": np.divide.at,
    "max": np.maximum.at,
    "min": np.minimum.at,
}


def _scattered(data: np.ndarray, index: Any, updates: np.ndarray, mode: str) -> np.ndarray:
    result = np.array(data)
    if mode == "update":
        result[index] = updates
    else:
        _MODES[mode](result, index, updates)
    return result


@kernel("scatter")
def scatter(a: Arguments) -> np.ndarray:
    """Rows of an axis replaced or combined."""
    data, axis = a["data"], int(a.number("axis", 0))
    indices = _indices(a["indices"], data.shape[axis])
    moved = np.moveaxis(data, axis, 0)
    updates = np.moveaxis(a["updates"], axis, 0)
    return np.moveaxis(_scattered(moved, indices, updates, a.text("mode", "add")), 0, axis)


@kernel("scatter_along_axis")
def scatter_along_axis(a: Arguments) -> np.ndarray:
    """One element a place replaced or combined, along an axis."""
    data, axis = a["data"], int(a.number("axis", 0))
    indices = _indices(a["indices"], data.shape[axis])
    index = list(np.indices(indices.shape))
    index[axis] = np.where(indices < 0, indices + data.shape[axis], indices)
    return _scattered(data, tuple(index), a["updates"], a.text("mode", "add"))


@kernel("scatter_nd")
def scatter_nd(a: Arguments) -> np.ndarray:
    """Slices by index vectors replaced or combined."""
    indices = np.asarray(a["indices"]).astype(np.int64)
    return _scattered(a["data"], tuple(np.moveaxis(indices, -1, 0)), a["updates"], a.text("mode", "add"))


@kernel("one_hot")
def one_hot(a: Arguments) -> np.ndarray:
    """On at each index along a new axis."""
    indices, size = np.asarray(a["indices"]).astype(np.int64), int(a.number("one_hot_vector_size"))
    hit = indices[..., None] == np.arange(size)
    hit = np.moveaxis(hit, -1, int(a.number("axis", -1)))
    return np.where(hit, a.get("on_value", np.int32(1)), a.get("off_value", np.int32(0)))


@kernel("topk")
def topk(a: Arguments) -> Any:
    """The k largest or smallest of an axis, with their places."""
    x, count, axis = a["x"], int(a.number("k", 1)), int(a.number("axis", -1))
    rising = a.flag("ascending")
    order = np.argsort(x if rising else -x.astype(np.float64), axis, kind="stable")
    places = np.take(order, np.arange(count), axis)
    values = np.take_along_axis(x, places, axis)
    return (values, places.astype(np.int32)) if a.flag("return_indices", True) else values


@kernel("argsort")
def argsort(a: Arguments) -> np.ndarray:
    """The places in order."""
    x = a["x"]
    return np.argsort(
        x if a.flag("ascending") else -x.astype(np.float64), int(a.number("axis", -1)), kind="stable"
    ).astype(np.int32)


@kernel("cumsum")
def cumsum(a: Arguments) -> np.ndarray:
    """Running sums, from behind or without the element itself where asked."""
    x, axis = a["x"], int(a.number("axis", 0))
    if a.flag("reverse"):
        x = np.flip(x, axis)
    total = np.cumsum(x, axis, dtype=x.dtype)
    if a.flag("exclusive"):
        total = total - x
    return np.flip(total, axis) if a.flag("reverse") else total


@kernel("classify")
def classify(a: Arguments) -> Any:
    """The class with the largest probability, and every class with its own."""
    probabilities = np.asarray(a["probabilities"]).reshape(-1)
    classes = [str(item) if isinstance(item, str) else int(np.asarray(item)) for item in a["classes"]]
    return classes[int(probabilities.argmax())], dict(zip(classes, probabilities.tolist(), strict=True))


@kernel("resample")
def resample(a: Arguments) -> np.ndarray:
    """A picture (B, C, H, W) at places (B, h, w, 2) in pixels, across before down."""
    if a.text("coordinates_mode", "") != "unnormalized" or not a.flag("align_corners"):
        raise ValueError("the checker knows places in pixels only")
    x, places = a["x"], np.asarray(a["coordinates"], np.float64)
    height, width = x.shape[2:]
    constant = a.text("padding_mode", "") == "constant"

    def picked(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        rows, columns = (
            np.clip(one, 0, size - 1).astype(np.int64) for one, size in ((rows, height), (columns, width))
        )
        samples = np.arange(x.shape[0])[:, None, None]
        found = np.moveaxis(x[samples, :, rows, columns], -1, 1)
        return np.where(inside[:, None], found, a["padding_value"]) if constant else found

    columns, rows = places[..., 0], places[..., 1]
    if a.text("sampling_mode", "") == "nearest":
        return picked(np.rint(rows), np.rint(columns))
    if not constant:
        columns, rows = np.clip(columns, 0, width - 1), np.clip(rows, 0, height - 1)
    top, left = np.floor(rows), np.floor(columns)
    total = np.zeros((x.shape[0], x.shape[1], *rows.shape[1:]), np.float64)
    for down in (0, 1):
        for right in (0, 1):
            weight = (1 - np.abs(rows - top - down)) * (1 - np.abs(columns - left - right))
            total += weight[:, None] * picked(top + down, left + right)
    return total.astype(np.float32)
