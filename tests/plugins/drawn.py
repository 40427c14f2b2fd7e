"""Drawn shapes and values for every plugin, by its declaration, and what a kernel may differ by.

`difference` and `as_given` need numpy alone: a machine with a GPU has no edgec.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgec.plugins.infra import Plugin

Feeds = dict[str, np.ndarray]
Attributes = dict[str, int | float]

COPIES = ("PackTokens", "TokenRestore", "UnpackTokens")
"""Ops that move values and compute none."""

ROUNDING = {"float32": 2e-5, "float16": 2e-3, "bfloat16": 2.0**-7}
"""Of the largest value: float32 sums of some dozens of terms near 1 in another order; of the others one
rounding of the output, and in attention another of the weights."""


def draw(plugin: Plugin, rng: np.random.Generator) -> tuple[Feeds, Attributes]:
    """Feeds that fp16 and bf16 hold, in float32, int32 and bool, and attributes, some of them left out."""
    own = _OWN.get(plugin.op_type)
    if own is not None:
        return own(plugin, rng)
    sizes: dict[str, int] = {}
    return {port.name: _values(port, sizes, rng) for port in plugin.inputs}, {}


def _values(port, sizes: dict[str, int], rng: np.random.Generator) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Small whole numbers over 16, or below 2, of drawn sizes; `sizes` collects these by name."""
    shape = []
    for size in port.sizes:
        drawn = int(rng.integers(1, 9))
        shape.append(sizes.setdefault(size.name, drawn) if size.name else size.value({}))
    if port.kind.value in ("int32", "bool"):
        return rng.integers(0, 2, shape).astype(port.kind.value)
    return (rng.integers(-64, 65, shape) / 16).astype(np.float32)


def _reduction(plugin: Plugin, rng: np.random.Generator) -> tuple[Feeds, Attributes]:
    """Odd lengths, r of 0 and of the most, ties, equal tokens, padding, batches.

    Metrics are small integers, whose products are exact whatever the order of sums: ties are real ties.
    """
    protected, free = int(rng.integers(0, 4)), int(rng.choice([2, 3, 4, 5, 7, 8, 16, 17, 33, 40]))
    pairs = any("2 * r" in rule for rule in plugin.rules)
    length, most = free + protected, free // 2 if pairs else free - 1
    batch, heads = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    depth, channels = int(rng.choice([1, 3, 8, 20, 65])), int(rng.choice([1, 5, 16, 37, 40]))
    metric = rng.integers(-2, 3, (batch, heads, length, depth)).astype(np.float32)
    if rng.random() < 0.3:
        metric[:, :, rng.integers(0, length, length // 2)] = metric[:, :, [int(rng.integers(0, length))]]
    # Above 2048 fp16 has no odd numbers: a size that passes through it shows.
    sizes = rng.integers(0 if rng.random() < 0.5 else 1, 5, (batch, length, 1)) * 2049
    feeds = {
        "tokens": rng.integers(-64, 65, (batch, length, channels)) / 16,
        "metric": metric,
        "sizes": sizes,
        "score": rng.integers(-3, 4, (batch, length)) * 2049,
    }
    attributes: Attributes = {"r": int(rng.choice([0, 1, most // 2, most])), "protected": protected}
    if "merge" in plugin.attributes and rng.random() < 0.7:
        attributes["merge"] = int(rng.integers(0, 2))
    if "margin" in plugin.attributes and rng.random() < 0.7:
        attributes["margin"] = float(rng.choice([-0.25, 0.0, 0.75]))
    names = [port.name for port in plugin.inputs]
    return {name: feeds[name].astype(np.float32) for name in names}, attributes


def _restoring(plugin: Plugin, rng: np.random.Generator) -> tuple[Feeds, Attributes]:
    kept, batch = int(rng.integers(1, 40)), int(rng.integers(1, 4))
    tokens = rng.normal(size=(batch, kept, int(rng.choice([1, 5, 16, 40])))).astype(np.float16)
    if rng.random() < 0.3:
        tokens[:, int(rng.integers(0, kept))] = rng.choice([np.nan, np.inf, -np.inf])
    places = rng.integers(0, kept, (batch, int(rng.integers(1, 99)))).astype(np.int32)
    return {"tokens": _narrow(tokens), "assignment": places}, {}


def _attention(plugin: Plugin, rng: np.random.Generator) -> tuple[Feeds, Attributes]:
    """Empty and short sequences, and such as end just before and behind a tile."""
    lengths = rng.choice([0, 1, 2, 7, 16, 17, 33, 65, 121], size=int(rng.integers(1, 4)))
    if not lengths.sum():
        lengths[0] = 3
    heads, depth = int(rng.integers(1, 4)), int(rng.choice([8, 24, 32, 64, 72, 128]))
    shape = (int(lengths.sum()), heads, depth)
    feeds = {name: _narrow(rng.normal(size=shape)) for name in ("query", "key", "value")}
    feeds["cu_seqlens"] = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    attributes: Attributes = {}
    if rng.random() < 0.5:
        attributes["max_length"] = int(lengths.max() + rng.integers(0, 100))
    if rng.random() < 0.5:
        attributes["scale"] = float(rng.choice([0.0, 0.0625, 0.5]))
    if "window" in plugin.attributes:
        # Places rise within a sequence, with holes.
        drawn = [np.sort(rng.choice(2 * each + 1, each, replace=False)) for each in lengths]
        feeds["places"] = np.concatenate(drawn).astype(np.int32)
        attributes["window"] = int(rng.choice([0, 5, 40]))
    return feeds, attributes


def _packing(plugin: Plugin, rng: np.random.Generator) -> tuple[Feeds, Attributes]:
    batch, length, channels = int(rng.integers(1, 5)), int(rng.integers(1, 10)), int(rng.integers(1, 6))
    visible = rng.random((batch, length)) < rng.choice([0.2, 0.6, 1.0])
    tokens = _narrow(rng.normal(size=(batch, length, channels)))
    if plugin.op_type == "UnpackTokens":
        return {"packed": tokens[visible][None], "visible": visible}, {}
    return {"tokens": tokens, "visible": visible}, {}


def _sizes(plugin: Plugin, rng: np.random.Generator) -> tuple[Feeds, Attributes]:
    sizes = rng.choice([0, 1, 2, 7.5, 1e-30], (int(rng.integers(1, 4)), int(rng.integers(1, 9)), 1))
    return {"sizes": sizes.astype(np.float32)}, {"heads": int(rng.integers(1, 4))}


def _narrow(array: np.ndarray) -> np.ndarray:
    """The nearest numbers that both fp16 and bf16 hold: seven bits behind the first."""
    narrow = np.asarray(array, np.float32)
    fraction, exponent = np.frexp(narrow)
    return np.where(np.isfinite(narrow), np.ldexp(np.rint(fraction * 256) / 256, exponent), narrow).astype(
        np.float32
    )


_OWN: dict[str, Callable[[Plugin, np.random.Generator], tuple[Feeds, Attributes]]] = {
    **dict.fromkeys(("TokenMerge", "TokenMergeEnergy", "TokenPrune", "TokenTransform"), _reduction),
    **dict.fromkeys(("VarlenAttention", "VarlenWindowAttention"), _attention),
    **dict.fromkeys(("PackTokens", "UnpackTokens"), _packing),
    "SizeBias": _sizes,
    "TokenRestore": _restoring,
}
"""Draws of the ops whose values must go together; all others draw every input by itself."""


def as_given(arrays: Sequence[np.ndarray], like_first: Sequence[bool], dtype: np.dtype) -> list[np.ndarray]:
    """The arrays as a kernel gets them: those that are like the first input in its type."""
    return [
        np.ascontiguousarray(array.astype(dtype) if like else array)
        for array, like in zip(arrays, like_first, strict=True)
    ]


def difference(
    op_type: str,
    found: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    like_first: Sequence[bool],
    dtype: str,
) -> str:
    """What is wrong with a kernel's outputs; empty where they are what the definition gives.

    What is not like the first input, counts and places, and values that are copied are equal bit for bit; a
    logarithm is right to the last places.
    """
    for place, (one, other) in enumerate(zip(found, expected, strict=True)):
        if one.shape != other.shape:
            return f"output {place} has shape {one.shape}, not {other.shape}"
        wide, exact = one.astype(np.float64), other.astype(np.float64)
        if op_type == "SizeBias":
            if not np.allclose(wide, exact, rtol=1e-6):
                return f"output {place} differs"
        elif op_type in COPIES or not like_first[place]:
            if not np.array_equal(wide, exact, equal_nan=True):
                return f"output {place} differs"
        else:
            scale = max(1.0, float(np.abs(exact).max(initial=0.0)))
            error = float(np.abs(wide - exact).max(initial=0.0)) / scale
            if not error <= ROUNDING[dtype]:
                return f"output {place} is off by {error:.1e} of {scale:.1f}"
    return ""
