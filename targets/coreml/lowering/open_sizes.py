"""Ops on tensors with open sizes: rules that need no number for them.

They stand in for the rules of the table wherever an operand's size is open. A target shape with one open
size is written with -1, a broadcast is left to the op, a range is counted at run time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgec.targets.coreml.lowering.attention import MASKED
from edgec.targets.coreml.lowering.site import (
    Operand,
    Refusal,
    Rule,
    Site,
    dtype_of,
    is_fixed,
    positive_axis,
    rank_of,
    sizes_of,
)

_RULES: dict[str, Rule] = {}

_FIX = "give the model's open dimensions sizes with --input"


def open_rule(op_type: str, operands: Sequence[Operand | None]) -> Rule | None:
    """The rule for an op of ONNX's own domain some of whose operands have open sizes."""
    is_open = any(operand is not None and not is_fixed(operand) for operand in operands)
    return _RULES.get(op_type) if is_open or op_type == "Range" else None


def _for_open(*op_types: str) -> Callable[[Rule], Rule]:
    def add(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(op_types, rule))
        return rule

    return add


def _known(size: Any, what: str) -> int:
    if not isinstance(size, (int, np.integer)):
        raise Refusal(f"{what} is open", _FIX)
    return int(size)


def _reshaped(site: Site, x: Operand, sizes: Sequence[Any]) -> Operand:
    """Another shape, of which one size may be open."""
    target = [int(size) if isinstance(size, (int, np.integer)) else -1 for size in sizes]
    if target.count(-1) > 1:
        raise Refusal("its shape has more than one open size", _FIX)
    return site.emit("reshape", x=x, shape=np.array(target, np.int32))


@_for_open("Gather")
def gather(site: Site) -> Operand:
    """Rows of an axis of known size, or places that are constants and count from the front."""
    x, indices = site.operand(0), site.operand(1)
    axis = positive_axis(int(site.attribute("axis", 0)), rank_of(x))
    if isinstance(indices, np.ndarray):
        if is_fixed(x) or (indices >= 0).all():
            places = indices if (indices >= 0).all() else indices % _known(x.shape[axis], "the axis")
            return site.emit("gather", x=x, indices=places.astype(np.int32), axis=axis)
        raise Refusal("it counts from the end of an open size", _FIX)
    size = np.array(_known(x.shape[axis], "the axis"), np.int32)
    behind = site.emit("cast", x=site.emit("less", x=indices, y=np.array(0, np.int32)), dtype="int32")
    counted = site.emit("add", x=indices, y=site.emit("mul", x=behind, y=size))
    return site.emit("gather", x=x, indices=counted, axis=axis)


@_for_open("Range")
def range_(site: Site) -> Operand:
    """Counted at run time."""
    start, limit, step = (_scalar(site, site.operand(index)) for index in range(3))
    if dtype_of(limit).kind != "i":
        raise Refusal("the size of Range depends on the data", "fix its bounds before the export")
    return site.emit("range_1d", start=start, end=limit, step=step)


def _scalar(site: Site, value: Operand) -> Operand:
    if isinstance(value, np.ndarray):
        return value.reshape(())
    return value if rank_of(value) == 0 else site.emit("squeeze", x=value)


@_for_open("Where")
def where(site: Site) -> Operand:
    """`select`, with `a` brought to the condition's shape by adding zeros."""
    condition, a, b = site.operand(0), site.operand(1), site.operand(2)
    return _select(site, condition, a, b)


def _select(site: Site, condition: Operand, a: Operand, b: Operand) -> Operand:
    dtype = dtype_of(a)
    if dtype == np.bool_:
        picked = site.emit("logical_and", x=condition, y=a)
        other = site.emit("logical_and", x=site.emit("logical_not", x=condition), y=b)
        return site.emit("logical_or", x=picked, y=other)
    if not isinstance(condition, np.ndarray):
        zeros = site.emit("mul", x=site.cast(condition, dtype), y=np.array(0, dtype))
        a = site.emit("add", x=zeros, y=a)
    return site.emit("select", cond=condition, a=a, b=b)


@_for_open("Expand")
def expand(site: Site) -> Operand:
    """To a shape that only adds axes of one, or spreads axes of one to known sizes."""
    x = site.operand(0)
    wanted = [int(size) for size in site.constant(1, "the shape").reshape(-1)]
    own = [*[1] * (len(wanted) - rank_of(x)), *sizes_of(x)]
    wanted = [*[1] * (len(own) - len(wanted)), *wanted]
    if len(own) != rank_of(x):
        x = _reshaped(site, x, own)
    if all(size == 1 for size in wanted):
        return site.emit("identity", x=x)
    reps = [want if have == 1 else 1 for want, have in zip(wanted, own, strict=True)]
    return site.emit("tile", x=x, reps=np.array(reps, np.int32))


@_for_open("Flatten")
def flatten(site: Site) -> Operand:
    """To rank 2, with one open side at most."""
    x = site.operand(0)
    axis = int(site.attribute("axis", 1)) % max(rank_of(x), 1)
    sides = [sizes_of(x)[:axis], sizes_of(x)[axis:]]
    fixed = [all(isinstance(size, (int, np.integer)) for size in side) for side in sides]
    sizes = [math.prod(side) if known else -1 for side, known in zip(sides, fixed, strict=True)]
    if sizes.count(-1) > 1:
        raise Refusal("both sides of it are open", _FIX)
    return site.emit("reshape", x=x, shape=np.array(sizes, np.int32))


@_for_open("MaxPool", "AveragePool")
def pool(site: Site) -> Operand:
    """Windows with padding in numbers."""
    site.refuse_outputs(1, "the indices of MaxPool")
    x = site.operand(0)
    kernel = [int(size) for size in site.attribute("kernel_shape")]
    count = len(kernel)
    dilated = any(int(size) != 1 for size in site.attribute("dilations", [1] * count))
    if (
        dilated
        or site.attribute("ceil_mode", 0)
        or site.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    ):
        raise Refusal("its windows depend on an open size", _FIX)
    pads = np.array(site.attribute("pads", [0] * (2 * count)), np.int32).reshape(2, count).T.reshape(-1)
    arguments = {
        "x": x,
        "kernel_sizes": np.array(kernel, np.int32),
        "strides": np.array(site.attribute("strides", [1] * count), np.int32),
        "pad_type": "custom",
        "pad": pads,
    }
    if site.op == "AveragePool":
        arguments["exclude_padding_from_average"] = not site.attribute("count_include_pad", 0)
    return site.emit("max_pool" if site.op == "MaxPool" else "avg_pool", **arguments)


@_for_open("RMSNormalization")
def rms_norm(site: Site) -> Operand:
    """As for fixed sizes, the first half of layer_norm over [x, -x]."""
    x = site.operand(0)
    rank = rank_of(x)
    axis = positive_axis(int(site.attribute("axis", -1)), rank)
    size = _known(x.shape[-1], "the last axis")
    both = site.emit("concat", values=[x, site.emit("mul", x=x, y=site.like(x, -1))], axis=rank - 1)
    epsilon = site.like(x, site.attribute("epsilon", 1e-5))
    normal = site.emit("layer_norm", x=both, axes=np.arange(axis, rank, dtype=np.int32), epsilon=epsilon)
    half, _ = site.emit("split", x=normal, split_sizes=np.array([size, size], np.int32), axis=rank - 1)
    return site.emit("mul", x=half, y=site.operand(1))


@_for_open("Attention")
def attention(site: Site) -> list[Operand | None]:
    """Heads, masks and grouped heads as for fixed sizes; causal masks by comparing counted places."""
    for index, what in ((4, "a past"), (6, "lengths of the samples")):
        if site.has(index):
            raise Refusal(f"attention with {what} is not lowered for open sizes", _FIX)
    site.refuse_outputs(1, "attention's keys, values or scores with open sizes")
    if site.attribute("softcap", 0.0) or any(
        int(site.attribute(f"{side}_window_size", -1)) >= 0 for side in ("left", "right")
    ):
        raise Refusal("windows and soft caps are not lowered for open sizes", _FIX)
    query, key, value = (site.operand(index) for index in range(3))
    rank = rank_of(query)
    if rank == 3:
        query = _split_heads(site, query, int(site.attribute("q_num_heads", 0)))
        key, value = (_split_heads(site, x, int(site.attribute("kv_num_heads", 0))) for x in (key, value))
    heads, width = _known(query.shape[1], "the number of heads"), _known(query.shape[3], "a head's width")
    scale = site.attribute("scale") or 1 / math.sqrt(width)
    keys, values = (_repeated(site, x, heads) for x in (key, value))
    bias, seen = _mask(site, query, keys)
    if site.release.fused_attention:
        factor = scale * math.sqrt(width)
        if abs(factor - 1) > 1e-6:
            query = site.emit("mul", x=query, y=site.like(query, factor))
        if bias is not None and rank_of(bias) < 4:
            axes = np.arange(4 - rank_of(bias), dtype=np.int32)
            bias = site.emit("expand_dims", x=bias, axes=axes)
        parts = {"query": query, "key": keys, "value": values, "attn_mask": bias}
        result = site.emit("scaled_dot_product_attention", **parts)
    else:
        scaled = site.emit("mul", x=query, y=site.like(query, scale))
        scores = site.matmul(scaled, keys, transpose_y=True)
        scores = scores if bias is None else site.emit("add", x=scores, y=bias)
        result = site.matmul(site.emit("softmax", x=scores, axis=-1), values)
    if seen is not None:
        result = site.emit("mul", x=result, y=seen)
    if rank == 3:
        merged = heads * _known(values.shape[3], "a head's width")
        batch, _, length, _ = sizes_of(result)
        result = _reshaped(site, site.transpose(result, (0, 2, 1, 3)), (batch, length, merged))
    return [result, None, None, None]


def _split_heads(site: Site, x: Operand, heads: int) -> Operand:
    if heads == 0:
        raise Refusal("inputs of rank 3 come without q_num_heads and kv_num_heads")
    batch, length, hidden = sizes_of(x)
    apart = _reshaped(site, x, (batch, length, heads, _known(hidden, "the width") // heads))
    return site.transpose(apart, (0, 2, 1, 3))


def _repeated(site: Site, x: Operand, heads: int) -> Operand:
    """Each key or value head as often as it has query heads."""
    batch, own, length, width = sizes_of(x)
    if own == heads:
        return x
    own = _known(own, "the number of heads")
    apart = _reshaped(site, x, (batch, own, 1, length, width))
    tiled = site.emit("tile", x=apart, reps=np.array([1, 1, heads // own, 1, 1], np.int32))
    return _reshaped(site, tiled, (batch, heads, length, width))


def _mask(site: Site, query: Operand, keys: Operand) -> tuple[Operand | None, Operand | None]:
    """The additive mask, and 1 for rows that see a key and 0 for those that a bool mask hides whole."""
    dtype = dtype_of(query)
    hidden = np.array(MASKED, dtype)
    causal = None
    if site.attribute("is_causal", 0):
        rows, columns = (_places(site, x) for x in (query, keys))
        causal = site.emit("less_equal", x=_column(site, columns, 0), y=_column(site, rows, 1))
    if not site.has(3):
        if causal is None:
            return None, None
        return _select(site, causal, np.array(0, dtype), hidden), None
    mask = site.operand(3)
    if dtype_of(mask) != np.bool_:
        bias = site.emit("maximum", x=mask, y=hidden)
        if causal is not None:
            bias = site.emit("add", x=bias, y=_select(site, causal, np.array(0, dtype), hidden))
        return bias, None
    allowed = mask if causal is None else site.emit("logical_and", x=mask, y=causal)
    seen = site.emit("reduce_max", x=site.cast(allowed, dtype), axes=np.array([-1], np.int32), keep_dims=True)
    return _select(site, allowed, np.array(0, dtype), hidden), seen


def _places(site: Site, x: Operand) -> Operand:
    """0, 1, … along the sequence of a (B, H, S, D) tensor."""
    length = site.emit(
        "slice_by_index",
        x=site.emit("shape", x=x),
        begin=np.array([2], np.int32),
        end=np.array([3], np.int32),
        squeeze_mask=[True],
    )
    return site.emit("range_1d", start=np.int32(0), end=length, step=np.int32(1))


def _column(site: Site, places: Operand, axis: int) -> Operand:
    return site.emit("expand_dims", x=places, axes=np.array([axis], np.int32))
