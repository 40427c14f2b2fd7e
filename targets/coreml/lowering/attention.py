"""Attention and rotary embedding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgec.targets.coreml.lowering.site import (
    Operand,
    Refusal,
    Site,
    broadcast_shape,
    dtype_of,
    rank_of,
    shape_of,
)
from edgec.targets.coreml.lowering.table import lowers

MASKED = -1e4
"""What a masked score gets. exp(-1e4) is zero in fp32 as in fp16, the number has a value in fp16, and
no difference of masked scores is inf - inf; -3.4e38 would keep the addition in fp32 and off the Neural
Engine."""


@lowers("Attention")
def attention(site: Site) -> Any:
    """softmax(scale · Q · Kᵀ + mask) · V, fused where the release can.

    Heads are split off rank-3 inputs, past keys and values go in front, grouped key and value heads
    are repeated, causal and padding masks are built as constants or comparisons.
    """
    query, key, value = (site.operand(index) for index in range(3))
    rank = rank_of(query)
    if rank == 3:
        query, key, value = _split_heads(site, query, key, value)
    present_key, present_value = key, value
    if site.has(4):
        present_key = site.emit("concat", values=[site.operand(4), key], axis=2)
        present_value = site.emit("concat", values=[site.operand(5), value], axis=2)
    batch, heads, rows, width = shape_of(query)
    columns = shape_of(present_key)[2]
    # Scores that are an output with their mask on keep its own infinities.
    shows_masked = site.output_used(3) and int(site.attribute("qk_matmul_output_mode", 0)) == 2
    floor = -np.inf if shows_masked else MASKED
    bias, reachable = _mask(site, query, rows, columns, floor)
    keys = _repeat_heads(site, present_key, heads)
    values = _repeat_heads(site, present_value, heads)
    scale = site.attribute("scale") or 1 / math.sqrt(width)
    wants_scores = site.output_used(3)
    softcap = float(site.attribute("softcap", 0.0))
    # A fused mask of rank 3 would line up with (batch, …) where ONNX lines it up from the right.
    if site.release.fused_attention and not wants_scores and softcap == 0.0:
        result = _fused(site, query, keys, values, bias, scale, width)
        scores = None
    else:
        result, scores = _decomposed(site, query, keys, values, bias, reachable, scale, softcap)
    result = _reached(site, result, reachable)
    if rank == 3:
        merged = (batch, rows, heads * shape_of(result)[3])
        result = site.reshape(site.transpose(result, (0, 2, 1, 3)), merged)
    return [result, present_key, present_value, scores]


def _reached(site: Site, x: Operand, reachable: Operand | None) -> Operand:
    """Zero in the rows that see no key, as ONNX and torch have it; softmax alone would give a mean."""
    if reachable is None or (isinstance(reachable, np.ndarray) and reachable.all()):
        return x
    return site.emit("mul", x=x, y=site.cast(reachable, dtype_of(x)))


def _split_heads(site: Site, *tensors: Operand) -> list[Operand]:
    counts = [int(site.attribute("q_num_heads", 0)), *[int(site.attribute("kv_num_heads", 0))] * 2]
    split = []
    for tensor, heads in zip(tensors, counts, strict=True):
        if heads == 0:
            raise Refusal("inputs of rank 3 come without q_num_heads and kv_num_heads")
        batch, length, hidden = shape_of(tensor)
        apart = site.reshape(tensor, (batch, length, heads, hidden // heads))
        split.append(site.transpose(apart, (0, 2, 1, 3)))
    return split


def _repeat_heads(site: Site, tensor: Operand, heads: int) -> Operand:
    """Each key or value head as often as it has query heads: h0, h0, h1, h1, …."""
    batch, own, length, width = shape_of(tensor)
    if own == heads:
        return tensor
    apart = site.reshape(tensor, (batch, own, 1, length, width))
    tiled = site.emit("tile", x=apart, reps=np.array([1, 1, heads // own, 1, 1], np.int32))
    return site.reshape(tiled, (batch, heads, length, width))


def _mask(
    site: Site, query: Operand, rows: int, columns: int, floor: float
) -> tuple[Operand | None, Operand | None]:
    """The additive mask, and which rows see any key at all.

    A mask of floats that is computed at run time sees a key in each of its rows (`hidden_rows`).
    """
    dtype = dtype_of(query)
    allowed: np.ndarray | None = None
    window_left, window_right = (int(site.attribute(f"{side}_window_size", -1)) for side in ("left", "right"))
    causal = bool(site.attribute("is_causal", 0))
    if site.has(6):
        return _padded(site, query, rows, columns, causal, (window_left, window_right), floor)
    past = shape_of(site.operand(4))[2] if site.has(4) else 0
    if causal or window_left >= 0 or window_right >= 0:
        distance = np.arange(rows)[:, None] + past - np.arange(columns)[None, :]
        allowed = _reach(distance, causal, window_left, window_right)
    if not site.has(3):
        if allowed is None:
            return None, None
        return np.where(allowed, 0, floor).astype(dtype), allowed.any(-1, keepdims=True)
    mask = site.operand(3)
    mask = _widened(site, mask, columns, floor)
    if isinstance(mask, np.ndarray):
        seen = mask if mask.dtype == np.bool_ else mask > floor
        added = np.where(mask, 0, floor) if mask.dtype == np.bool_ else np.maximum(mask, floor)
        if allowed is not None:
            seen, added = seen & allowed, np.where(allowed, added, floor)
        return np.maximum(added, floor).astype(dtype), seen.any(-1, keepdims=True)
    if dtype_of(mask) == np.bool_:
        if allowed is not None:
            mask = site.emit("logical_and", x=mask, y=allowed)
        seen = _any_of(site, mask, dtype)
        return site.select(cond=mask, a=np.array(0, dtype), b=np.array(floor, dtype)), seen
    mask = site.emit("maximum", x=mask, y=np.array(floor, dtype_of(mask)))
    if allowed is not None:
        mask = site.emit("add", x=mask, y=np.where(allowed, 0, floor).astype(dtype_of(mask)))
    return mask, None


def _any_of(site: Site, allowed: Operand, dtype: np.dtype) -> Operand:
    """1 for each row of a computed boolean mask that is not all false, else 0."""
    last = np.array([rank_of(allowed) - 1], np.int32)
    return site.emit("reduce_max", x=site.cast(allowed, dtype), axes=last, keep_dims=True)


def _reach(distance: np.ndarray, causal: bool, left: int, right: int) -> np.ndarray:
    allowed = np.ones(distance.shape, bool)
    if causal:
        allowed &= distance >= 0
    if left >= 0:
        allowed &= distance <= left
    if right >= 0:
        allowed &= -distance <= right
    return allowed


def _widened(site: Site, mask: Operand, columns: int, floor: float) -> Operand:
    """A mask that is too short hides the keys it does not mention."""
    missing = columns - shape_of(mask)[-1]
    if missing <= 0:
        return mask
    boolean = dtype_of(mask) == np.bool_
    if isinstance(mask, np.ndarray):
        pads = [(0, 0)] * (mask.ndim - 1) + [(0, missing)]
        return np.pad(mask, pads, constant_values=False if boolean else floor)
    if boolean:
        hidden = np.zeros((*shape_of(mask)[:-1], missing), np.int32)
        joined = site.emit("concat", values=[site.cast(mask, np.int32), hidden], axis=rank_of(mask) - 1)
        return site.cast(joined, np.bool_)
    pads = np.array([0] * (2 * rank_of(mask) - 1) + [missing], np.int32)
    return site.emit("pad", x=mask, pad=pads, mode="constant", constant_val=site.like(mask, floor))


def _padded(
    site: Site, query: Operand, rows: int, columns: int, causal: bool, window: tuple[int, int], floor: float
) -> tuple[Operand, Operand]:
    """The mask of keys beyond each sample's length, counted while running."""
    dtype = dtype_of(query)
    batch = shape_of(query)[0]
    lengths = site.reshape(site.operand(6), (batch, 1, 1, 1))
    places = np.arange(columns, dtype=np.int32).reshape(1, 1, 1, columns)
    allowed = site.emit("less", x=places, y=lengths)
    if causal or max(window) >= 0:
        offset = site.emit("sub", x=lengths, y=np.array(rows, np.int32))
        ahead = np.arange(rows, dtype=np.int32)[:, None] - np.arange(columns, dtype=np.int32)[None, :]
        distance = site.emit("add", x=offset, y=ahead.reshape(1, 1, rows, columns))
        limits = []
        if causal:
            limits.append(site.emit("greater_equal", x=distance, y=np.array(0, np.int32)))
        if window[0] >= 0:
            limits.append(site.emit("less_equal", x=distance, y=np.array(window[0], np.int32)))
        if window[1] >= 0:
            limits.append(site.emit("greater_equal", x=distance, y=np.array(-window[1], np.int32)))
        for limit in limits:
            allowed = site.emit("logical_and", x=allowed, y=limit)
    mask = _widened(site, site.operand(3), columns, floor) if site.has(3) else None
    if mask is not None and dtype_of(mask) == np.bool_:
        allowed, mask = site.emit("logical_and", x=allowed, y=mask), None
    bias = site.select(cond=allowed, a=np.array(0, dtype), b=np.array(floor, dtype))
    seen = _any_of(site, allowed, dtype)
    if mask is None:
        return bias, seen
    if isinstance(mask, np.ndarray):
        mask = np.maximum(mask, floor).astype(dtype)
    return site.emit("add", x=bias, y=mask), seen


def _fused(
    site: Site, query: Operand, keys: Operand, values: Operand, bias: Operand | None, scale: float, width: int
) -> Operand:
    """`scaled_dot_product_attention` divides by sqrt(width) and has no scale: what differs goes into Q."""
    factor = scale * math.sqrt(width)
    if abs(factor - 1) > 1e-6:
        query = site.emit("mul", x=query, y=site.like(query, factor))
    if bias is not None and rank_of(bias) < 4:
        bias = site.reshape(bias, (*[1] * (4 - rank_of(bias)), *shape_of(bias)))
    return site.emit("scaled_dot_product_attention", query=query, key=keys, value=values, attn_mask=bias)


def _decomposed(
    site: Site,
    query: Operand,
    keys: Operand,
    values: Operand,
    bias: Operand | None,
    reachable: Operand | None,
    scale: float,
    softcap: float,
) -> tuple[Operand, Operand]:
    """The scale goes onto Q, whose values it keeps small in fp16; ONNX's four kinds of scores come out."""
    query = site.emit("mul", x=query, y=site.like(query, scale))
    raw = scores = site.matmul(query, keys, transpose_y=True)
    if softcap > 0:
        squeezed = site.emit("tanh", x=site.emit("mul", x=scores, y=site.like(scores, 1 / softcap)))
        raw_capped = scores = site.emit("mul", x=squeezed, y=site.like(scores, softcap))
    else:
        raw_capped = raw
    if bias is not None:
        broadcast_shape([shape_of(scores), shape_of(bias)])
        scores = site.emit("add", x=scores, y=bias)
    probabilities = site.emit("softmax", x=scores, axis=-1)
    mode = int(site.attribute("qk_matmul_output_mode", 0))
    if mode == 3:
        probabilities = _reached(site, probabilities, reachable)
    shown = {0: raw, 1: raw_capped, 2: scores, 3: probabilities}[mode]
    return site.matmul(probabilities, values), shown


@lowers("RotaryEmbedding")
def rotary_embedding(site: Site) -> Operand:
    """Rotates pairs of features by position (Su et al. 2021), halves or interleaved.

    x is (B, H, S, D) or (B, S, H·D); the caches are (S or positions, D/2).
    """
    x = site.operand(0)
    rank, shape = rank_of(x), shape_of(x)
    cos, sin = _caches(site)
    if rank == 3:
        heads = int(site.attribute("num_heads", 0))
        if heads == 0:
            raise Refusal("an input of rank 3 comes without num_heads")
        x = site.reshape(x, (shape[0], shape[1], heads, shape[2] // heads))
        cos, sin = (
            site.reshape(cache, (*shape_of(cache)[:2], 1, shape_of(cache)[2])) for cache in (cos, sin)
        )
    else:
        cos, sin = (
            site.reshape(cache, (shape_of(cache)[0], 1, *shape_of(cache)[1:])) for cache in (cos, sin)
        )
    width = shape_of(x)[3]
    turned = int(site.attribute("rotary_embedding_dim", 0)) or width
    rest = None
    if turned < width:
        x, rest = site.emit("split", x=x, split_sizes=np.array([turned, width - turned], np.int32), axis=3)
    result = _rotated(site, x, cos, sin, bool(site.attribute("interleaved", 0)))
    if rest is not None:
        result = site.emit("concat", values=[result, rest], axis=3)
    return site.reshape(result, shape)


def _caches(site: Site) -> tuple[Operand, Operand]:
    cos, sin = site.operand(1), site.operand(2)
    if site.has(3):
        positions = site.operand(3)
        if isinstance(positions, np.ndarray) and isinstance(cos, np.ndarray) and isinstance(sin, np.ndarray):
            return cos[positions], sin[positions]
        cos, sin = (site.emit("gather", x=cache, indices=positions, axis=0) for cache in (cos, sin))
    return cos, sin


def _rotated(site: Site, x: Operand, cos: Operand, sin: Operand, interleaved: bool) -> Operand:
    shape = shape_of(x)
    half = shape[3] // 2
    if interleaved:
        paired = site.reshape(x, (shape[0], shape[1], shape[2] * half, 2))
        first, second = site.emit("split", x=paired, num_splits=2, axis=3)
        first, second = (site.reshape(part, (*shape[:3], half)) for part in (first, second))
    else:
        first, second = site.emit("split", x=x, num_splits=2, axis=3)
    real = site.emit("sub", x=site.emit("mul", x=first, y=cos), y=site.emit("mul", x=second, y=sin))
    imaginary = site.emit("add", x=site.emit("mul", x=first, y=sin), y=site.emit("mul", x=second, y=cos))
    if not interleaved:
        return site.emit("concat", values=[real, imaginary], axis=3)
    column = (shape[0], shape[1], shape[2] * half, 1)
    parts = [site.reshape(part, column) for part in (real, imaginary)]
    return site.reshape(site.emit("concat", values=parts, axis=3), shape)
