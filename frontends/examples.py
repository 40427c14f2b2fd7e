"""Drawing example inputs: distinct, never all zeros, and possible for what they mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from edgec.core.graph import Arrays, OpenSize, TensorSpec

_OPEN_SIZES = (3, 2, 4, 5)
"""Sizes of open batch dimensions in the samples: not 1, which exporters bake in."""

_OPEN_LENGTHS = (24, 16, 40, 33)
"""Sizes of other open dimensions."""


@dataclasses.dataclass(frozen=True)
class Drawing:
    """How to draw one input.

    Attributes:
        low: smallest integer.
        high: one past the largest integer.
        like: an example whose values are drawn from again; used where it holds enough of them.
        segments: whether the values are segment numbers: runs, in order (`token_type_ids`).
        padded_by: the mask whose zeros are padding in this input; the first sample has none.
        pad: the value at padding, and nowhere else.
    """

    low: int = 0
    high: int = 2
    like: np.ndarray | None = None
    segments: bool = False
    padded_by: str | None = None
    pad: int | None = None


def within(drawn: int, limit: OpenSize | None, sample: int) -> int:
    """A size that an open dimension may have: one of the few it has, in turn from the largest; of a range the
    drawn one, then the largest and the smallest.
    """
    if limit is None:
        return drawn
    if limit.choices:
        return limit.choices[-1 - sample % len(limit.choices)]
    return {1: limit.high, 2: limit.low}.get(sample, min(max(drawn, limit.low), limit.high))


def open_sizes(
    specs: Sequence[TensorSpec], sample: int, limits: Mapping[str, OpenSize] | None = None
) -> dict[str, int]:
    """A size for every open dimension in one sample, the same wherever its name comes again."""
    limits = limits or {}
    sizes: dict[str, int] = {}
    for spec in specs:
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str) and size not in sizes:
                choices = _OPEN_SIZES if axis == 0 else _OPEN_LENGTHS
                drawn = choices[(sample + len(sizes)) % len(choices)]
                sizes[size] = within(drawn, limits.get(size), sample)
    return sizes


def draw(
    specs: Sequence[TensorSpec],
    drawings: Mapping[str, Drawing],
    *,
    samples: int,
    seed: int,
    sizes: Mapping[str, int] | None = None,
    limits: Mapping[str, OpenSize] | None = None,
) -> list[Arrays]:
    """Feeds for the inputs.

    Floats are normal with mean 0 and standard deviation 1; integers uniform in their range; masks
    start with ones and end with padding in every sample but the first.

    Args:
        specs: the inputs.
        drawings: how to draw those that need a range, by name.
        samples: how many feeds.
        seed: of the generator; the same seed gives the same feeds.
        sizes: sizes of open dimensions in all samples, by the dimension's name; drawn where not given.
        limits: what drawn sizes may be, by the dimension's name.
    """
    generator = np.random.default_rng(seed)
    feeds = []
    for sample in range(samples):
        known = {**open_sizes(specs, sample, limits), **(sizes or {})}
        feed = {}
        for spec in specs:
            shape = tuple(known[size] if isinstance(size, str) else size for size in spec.shape)
            feed[spec.name] = _draw_one(
                spec, shape, drawings.get(spec.name, Drawing()), generator, padded=sample > 0
            )
        for name, drawing in drawings.items():
            if name in feed and drawing.pad is not None:
                _pad(feed[name], feed.get(drawing.padded_by or ""), drawing)
        feeds.append(feed)
    return feeds


def numberless(references: Sequence[Arrays]) -> str | None:
    """The first output that is NaN somewhere, or finite nowhere: nothing could be compared with it."""
    for name in references[0] if references else ():
        arrays = [np.asarray(outputs[name]) for outputs in references]
        floats = [array for array in arrays if array.size and np.issubdtype(array.dtype, np.floating)]
        if floats and (
            any(np.isnan(array).any() for array in floats)
            or not any(np.isfinite(array).any() for array in floats)
        ):
            return name
    return None


def _pad(values: np.ndarray, mask: np.ndarray | None, drawing: Drawing) -> None:
    """Padding holds the padding value and nothing else does, since models look for it."""
    span = drawing.high - drawing.low
    if drawing.pad is None or span < 2:
        return
    values[values == drawing.pad] = drawing.low + (drawing.pad - drawing.low + 1) % span
    if mask is not None and mask.shape == values.shape:
        values[mask == 0] = drawing.pad


def _draw_one(
    spec: TensorSpec,
    shape: tuple[int, ...],
    drawing: Drawing,
    generator: np.random.Generator,
    *,
    padded: bool,
) -> np.ndarray:
    dtype = np.dtype(spec.dtype)
    if spec.semantics == "mask":
        return _mask(shape, generator, padded=padded).astype(dtype)
    if drawing.segments:
        start = generator.integers(1, max(2, shape[-1]), size=shape[:-1])[..., None] if shape else 0
        return (np.arange(shape[-1] if shape else 1) >= start).astype(dtype).reshape(shape)
    like = None if drawing.like is None else np.unique(drawing.like)
    if like is not None and _is_rich(like, dtype):
        # Drawing the example's values again keeps their range, sign and spread, whatever they mean.
        return generator.choice(np.asarray(drawing.like).ravel(), size=shape).astype(dtype)
    if dtype == np.bool_:
        return _not_all_zero(generator.random(shape) < 0.7)
    if np.issubdtype(dtype, np.integer):
        if like is not None and like.size == 1 and np.asarray(drawing.like).size == 1 and like[0] != 0:
            return np.full(shape, like[0], dtype)  # one number, such as a length: it must stay possible
        return _not_all_zero(
            generator.integers(drawing.low, max(drawing.high, drawing.low + 1), shape)
        ).astype(dtype)
    return generator.standard_normal(shape).astype(dtype)


def _is_rich(values: np.ndarray, dtype: np.dtype) -> bool:
    return values.size >= (2 if np.issubdtype(dtype, np.integer) or dtype == np.bool_ else 16)


def _not_all_zero(values: np.ndarray) -> np.ndarray:
    if values.size and not values.any():
        values.reshape(-1)[0] = 1
    return values


def _mask(shape: tuple[int, ...], generator: np.random.Generator, *, padded: bool) -> np.ndarray:
    """Ones, then padding: at least one token is real, and a padded mask has at least one zero."""
    mask = np.ones(shape, bool)
    if not shape or shape[-1] < 2:
        return mask
    rows = mask.reshape(-1, shape[-1])
    if padded:
        lengths = generator.integers(max(1, shape[-1] // 4), shape[-1], size=rows.shape[0])
        rows &= np.arange(shape[-1]) < lengths[:, None]
    return rows.reshape(shape)
