"""Drawn cases of the ops that there are TensorRT plugins for, and what is compared."""

from __future__ import annotations

import numpy as np

REDUCTIONS = ("TokenMerge", "TokenMergeEnergy", "TokenPrune")
ORDER = {
    "TokenMerge": ("tokens", "metric", "sizes"),
    "TokenMergeEnergy": ("tokens", "metric", "sizes"),
    "TokenPrune": ("tokens", "score", "metric", "sizes"),
    "TokenRestore": ("tokens", "assignment"),
    "VarlenAttention": ("query", "key", "value", "cu_seqlens"),
}
"""Inputs of each op in order."""

LIKE_FIRST = ("tokens", "metric", "query", "key", "value")
"""Inputs that are fp16 in an fp16 graph; the others keep their type."""


def draw(op_type: str, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, int | float]]:
    """Feeds that fp16 holds, in float32 or int32, and attributes; some are left to their defaults."""
    if op_type == "VarlenAttention":
        return _draw_attention(rng)
    if op_type == "TokenRestore":
        kept, batch = int(rng.integers(1, 40)), int(rng.integers(1, 4))
        tokens = rng.normal(size=(batch, kept, int(rng.choice([1, 5, 16, 40])))).astype(np.float16)
        places = rng.integers(0, kept, (batch, int(rng.integers(1, 99)))).astype(np.int32)
        return {"tokens": tokens.astype(np.float32), "assignment": places}, {}
    protected, free = int(rng.integers(0, 4)), int(rng.choice([2, 3, 5, 8, 17, 33]))
    length, limit = free + protected, free - 1 if op_type == "TokenPrune" else free // 2
    batch, heads = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    depth, channels = int(rng.choice([1, 3, 8, 65])), int(rng.choice([1, 5, 16, 40]))
    # Metrics of small integers, whose products are exact whatever the order of sums.
    metric = rng.integers(-2, 3, (batch, heads, length, depth)).astype(np.float32)
    if rng.random() < 0.3:
        metric[:, :, rng.integers(0, length, length // 2)] = metric[:, :, [int(rng.integers(0, length))]]
    feeds = {
        "tokens": rng.integers(-64, 65, (batch, length, channels)).astype(np.float32) / 16,
        "metric": metric,
        # Above 2048 fp16 has no odd numbers: a size that passes through it shows.
        "sizes": (rng.integers(0 if rng.random() < 0.5 else 1, 3, (batch, length, 1)) * 2049).astype(
            np.float32
        ),
    }
    attributes: dict[str, int | float] = {
        "r": int(rng.choice([0, 1, limit // 2, limit])),
        "protected": protected,
    }
    if op_type == "TokenPrune":
        feeds["score"] = rng.integers(-3, 4, (batch, length)).astype(np.float32) * 2049
        if rng.random() < 0.7:
            attributes["merge"] = int(rng.integers(0, 2))
    if op_type == "TokenMergeEnergy" and rng.random() < 0.7:
        attributes["margin"] = float(rng.choice([-0.25, 0.0, 0.75]))
    return feeds, attributes


def _draw_attention(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, int | float]]:
    lengths = rng.choice([0, 1, 2, 7, 16, 17, 33, 65], size=int(rng.integers(1, 4)))
    if not lengths.sum():
        lengths[0] = 3
    heads, depth = int(rng.integers(1, 4)), int(rng.choice([8, 24, 32, 64, 72, 128]))
    feeds = {
        name: rng.normal(size=(lengths.sum(), heads, depth)).astype(np.float16).astype(np.float32)
        for name in ("query", "key", "value")
    }
    feeds["cu_seqlens"] = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    attributes: dict[str, int | float] = {}
    if rng.random() < 0.5:
        attributes["max_length"] = int(lengths.max() + rng.integers(0, 100))
    if rng.random() < 0.5:
        attributes["scale"] = float(rng.choice([0.0, 0.0625, 0.5]))
    return feeds, attributes


def inputs_of(op_type: str, feeds: dict[str, np.ndarray], *, half: bool) -> list[np.ndarray]:
    """The feeds as a plugin gets them."""
    return [
        feeds[name].astype(np.float16) if half and name in LIKE_FIRST else feeds[name]
        for name in ORDER[op_type]
    ]


def difference(op_type: str, found: list[np.ndarray], expected: list[np.ndarray], *, half: bool) -> str:
    """What is wrong with a plugin's outputs; empty where they are what the definition gives.

    Sizes, places and copied values are equal bit for bit. Averages are rounded once to fp16, a part of 2^-11,
    and their sums are those of fp32. A GPU's attention rounds its weights to fp16 as well.
    """
    for place, (one, other) in enumerate(zip(found, expected, strict=True)):
        if one.shape != other.shape:
            return f"output {place} has shape {one.shape}, not {other.shape}"
        exact = op_type == "TokenRestore" or place > 0
        if exact and not np.array_equal(one.astype(other.dtype), other):
            return f"output {place} differs"
        scale = max(1.0, float(np.abs(other).max(initial=0.0)))
        error = float(np.abs(one.astype(np.float64) - other).max(initial=0.0)) / scale
        bound = 2.0e-3 if op_type == "VarlenAttention" else 2.0**-10 if half else 2.0e-6
        if not error <= bound:
            return f"output {place} is off by {error:.1e} of {scale:.1f}"
    return ""
