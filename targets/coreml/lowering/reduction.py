"""Reductions."""

from __future__ import annotations

import numpy as np

from edgec.targets.coreml.lowering.rank import reduced
from edgec.targets.coreml.lowering.site import (
    Folded,
    Operand,
    Site,
    dtype_of,
    positive_axis,
    rank_of,
    shape_of,
)
from edgec.targets.coreml.lowering.table import lowers

_REDUCTIONS = {
    "ReduceL1": "reduce_l1_norm",
    "ReduceL2": "reduce_l2_norm",
    "ReduceLogSum": "reduce_log_sum",
    "ReduceLogSumExp": "reduce_log_sum_exp",
    "ReduceMax": "reduce_max",
    "ReduceMean": "reduce_mean",
    "ReduceMin": "reduce_min",
    "ReduceProd": "reduce_prod",
    "ReduceSum": "reduce_sum",
    "ReduceSumSquare": "reduce_sum_square",
}


@lowers(*_REDUCTIONS)
def reduce(site: Site) -> Operand:
    """Over the given axes, or over all of them."""
    view = site.raw(0)
    if not isinstance(view, Folded):
        view = site.operand(0)
    rank = len(view.sizes) if isinstance(view, Folded) else rank_of(view)
    # Up to opset 17 the axes of most reductions are an attribute.
    axes = site.optional_constant(1, "the axes") if site.has(1) else site.attribute("axes")
    axes = None if axes is None else np.asarray(axes)
    if (axes is None or axes.size == 0) and site.attribute("noop_with_empty_axes", 0):
        return _of_single(site, site.operand(0))
    chosen = range(rank) if axes is None or axes.size == 0 else [int(axis) for axis in axes.reshape(-1)]
    positive = np.array(sorted({positive_axis(axis, rank) for axis in chosen}), np.int32)
    keep = bool(site.attribute("keepdims", 1))
    if isinstance(view, Folded):
        return reduced(site, view, positive.tolist(), keep, _REDUCTIONS[site.op])
    x = view
    if rank == 0:
        return _of_single(site, x)
    if dtype_of(x) == np.bool_:
        result = site.emit(_REDUCTIONS[site.op], x=site.cast(x, np.int32), axes=positive, keep_dims=keep)
        return site.cast(result, np.bool_)
    return site.emit(_REDUCTIONS[site.op], x=x, axes=positive, keep_dims=keep)


def _of_single(site: Site, x: Operand) -> Operand:
    """What a reduction over no axes leaves: its elementwise part."""
    if site.op in ("ReduceL1", "ReduceL2"):
        return site.emit("abs", x=x)
    if site.op == "ReduceSumSquare":
        return site.emit("mul", x=x, y=x)
    if site.op == "ReduceLogSum":
        return site.emit("log", x=x, epsilon=site.like(x, 0))
    return site.emit("identity", x=x)


@lowers("ArgMax", "ArgMin")
def arg_reduce(site: Site) -> Operand:
    """The place of the extreme; the last of equals by searching from behind."""
    x = site.operand(0)
    axis = positive_axis(int(site.attribute("axis", 0)), rank_of(x))
    keep = bool(site.attribute("keepdims", 1))
    mil_op = "reduce_argmax" if site.op == "ArgMax" else "reduce_argmin"
    if not site.attribute("select_last_index", 0):
        return site.emit(mil_op, x=x, axis=axis, keep_dims=keep)
    place = site.emit(
        mil_op, x=site.emit("reverse", x=x, axes=np.array([axis], np.int32)), axis=axis, keep_dims=keep
    )
    return site.emit("sub", x=np.array(shape_of(x)[axis] - 1, np.int32), y=place)
