"""Drawing example inputs: as far apart as real ones are, and possible for what they mean.

The first sample is typical: full length, nothing padded, positions from 0. The ends come behind it: the last
position, the first and last id, padding on the right, on the left and with holes, sound at full amplitude.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from edgec.core.graph import Arrays, DrawnInput, OpenSize, TensorSpec

_OPEN_SIZES = (3, 2, 4, 5)
"""Sizes of open batch dimensions in the samples: not 1, which exporters bake in."""

_OPEN_LENGTHS = (24, 16, 40, 33)
"""Sizes of other open dimensions."""

_SMALL = 4
"""One past the largest integer of which nothing is known."""

_QUIET = 0.01
"""Amplitude of the quiet sample of a sound, beside 1 and full scale."""

_OFFSET = 30.0
"""Means of channels in long sums: trained transformers have channels whose mean is tens of the others' spread
(Dettmers et al., LLM.int8(), 2022)."""

_BIAS = -1e4
"""What a hidden score is biased with in models that also run in fp16."""

HIDDEN_WHOLE = ", rows hidden whole"
"""What the words for a mask end with where it hides rows whole."""

Kind = Literal[
    "values",
    "positions",
    "segments",
    "lengths",
    "mask",
    "bias",
    "sound",
    "offset",
    "choices",
    "boxes",
    "fixed",
]


@dataclasses.dataclass(frozen=True)
class Drawing:
    """How to draw one input.

    Attributes:
        kind: `values` of a range (of floats: normal unless `uniform`); `positions`, runs that count up;
            `segments`, runs of equal numbers in order; `lengths`; a `mask` of ones and zeros; a `bias` of
            0 and what hides a score; `sound`, from the amplitude `low` (1 where it is 0) up to `high` among
            the samples; `offset`, normal with means of their own along an axis; `choices`, one number of
            `like`, in turn; `boxes`, left, top, right and bottom along the last axis; `fixed`, what `like`
            holds: sizes that must fit other inputs'.
        low: smallest value.
        high: one past the largest integer, and the largest float; of lengths 0 for the other inputs' own.
        uniform: whether floats are uniform from `low` to `high`.
        like: an example whose values are drawn from again; used where it holds enough of them.
        inverted: whether a mask's ones hide.
        padded_by: the mask whose zeros are padding in this input; the first sample has none.
        pad: the value at padding, and nowhere else.
        axis: along which an `offset` has its channels.
    """

    kind: Kind = "values"
    low: float = 0
    high: float = 2
    uniform: bool = False
    like: np.ndarray | None = None
    inverted: bool = False
    padded_by: str | None = None
    pad: int | None = None
    axis: int = -1


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


def count(specs: Sequence[TensorSpec], drawings: Mapping[str, Drawing], samples: int) -> int:
    """How many samples show every end: one more than asked where rows of a mask can be hidden whole."""
    hides = any(_kind(spec, drawings.get(spec.name, Drawing())) == "mask" for spec in specs)
    return samples + (hides and samples >= _HIDDEN_WHOLE)


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

    Of what has no kind, floats are normal with mean 0 and standard deviation 1 and integers uniform in
    their range, with both ends in the samples behind the first.

    Args:
        specs: the inputs.
        drawings: how to draw those that need a range, by name.
        samples: how many feeds.
        seed: of the generator; the same seed gives the same feeds.
        sizes: sizes of open dimensions in all samples, by the dimension's name; drawn where not given.
        limits: what drawn sizes may be, by the dimension's name.
    """
    generator = np.random.default_rng(seed)
    flags = [spec.name for spec in specs if np.dtype(spec.dtype) == np.bool_]
    feeds = []
    for sample in range(samples):
        known = {**open_sizes(specs, sample, limits), **(sizes or {})}
        shapes = {
            spec.name: tuple(known[size] if isinstance(size, str) else size for size in spec.shape)
            for spec in specs
        }
        feed = {}
        for spec in specs:
            drawing = drawings.get(spec.name, Drawing())
            if drawing.kind == "lengths" and not drawing.high:
                drawing = dataclasses.replace(drawing, high=_longest(spec.name, shapes))
            flag = flags.index(spec.name) if spec.name in flags else 0
            feed[spec.name] = _draw_one(spec, shapes[spec.name], drawing, generator, sample, flag)
        for name, drawing in drawings.items():
            if name in feed and drawing.pad is not None:
                _pad(feed[name], feed.get(drawing.padded_by or ""), drawing)
        feeds.append(feed)
    return feeds


def told(
    specs: Sequence[TensorSpec], drawings: Mapping[str, Drawing], feeds: Sequence[Arrays]
) -> tuple[DrawnInput, ...]:
    """What each input is in drawn feeds, in words; ranges are those that the feeds do reach."""
    return tuple(
        DrawnInput(
            spec.name, _words(spec, drawings.get(spec.name, Drawing()), [feed[spec.name] for feed in feeds])
        )
        for spec in specs
    )


def hides_whole(specs: Sequence[TensorSpec], drawings: Mapping[str, Drawing], feed: Arrays) -> bool:
    """Whether a mask of the feed hides all of a row."""
    return any(
        feed[spec.name].ndim > 0 and bool(np.all(feed[spec.name] == drawing.inverted, axis=-1).any())
        for spec in specs
        if (drawing := drawings.get(spec.name, Drawing())) and _kind(spec, drawing) == "mask"
    )


def _words(spec: TensorSpec, drawing: Drawing, arrays: Sequence[np.ndarray]) -> str:
    kind, dtype = _kind(spec, drawing), np.dtype(spec.dtype)
    if kind == "fixed" and drawing.like is not None:
        values = ", ".join(f"{number:g}" for number in np.ravel(drawing.like))
        return f"{values}, which fits the other inputs"
    numbers = np.concatenate([array.reshape(-1) for array in arrays])
    reach = f"{numbers.min():.5g}…{numbers.max():.5g}" if numbers.size else "nothing"
    if np.issubdtype(dtype, np.integer) and numbers.size:
        reach = f"{numbers.min()}…{numbers.max()}"
    if kind == "mask":
        whole = any(hides_whole([spec], {spec.name: drawing}, {spec.name: array}) for array in arrays)
        return "a mask with padding and holes" + (HIDDEN_WHOLE if whole else "")
    if kind == "bias":
        return f"0, and {_BIAS:g} or the lowest number where hidden"
    if kind == "choices":
        return " or ".join(f"{number:g}" for number in np.unique(numbers)[::-1])
    if kind == "boxes":
        return f"boxes within {reach}"
    if kind == "positions":
        return f"counting up, {reach}"
    if kind == "lengths":
        return reach
    if kind == "segments":
        return f"segments {reach}"
    if kind == "sound":
        peaks = sorted({float(f"{np.abs(array).max(initial=0):.3g}") for array in arrays})
        return f"sound with peaks of {', '.join(f'{peak:g}' for peak in peaks)}"
    if kind == "offset":
        return f"N(0, 1), and with channels' means in ±{_OFFSET:g}"
    like = None if drawing.like is None else np.unique(drawing.like)
    if like is not None and _is_rich(like, dtype):
        return f"like the example, {reach}"
    if dtype == np.bool_:
        return "true and false"
    return reach if drawing.uniform or np.issubdtype(dtype, np.integer) else "N(0, 1)"


def tame(drawing: Drawing) -> Drawing:
    """A drawing that stays near the start of its range: for a source that refuses the far end."""
    if drawing.kind == "choices" and drawing.like is not None:
        return dataclasses.replace(drawing, like=drawing.like[:1])
    if drawing.kind in ("values", "segments", "mask", "boxes", "fixed") and not drawing.uniform:
        return drawing
    return Drawing(low=drawing.low, high=min(drawing.high or _SMALL, drawing.low + _SMALL))


def small_integers(specs: Sequence[TensorSpec]) -> dict[str, Drawing]:
    """Drawings of integers of which nothing is known."""
    return {
        spec.name: Drawing(high=_SMALL) for spec in specs if np.issubdtype(np.dtype(spec.dtype), np.integer)
    }


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
    low, span = int(drawing.low), int(drawing.high - drawing.low)
    if drawing.pad is None or span < 2:
        return
    values[values == drawing.pad] = low + (drawing.pad - low + 1) % span
    if mask is not None and mask.shape == values.shape:
        values[mask == 0] = drawing.pad


def _kind(spec: TensorSpec, drawing: Drawing) -> Kind:
    return "mask" if spec.semantics == "mask" else drawing.kind


def _longest(name: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
    return max((max(shape[1:]) for other, shape in shapes.items() if other != name and shape[1:]), default=1)


def _draw_one(
    spec: TensorSpec,
    shape: tuple[int, ...],
    drawing: Drawing,
    generator: np.random.Generator,
    sample: int,
    flag: int,
) -> np.ndarray:
    dtype = np.dtype(spec.dtype)
    kind = _kind(spec, drawing)
    if kind == "mask":
        mask = _mask(shape, generator, sample)
        return (~mask if drawing.inverted else mask).astype(dtype)
    if kind == "bias":
        hidden = np.finfo(dtype).min if sample % 2 == 0 else max(_BIAS, float(np.finfo(dtype).min))
        return np.where(_mask(shape, generator, min(sample, 2)), 0, hidden).astype(dtype)
    if kind == "fixed":
        return np.broadcast_to(np.asarray(drawing.like), shape).astype(dtype)
    if kind == "choices":
        choices = np.ravel(np.asarray(drawing.like))
        return np.full(shape, choices[sample % len(choices)], dtype)
    if kind == "boxes":
        return _boxes(shape, drawing, generator, sample).astype(dtype)
    if kind == "positions":
        return _positions(shape, drawing, generator, sample).astype(dtype)
    if kind == "segments":
        return _segments(shape, drawing, generator).astype(dtype)
    if kind == "lengths":
        return _lengths(shape, drawing, generator, sample).astype(dtype)
    if kind == "sound":
        return _sound(shape, drawing, generator, sample).astype(dtype)
    if kind == "offset":
        means = generator.uniform(-_OFFSET, _OFFSET, _channels(shape, drawing)) * (sample == 1)
        return (generator.standard_normal(shape) + means).astype(dtype)
    like = None if drawing.like is None else np.unique(drawing.like)
    if like is not None and _is_rich(like, dtype):
        # Drawing the example's values again keeps their range, sign and spread, whatever they mean.
        return generator.choice(np.asarray(drawing.like).ravel(), size=shape).astype(dtype)
    if dtype == np.bool_:
        if np.prod(shape, dtype=int) == 1:
            # The first has all flags set, the second none, the next ones every other and the rest.
            return np.full(shape, (True, False, flag % 2 == 0, flag % 2 == 1)[sample % 4])
        return _not_all_zero(generator.random(shape) < 0.7)
    if np.issubdtype(dtype, np.integer):
        if like is not None and like.size == 1 and np.asarray(drawing.like).size == 1 and like[0] != 0:
            return np.full(shape, like[0], dtype)  # one number, such as a length: it must stay possible
        low, high = int(drawing.low), int(max(drawing.high, drawing.low + 1))
        values = _not_all_zero(generator.integers(low, high, shape, dtype=_wide(dtype)))
        return _with_ends(values, low, high - 1, sample).astype(dtype)
    if drawing.uniform:
        values = np.asarray(generator.uniform(drawing.low, drawing.high, shape))
        # Bytes, samples of sound and steps of a schedule are whole numbers in floats.
        values = np.rint(values) if drawing.high >= 100 else values
        return _with_ends(values, drawing.low, drawing.high, sample).astype(dtype)
    return generator.standard_normal(shape).astype(dtype)


def _wide(dtype: np.dtype) -> type[np.signedinteger] | type[np.unsignedinteger]:
    return np.uint64 if dtype == np.uint64 else np.int64


def _is_rich(values: np.ndarray, dtype: np.dtype) -> bool:
    return values.size >= (2 if np.issubdtype(dtype, np.integer) or dtype == np.bool_ else 16)


def _not_all_zero(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    if values.size and not values.any():
        values.reshape(-1)[0] = 1
    return values


def _with_ends(values: np.ndarray, low: float, high: float, sample: int) -> np.ndarray:
    """Both ends in the second sample; of single values the highest, and the lowest in the third."""
    flat = np.asarray(values).reshape(-1)
    if flat.size and sample == 1:
        flat[-1] = low
        flat[0] = high
    elif flat.size == 1 and sample == 2:
        flat[0] = low
    return flat.reshape(np.shape(values))


def _positions(
    shape: tuple[int, ...], drawing: Drawing, generator: np.random.Generator, sample: int
) -> np.ndarray:
    """Runs: from the start, up to the end, then every row from a place of its own."""
    low, high = int(drawing.low), int(drawing.high)
    length = shape[-1] if shape else 1
    last = max(low, high - length)
    rows = shape[:-1]
    if length == 1:
        starts = {1: np.full(rows, last), 2: np.full(rows, low)}
        start = starts.get(sample, generator.integers(min(low + 1, last), last + 1, rows))
    else:
        starts = {0: np.full(rows, low), 1: np.full(rows, last)}
        start = starts.get(sample, generator.integers(low, last + 1, rows))
    run = np.asarray(start)[..., None] + np.arange(length)
    return (low + (run - low) % max(1, high - low)).reshape(shape)


def _boxes(
    shape: tuple[int, ...], drawing: Drawing, generator: np.random.Generator, sample: int
) -> np.ndarray:
    """Corners in order; the second sample has a box of all there is and one of nothing."""
    low, high = int(drawing.low), int(drawing.high) - 1
    ends = generator.integers(low, high + 1, (*shape[:-1], 2, 2))
    boxes = np.sort(ends, axis=-2).reshape(shape)
    if sample == 1 and boxes.size:
        rows = boxes.reshape(-1, 4)
        rows[0] = low, low, high, high
        rows[-1] = low
    return boxes


def _segments(shape: tuple[int, ...], drawing: Drawing, generator: np.random.Generator) -> np.ndarray:
    length = shape[-1] if shape else 1
    segments = max(1, min(int(drawing.high), length))
    starts = generator.integers(1, max(2, length), size=(*shape[:-1], segments - 1))
    return (np.arange(length)[:, None] >= starts[..., None, :]).sum(-1).reshape(shape)


def _lengths(
    shape: tuple[int, ...], drawing: Drawing, generator: np.random.Generator, sample: int
) -> np.ndarray:
    """Full, then any, then one of the shortest."""
    low, high = int(drawing.low), max(int(drawing.high), int(drawing.low))
    lengths = np.asarray(generator.integers(low, high + 1, shape)).reshape(-1)
    if sample == 0:
        lengths[:] = high
    elif lengths.size:
        lengths[-1] = high if sample == 1 and lengths.size > 1 else lengths[-1]
        lengths[0] = low if sample == 2 else lengths[0]
    return lengths.reshape(shape)


def _sound(
    shape: tuple[int, ...], drawing: Drawing, generator: np.random.Generator, sample: int
) -> np.ndarray:
    noise = generator.standard_normal(shape)
    typical = drawing.low or 1.0
    if sample == 1 and noise.size:
        return noise * (drawing.high / np.abs(noise).max())
    return noise * (typical * _QUIET if sample == 2 else typical)


def _channels(shape: tuple[int, ...], drawing: Drawing) -> tuple[int, ...]:
    kept = drawing.axis % len(shape) if shape else 0
    return tuple(size if axis == kept else 1 for axis, size in enumerate(shape))


_HIDDEN_WHOLE = 3
"""The sample that hides rows whole."""


def _mask(shape: tuple[int, ...], generator: np.random.Generator, sample: int) -> np.ndarray:
    """All real; padded on the right; on the left, with holes; the last row hidden whole; as the second."""
    mask = np.ones(shape, bool)
    if not shape or shape[-1] < 2:
        return mask
    length = shape[-1]
    rows = mask.reshape(-1, length)
    lengths = generator.integers(max(1, length // 4), length, size=rows.shape[0])[:, None]
    places = np.arange(length)
    if sample == 2:
        rows &= (places >= length - lengths) & ((generator.random(rows.shape) < 0.8) | (places == length - 1))
    elif sample == _HIDDEN_WHOLE:
        rows[-1] = False
    elif sample > 0:
        rows &= places < lengths
    return rows.reshape(shape)
