"""How far the outputs of a graph in lower precision are from the fp32 graph's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgec.core.graph import Arrays

NUDGE = 0.02
"""Part of each number by which a nudged feed differs: many of fp16's steps, and little to the model."""


def mean_error(expected: Sequence[Arrays], found: Sequence[Arrays]) -> float:
    """Root of the mean square of `rms_error` over samples."""
    errors = [rms_error(reference, actual) for reference, actual in zip(expected, found, strict=True)]
    return math.sqrt(sum(error**2 for error in errors) / len(errors))


def rms_error(reference: Arrays, found: Arrays) -> float:
    """Root of the mean square difference over the reference's standard deviation, the worst output's.

    inf where a result is not finite and its reference is.
    """
    worst = 0.0
    for name, expected in reference.items():
        if expected.dtype.kind != "f" or not expected.size:
            continue
        wide, actual = expected.astype(np.float64), found[name].astype(np.float64)
        finite = np.isfinite(wide)
        if not np.isfinite(actual[finite]).all():
            return math.inf
        if not finite.any():
            continue
        spread = float(np.std(wide[finite])) or max(1e-30, float(np.abs(wide[finite]).max()))
        worst = max(worst, float(np.sqrt(np.mean((wide[finite] - actual[finite]) ** 2))) / spread)
    return worst


def nudged(feeds: Sequence[Arrays], count: int) -> list[Arrays]:
    """Further feeds near the given ones: the same ranges, and every rounding falls anew.

    A model of ten outputs shows too few errors on three samples to judge by. What is not floating stays, so
    where nothing is there are none.
    """
    if not any(array.dtype.kind == "f" for feed in feeds for array in feed.values()):
        return []
    random = np.random.default_rng(0)
    found = []
    for place in range(count):
        feed = feeds[place % len(feeds)]
        found.append(
            {
                name: (array * (1 + NUDGE * random.standard_normal(array.shape))).astype(array.dtype)
                if array.dtype.kind == "f"
                else array
                for name, array in feed.items()
            }
        )
    return found
