"""Gathering and scattering by index; ordering."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgec.targets.coreml.lowering.rank import sizes_in_view, taken
from edgec.targets.coreml.lowering.site import (
    MAX_RANK,
    Folded,
    Operand,
    Refusal,
    Site,
    dtype_of,
    positive_axis,
    rank_of,
    shape_of,
)
from edgec.targets.coreml.lowering.table import lowers


def _counted_from_front(site: Site, indices: Operand, size: int) -> Operand:
    """Indices without negative ones: Core ML leaves those undefined from iOS 17 on."""
    if isinstance(indices, np.ndarray):
        return np.where(indices < 0, indices + size, indices).astype(np.int32)
    negative = site.emit("less", x=indices, y=np.array(0, np.int32))
    return site.select(cond=negative, a=site.emit("add", x=indices, y=np.array(size, np.int32)), b=indices)


def _as_number(site: Site, x: Operand) -> tuple[Operand, np.dtype]:
    """Bools as int32, which gathering and scattering take, and the type to go back to."""
    dtype = dtype_of(x)
    return (site.cast(x, np.int32) if dtype == np.bool_ else x), dtype


@lowers("Gather")
def gather(site: Site) -> Operand:
    """Rows of an axis; a scalar index drops the axis."""
    view = site.raw(0)
    rank = len(sizes_in_view(view)) if isinstance(view, Folded) else rank_of(view)
    if isinstance(view, Folded) or rank + rank_of(site.operand(1)) - 1 > MAX_RANK:
        along = positive_axis(int(site.attribute("axis", 0)), rank)
        places = _counted_from_front(site, site.operand(1), sizes_in_view(view)[along])
        return taken(site, view, along, places)
    x, dtype = _as_number(site, site.operand(0))
    axis = positive_axis(int(site.attribute("axis", 0)), rank_of(x))
    if isinstance(site.operand(1), np.ndarray) and isinstance(x.shape[axis], (int, np.integer)):
        constant = np.asarray(site.operand(1))
        result = _contiguous(site, x, axis, constant)
        if result is not None:
            return site.cast(result, dtype)
    indices = _counted_from_front(site, site.operand(1), shape_at(x, axis))
    return site.cast(site.emit("gather", x=x, indices=indices, axis=axis), dtype)


def _contiguous(site: Site, x: Operand, axis: int, indices: np.ndarray) -> Operand | None:
    """A single constant index is a slice, which any compute unit takes."""
    if indices.size != 1 or indices.ndim > 1 or isinstance(x, np.ndarray):
        return None
    rank = rank_of(x)
    at = int(indices.reshape(-1)[0])
    at = at + int(x.shape[axis]) if at < 0 else at
    begin, end, masked = [0] * rank, [0] * rank, [True] * rank
    begin[axis], end[axis], masked[axis] = at, at + 1, False
    return site.emit(
        "slice_by_index",
        x=x,
        begin=np.array(begin, np.int32),
        end=np.array(end, np.int32),
        begin_mask=masked,
        end_mask=masked,
        squeeze_mask=[indices.ndim == 0 and other == axis for other in range(rank)],
    )


def shape_at(x: Operand, axis: int) -> int:
    """The size of one axis.

    Raises:
        Refusal: it is open.
    """
    size = x.shape[axis]
    if not isinstance(size, (int, np.integer)):
        raise Refusal(f"axis {axis} has an open size", "fix the model's open dimensions")
    return int(size)


@lowers("GatherElements")
def gather_elements(site: Site) -> Operand:
    """`gather_along_axis`."""
    x, dtype = _as_number(site, site.operand(0))
    axis = positive_axis(int(site.attribute("axis", 0)), rank_of(x))
    indices = _counted_from_front(site, site.operand(1), shape_at(x, axis))
    _check_sizes(x, indices, axis)
    return site.cast(site.emit("gather_along_axis", x=x, indices=indices, axis=axis), dtype)


def _check_sizes(x: Operand, indices: Operand, axis: int) -> None:
    """Core ML wants the other axes equal; ONNX lets the indices be smaller."""
    for other, (have, want) in enumerate(zip(shape_of(x), shape_of(indices), strict=True)):
        if other != axis and have != want:
            raise Refusal("its indices are smaller than its data along another axis", "slice the data first")


@lowers("GatherND")
def gather_nd(site: Site) -> Operand:
    """`gather_nd`; each column of the indices counts along its own axis."""
    x, dtype = _as_number(site, site.operand(0))
    batch = int(site.attribute("batch_dims", 0))
    indices = _nd_indices(site, x, site.operand(1), batch)
    if batch == 0 and isinstance(indices, np.ndarray) and dtype != np.bool_:
        # Places known now are rows of the flattened axes that they count along.
        depth = indices.shape[-1]
        sizes = shape_of(x)
        rows = np.ravel_multi_index(tuple(np.moveaxis(indices, -1, 0)), sizes[:depth]).astype(np.int32)
        flat = site.reshape(x, (int(np.prod(sizes[:depth])), *sizes[depth:]))
        if rows.ndim + len(sizes) - depth > MAX_RANK:
            return taken(site, flat, 0, rows)
        return site.cast(site.emit("gather", x=flat, indices=rows, axis=0), dtype)
    return site.cast(site.emit("gather_nd", x=x, indices=indices, batch_dims=batch), dtype)


def _nd_indices(site: Site, x: Operand, indices: Operand, batch: int) -> Operand:
    depth = shape_of(indices)[-1]
    sizes = np.array(shape_of(x)[batch : batch + depth], np.int32)
    if isinstance(indices, np.ndarray):
        return np.where(indices < 0, indices + sizes, indices).astype(np.int32)
    negative = site.emit("less", x=indices, y=np.array(0, np.int32))
    return site.select(cond=negative, a=site.emit("add", x=indices, y=sizes), b=indices)


_SCATTER_MODES = {"none": "update", "add": "add", "mul": "mul", "max": "max", "min": "min"}


@lowers("ScatterElements", "Scatter")
def scatter_elements(site: Site) -> Operand:
    """`scatter_along_axis`."""
    data, dtype = _as_number(site, site.operand(0))
    axis = positive_axis(int(site.attribute("axis", 0)), rank_of(data))
    indices = _counted_from_front(site, site.operand(1), shape_at(data, axis))
    _check_sizes(data, indices, axis)
    result = site.emit(
        "scatter_along_axis",
        data=data,
        indices=indices,
        updates=site.cast(site.operand(2), dtype_of(data)),
        axis=axis,
        mode=_SCATTER_MODES[site.attribute("reduction", "none")],
    )
    return site.cast(result, dtype)


@lowers("ScatterND")
def scatter_nd(site: Site) -> Operand:
    """`scatter_nd`."""
    data, dtype = _as_number(site, site.operand(0))
    indices = _nd_indices(site, data, site.operand(1), 0)
    result = site.emit(
        "scatter_nd",
        data=data,
        indices=indices,
        updates=site.cast(site.operand(2), dtype_of(data)),
        mode=_SCATTER_MODES[site.attribute("reduction", "none")],
    )
    return site.cast(result, dtype)


@lowers("OneHot")
def one_hot(site: Site) -> Operand:
    """Equality with the places along a new axis, then on and off values."""
    indices, values = site.operand(0), site.operand(2)
    depth = int(site.constant(1, "the depth").reshape(-1)[0])
    rank = rank_of(indices) + 1
    axis = positive_axis(int(site.attribute("axis", -1)), rank)
    indices = _counted_from_front(site, site.cast(indices, np.int32), depth)
    shape = [1] * rank
    shape[axis] = depth
    places = np.arange(depth, dtype=np.int32).reshape(shape)
    hit = site.emit("equal", x=site.emit("expand_dims", x=indices, axes=np.array([axis], np.int32)), y=places)
    if isinstance(values, np.ndarray):
        return site.select(cond=hit, a=values[1:2].reshape(()), b=values[0:1].reshape(()))
    off, on = site.emit("split", x=values, num_splits=2, axis=0)
    one = [1] * rank
    return site.select(cond=hit, a=site.reshape(on, one), b=site.reshape(off, one))


@lowers("TopK")
def top_k(site: Site) -> Any:
    """The k largest or smallest of an axis, with their places."""
    x = site.operand(0)
    count = int(site.constant(1, "k").reshape(-1)[0])
    return list(
        site.emit(
            "topk",
            x=x,
            k=count,
            axis=positive_axis(int(site.attribute("axis", -1)), rank_of(x)),
            ascending=not site.attribute("largest", 1),
            sort=True,
            return_indices=True,
        )
    )


@lowers("CumSum")
def cumulative_sum(site: Site) -> Operand:
    """Running sums along an axis."""
    x = site.operand(0)
    axis = int(site.constant(1, "the axis").reshape(-1)[0])
    return site.emit(
        "cumsum",
        x=x,
        axis=positive_axis(axis, rank_of(x)),
        exclusive=bool(site.attribute("exclusive", 0)),
        reverse=bool(site.attribute("reverse", 0)),
    )
