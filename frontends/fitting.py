"""Sizes that an input gives and that others must fit: a grid's height and width beside the tokens of it.

A graph does not say which go together, but the source refuses what does not: so they are tried.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from edgec.core.graph import Arrays, TensorSpec
from edgec.frontends.examples import Drawing

_MOST_NUMBERS = 4
"""More sizes than the axes of a picture are not searched for."""

_TRIES = 400

_PER_NUMBER = 24


def fitting_sizes(
    run: Callable[[Arrays], Arrays], specs: Sequence[TensorSpec], sized: Sequence[str], feed: Arrays
) -> dict[str, Drawing]:
    """How to draw the inputs that give sizes, where the source refuses drawn ones.

    Args:
        run: the source.
        specs: the inputs.
        sized: names of those that give sizes.
        feed: a drawn feed.

    Returns:
        a drawing of each, of sizes that the source takes; empty where it takes the feed, or none was found.
    """
    counts = {name: feed[name].size for name in sized}
    total = sum(counts.values())
    if not 0 < total <= _MOST_NUMBERS or _takes(run, feed):
        return {}
    shapes = [feed[spec.name].shape for spec in specs if spec.name not in counts]
    likely = _likely(shapes)
    orders = sorted(itertools.product(range(min(len(likely), 2 ** (16 // total))), repeat=total), key=sum)
    whole = [shape for shape in shapes if len(shape) == total]
    for tried in [*whole, *([likely[place] for place in order] for order in orders[:_TRIES])]:
        numbers = iter(tried)
        sizes = {
            name: np.array([next(numbers) for _ in range(count)], feed[name].dtype).reshape(feed[name].shape)
            for name, count in counts.items()
        }
        if _takes(run, {**feed, **sizes}):
            return {name: Drawing("fixed", like=array) for name, array in sizes.items()}
    return {}


def _takes(run: Callable[[Arrays], Arrays], feed: Arrays) -> bool:
    try:
        run(feed)
    except Exception:  # whatever a source raises on what it does not take
        return False
    return True


def _likely(shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """Sizes beside tensors of the shapes, the likeliest first: sides of a square, axes, what divides them."""
    axes = sorted({size for shape in shapes for size in shape if size > 1}, reverse=True)
    roots = [math.isqrt(size) for size in axes if math.isqrt(size) ** 2 == size]
    divisors = sorted({part for size in axes for part in range(2, size) if size % part == 0})
    whole = [math.prod(shape) for shape in shapes]
    return list(dict.fromkeys([*roots, *axes, 1, *divisors[:_PER_NUMBER], *whole]))[:_PER_NUMBER]
