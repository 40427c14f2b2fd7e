"""Comparing what an engine computed with what the source computed.

The unit of a difference is the output's own spread, never an absolute number: an output of a regression that
varies by a thousandth around one is held to a part of that thousandth. What the source itself cannot know is
taken off first: the source also runs in float64, and what its own fp32 differs from that is its rounding. Of
an engine in a lower precision it is what the source moves, number by number, where its inputs are rounded.

This file and `ties.py` also ship with the programs that judge an engine on a device: they need numpy alone,
and Python 3.8.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Mapping, Protocol, Sequence

import numpy as np

Arrays = Mapping[str, np.ndarray]

_FEW = 32
"""An output of fewer elements tells its spread over samples, not within one: a single number has none."""

_FEWEST_IN_SLICE = 64
_FEWEST_SAMPLES = 3
_MOST_SLICES = 4096

_REORDERING = 4.0
"""How much more an engine may round than the source did: sums in another order round as much again, kernels
that transform or split them (Winograd, blocked softmax) up to twice that; and what the source shows is one
draw of its rounding."""

_LAST_ROUNDING = 2.0
"""The output itself is rounded once by each side, to the type that it has in the source."""

_ALONE = 8
"""A rounding that fewer numbers of an output show is theirs, and excuses no other one."""

_MOVED_BY_ALL = 0.1
"""What nine of ten numbers move by at least is how an output moves, and not what one place of it does."""

_LARGEST_ROUNDING = 0.1
"""In spreads. Where float64 is further away than this, it is no rounding (the source decides, or loses what
it adds to a mask of -1e9), and excuses no more: an engine must then follow the source's own fp32."""

_LEAST_FILL = 1e4
_SURE_FILL = 1e9
_FILL_GAP = 100.0
"""Masks are filled with -1e4 and more (-1e9, the largest number), far from all that is no fill. Numbers that
large and alike, with a gap of this factor below them, are no part of an output's spread; a single one must
be larger still."""

_NOISE = 4.0 * float(np.finfo(np.float32).eps)
"""Of an output's size. What varies by less than this is constant up to the last places of its numbers."""

_STEPS = 1e4
"""Steps that a spread has at least where numbers come in steps: a part in ten thousand is one of them."""

_EXACT = float(np.finfo(np.float32).tiny)
"""The unit of an output that is 0 everywhere. Bounds count roundings, of which a number has as many as it is
large: a constant is held to a part of its size. Nothing rounds in 0, and whatever is no 0 is wrong."""

_BODY = 0.9
"""The share of an output's numbers, those nearest its median, that are judged by their own spread as well: a
few huge numbers beside them set the spread of all."""

_LEAST_BODY = (1e-5, 1e-3)
"""No body is taken for narrower than this part of the output's unit, where the source's own rounding is known
and where it is not: what is computed beside larger numbers may be rounded as they are."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far outputs are from their reference, the worst over samples and outputs.

    Attributes:
        max_abs: largest absolute difference; inf where one side is not finite and the other is.
        scaled: largest absolute difference over the output's spread.
        rms: root mean square of the difference over the output's spread.
        cosine: smallest cosine similarity of the flattened outputs; told, never judged: it says nothing
            where the mean is large, and too much where nearly all is zero.
        output: name of the output that is worst, by what its source's rounding does not explain.
        rounding: how far the source's own fp32 is from its float64, as `rms`; 0 where float64 is not known.
        beyond: `scaled` less what the source's rounding explains.
        beyond_rms: `rms` less likewise.
        slice_rms: the same of the worst slice along an axis (a channel, a token), over that slice's own
            size: boxes in pixels do not hide scores between 0 and 1 beside them. Where an output has few
            numbers, each of them is such a slice, over the samples. The body of an output, without the tenth
            that is farthest from its median, is a slice too.
        unequal: largest share of elements of an integer output that are not the source's, near-ties aside.
        near_ties: elements and rows that differ because the source decides between nearly equal scores.
    """

    max_abs: float = 0.0
    scaled: float = 0.0
    rms: float = 0.0
    cosine: float = 1.0
    output: str = ""
    rounding: float = 0.0
    beyond: float = 0.0
    beyond_rms: float = 0.0
    slice_rms: float = 0.0
    unequal: float = 0.0
    near_ties: int = 0

    @classmethod
    def infinite(cls, output: str = "") -> Difference:
        """Beyond every bound: the outputs cannot be compared."""
        most = float("inf")
        return cls(most, most, most, -1.0, output, 0.0, most, most, most)

    def worst(self, other: Difference) -> Difference:
        """The worse of both, field by field."""
        return Difference(
            max_abs=max(self.max_abs, other.max_abs),
            scaled=max(self.scaled, other.scaled),
            rms=max(self.rms, other.rms),
            cosine=min(self.cosine, other.cosine),
            output=self.output if self._badness() >= other._badness() else other.output,
            rounding=max(self.rounding, other.rounding),
            beyond=max(self.beyond, other.beyond),
            beyond_rms=max(self.beyond_rms, other.beyond_rms),
            slice_rms=max(self.slice_rms, other.slice_rms),
            unequal=max(self.unequal, other.unequal),
            near_ties=self.near_ties + other.near_ties,
        )

    def _badness(self) -> tuple[float, float]:
        return max(self.beyond, self.slice_rms, self.unequal), self.scaled


@dataclasses.dataclass(frozen=True)
class Gate:
    """What a difference must keep to.

    Attributes:
        scaled: bound on `Difference.beyond`.
        rms: bound on `Difference.beyond_rms`.
        slice_rms: bound on `Difference.slice_rms`.
        unequal: bound on `Difference.unequal`.
        why: the argument for the bounds, one sentence.
    """

    scaled: float
    rms: float
    slice_rms: float
    unequal: float
    why: str

    def accepts(self, difference: Difference) -> bool:
        """Whether the difference keeps every bound."""
        return not self.broken(difference)

    def broken(self, difference: Difference) -> str:
        """What is beyond its bound, in words; empty where nothing is."""
        checks = (
            (difference.beyond, self.scaled, "off by {} of the output's spread (allowed {})"),
            (difference.beyond_rms, self.rms, "off by {} of the output's spread on the whole (allowed {})"),
            (difference.slice_rms, self.slice_rms, "a slice of it is off by {} of its own size (allowed {})"),
            (difference.unequal, self.unequal, "{} of its elements are others (allowed {})"),
        )
        # Written so that a comparison with NaN breaks the gate.
        for found, bound, words in checks:
            if not found <= bound:
                return words.format(f"{found:.2e}", f"{bound:.0e}")
        return ""


GATES: dict[str, Gate] = {
    "fp32": Gate(
        1e-4,
        3e-5,
        1e-3,
        0.0,
        "fp32 rounds at 6e-8; reordered sums over a thousand terms and some fifty layers stay under "
        "a thousand roundings, and a wrong GELU form or epsilon is ten times over it",
    ),
    "fp16": Gate(
        5e-2,
        2e-2,
        0.25,
        1e-2,
        "fp16 rounds at 4.9e-4; a hundred roundings that do not cancel reach 5e-2 of the output's "
        "spread, and 2e-2 over all elements; semantics are gated in fp32 before",
    ),
    "bf16": Gate(
        2.5e-1,
        1e-1,
        1.0,
        2e-2,
        "bf16 rounds at 3.9e-3, eight times coarser than fp16, and its sums of a hundred roundings "
        "grow likewise; semantics are gated in fp32 before",
    ),
}
"""Gates by precision. Lossy steps use the user's own budget instead."""


def guarding(shown: Difference) -> Gate:
    """Bounds made from what a lossy engine itself showed, where the user's budget judges what it loses.

    They serve whoever opens it later: another processor may round differently, twice the difference allows
    for that; a broken engine is far beyond.
    """
    rest = GATES["bf16"]
    return Gate(
        2 * shown.beyond + rest.scaled,
        2 * shown.beyond_rms + rest.rms,
        2 * shown.slice_rms + rest.slice_rms,
        min(1.0, 2 * shown.unequal + rest.unequal),
        "twice what this engine showed when it was compiled, and bf16's rounding: it guards against damage "
        "to the engine; what quantisation costs is measured on data",
    )


class Settles(Protocol):
    """What a sample's decisions rest on (`edgec.core.ties.Ties`)."""

    def settled(
        self, reference: Arrays, actual: Arrays, tolerance: float
    ) -> tuple[dict[str, np.ndarray], int]:
        """The actual outputs with near-ties decided as the source did, and how many there were."""

    def to_arrays(self) -> dict[str, np.ndarray]:
        """As named arrays, for a file."""


@dataclasses.dataclass(frozen=True)
class Expected:
    """What a source computed on samples, and how surely.

    Attributes:
        references: its outputs, by name, a mapping a sample.
        exact: its outputs in float64, likewise; empty where they are not known.
        ties: where it decides, one a sample; empty where it decides nothing.
        moves: what its outputs move by, number by number, where its inputs are rounded; in place of `exact`
            for an engine that cannot know its inputs better.
    """

    references: Sequence[Arrays]
    exact: Sequence[Arrays] = ()
    ties: Sequence[Settles] = ()
    moves: Sequence[Arrays] = ()

    def difference(self, actuals: Sequence[Arrays], gate: Gate) -> Difference:
        """How far outputs are from the source's, near-ties of the gate's precision aside.

        Raises:
            ValueError: a sample or an output is missing, or a shape differs.
        """
        if len(actuals) != len(self.references) or not self.ties:
            return compare(self.references, actuals, self.exact, self.moves)
        settled, count = [], 0
        for reference, actual, ties in zip(self.references, actuals, self.ties):
            outputs, found = ties.settled(reference, actual, gate.scaled)
            settled.append(outputs)
            count += found
        difference = compare(self.references, settled, self.exact, self.moves)
        return dataclasses.replace(difference, near_ties=count)


def compare(
    references: Sequence[Arrays],
    actuals: Sequence[Arrays],
    exact: Sequence[Arrays] = (),
    moves: Sequence[Arrays] = (),
) -> Difference:
    """Compare all outputs of all samples; the worst of them.

    Args:
        references: what the source computed, by output, a mapping a sample.
        actuals: what is judged, likewise.
        exact: what the source computes in float64, likewise; empty where that is not known.
        moves: how far the source's outputs move where its inputs are rounded, likewise; empty where an engine
            has no such excuse.

    Raises:
        ValueError: a sample or an output is missing, or a shape differs.
    """
    if not references or len(references) != len(actuals):
        raise ValueError(f"{len(actuals)} samples, the source has {len(references)}")
    units = spreads(references)
    worst = Difference(output=next(iter(references[0]), ""))
    for index, (reference, actual) in enumerate(zip(references, actuals)):
        for name, expected in reference.items():
            if name not in actual:
                raise ValueError(f"output {name!r} is missing")
            true = exact[index].get(name) if exact else None
            moved = moves[index].get(name) if moves else None
            unit = units[index][name]
            found = compare_arrays(expected, actual[name], name, spread=unit, exact=true, moves=moved)
            worst = worst.worst(found)
    for name in references[0]:
        wanted, given, true, moved = (
            _stacked(samples, name) for samples in (references, actuals, exact, moves)
        )
        slice_rms = _worst_number(wanted, given, true, moved, max(unit[name] for unit in units))
        worst = worst.worst(Difference(output=name, slice_rms=slice_rms))
    return worst


def _stacked(samples: Sequence[Arrays], name: str) -> np.ndarray | None:
    """An output of few numbers over samples, (samples, numbers), as it is; None where it is no such one."""
    arrays = [sample.get(name) for sample in samples]
    known = [array for array in arrays if array is not None and _is_float(array.dtype)]
    if not known or len(known) < len(arrays) or len({array.shape for array in known}) > 1:
        return None
    if known[0].size >= _FEW:
        return None
    return np.stack([array.ravel() for array in known])


def _worst_number(
    reference: np.ndarray | None,
    found: np.ndarray | None,
    exact: np.ndarray | None,
    moves: np.ndarray | None,
    unit: float,
) -> float:
    """`Difference.slice_rms` of an output of few numbers: each is a slice, over the samples."""
    if reference is None or found is None or len(reference) < _FEWEST_SAMPLES:
        return 0.0
    expected, found = reference.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(expected) & np.isfinite(found) & ~is_fill(expected)
    last = _last_places(reference, finite)
    expected = np.where(finite, expected, 0.0)
    error = np.abs(expected - np.where(finite, found, 0.0))
    if moves is not None and moves.shape == error.shape:
        error = np.maximum(error - _moved(moves, finite, unit), 0.0)
    own = _own_rounding(expected, exact, finite)
    return _worst_slice(expected, error, own, last, finite, unit, _FEWEST_SAMPLES, 1e-3)


def compare_arrays(
    reference: np.ndarray,
    actual: np.ndarray,
    name: str = "",
    *,
    spread: float | None = None,
    exact: np.ndarray | None = None,
    moves: np.ndarray | None = None,
) -> Difference:
    """Compare one output, in float64.

    Non-finite values must agree in kind and place (masked logits are legitimately -inf).

    Args:
        reference: what the source computed.
        actual: what is judged, of the same shape.
        name: the output's name.
        spread: the unit, as `spreads` tells it; the reference's own spread where not given.
        exact: what the source computes in float64.
        moves: how far each number moves in the source where its inputs are rounded.

    Raises:
        ValueError: the shapes differ.
    """
    if reference.shape != actual.shape:
        raise ValueError(f"output {name!r}: shape {actual.shape}, the source's is {reference.shape}")
    if reference.size == 0:
        return Difference(output=name)
    if reference.dtype.kind == "c":
        known = None if exact is None else _pairs(exact)
        return compare_arrays(_pairs(reference), _pairs(actual), name, spread=spread, exact=known)
    if not _is_float(reference.dtype):
        return Difference(output=name, unequal=float(np.mean(reference != actual)))
    expected, found = reference.astype(np.float64), actual.astype(np.float64)
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(found)):
        return Difference.infinite(name)
    wanted, given = expected[~finite], found[~finite]
    if not np.all((wanted == given) | (np.isnan(wanted) & np.isnan(given))):
        return Difference.infinite(name)
    if not finite.any():
        return Difference(output=name)
    fill = is_fill(expected)
    if fill.any():
        return _beside_fill(reference, found, fill, name, spread, exact, moves)
    unit = _unit([expected], 0) if spread is None else spread
    last = _last_places(reference, finite)
    expected, found = np.where(finite, expected, 0.0), np.where(finite, found, 0.0)
    error = np.abs(expected - found)
    own = _own_rounding(expected, exact, finite)
    most, rms = float(error.max()), _rms(error, finite)
    rounding = 0.0 if own is None else _rms(own, finite)
    left = error
    # A tenth of what the whole is held to: of slices a part in a thousand counts.
    least = _STEPS / 10.0 * _step(reference)
    if moves is not None and moves.shape == error.shape:
        left = np.maximum(error - _moved(moves, finite, unit), 0.0)
        rounding = _rms(np.where(finite, moves, 0.0), finite)
    return Difference(
        max_abs=most,
        scaled=most / unit,
        rms=rms / unit,
        cosine=_cosine(expected, found, most),
        output=name,
        rounding=rounding / unit,
        beyond=max(0.0, float(np.max(left - _explained(own, last, unit)))) / unit,
        beyond_rms=max(0.0, _rms(left, finite) - _rms_explained(own, last, finite, unit)) / unit,
        slice_rms=max(
            _worst_slice(expected, left, own, last, finite, unit, least=least),
            _body(expected, left, own, last, finite, unit, least),
        ),
    )


def _beside_fill(
    reference: np.ndarray,
    found: np.ndarray,
    fill: np.ndarray,
    name: str,
    spread: float | None,
    exact: np.ndarray | None,
    moves: np.ndarray | None,
) -> Difference:
    """A mask's fill is off relative to a tenth of itself: it is a constant, and hardly rounded.

    The rest is compared as if the fill were not finite.
    """
    hidden = reference.copy()
    hidden[fill] = -np.inf
    rest = compare_arrays(
        hidden,
        np.where(fill, -np.inf, found),
        name,
        spread=_unit([reference], 0) if spread is None else spread,
        exact=exact,
        moves=moves,
    )
    off = 10.0 * float(np.max(np.abs(found[fill] / reference[fill].astype(np.float64) - 1.0)))
    return rest.worst(Difference(max_abs=0.0, scaled=off, output=name, beyond=max(0.0, off - 10.0 * _NOISE)))


def is_fill(values: np.ndarray) -> np.ndarray:
    """Which finite values are a mask's fill: large ones, alike, far beyond all others, where these vary."""
    sizes = np.abs(np.where(np.isfinite(values), values, 0.0))
    none = np.zeros(values.shape, bool)
    if not sizes.size or sizes.max() < _LEAST_FILL:
        return none
    ordered = np.unique(sizes)
    begins = np.flatnonzero((ordered[1:] >= _LEAST_FILL) & (ordered[1:] / _FILL_GAP >= ordered[:-1]))
    if not begins.size:
        return none
    fill = sizes >= ordered[begins[0] + 1]
    rest, filled = values[np.isfinite(values) & ~fill], sizes[fill]
    alike = np.ptp(filled) <= 1e-2 * filled.max() and (filled.size > 1 or filled[0] >= _SURE_FILL)
    return fill if alike and rest.size and np.ptp(rest) > 0 else none


def _pairs(array: np.ndarray) -> np.ndarray:
    """Complex numbers as pairs of real ones, along a new last axis."""
    return np.stack([array.real, array.imag], axis=-1)


def _is_float(dtype: np.dtype) -> bool:
    """Whether numbers of the type are quantities; numpy knows bfloat16 by its name alone."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def _last_places(reference: np.ndarray, finite: np.ndarray) -> np.ndarray:
    """One last place of each number, in the type that the source gives it in; float32 for wider ones."""
    sizes = np.abs(np.where(finite, reference.astype(np.float64), 0.0))
    if reference.dtype == np.float16:
        return np.spacing(sizes.astype(np.float16)).astype(np.float64)
    places = np.spacing(sizes.astype(np.float32)).astype(np.float64)
    return places * 2.0**16 if reference.dtype.name == "bfloat16" else places


def rounding_of(reference: Arrays, exact: Arrays) -> dict[str, np.ndarray]:
    """What a sample's outputs lack to their float64, in float32; outputs of whole numbers lack nothing."""
    return {
        name: np.where(np.isfinite(array) & np.isfinite(exact[name]), array - exact[name], 0.0).astype(
            np.float32
        )
        for name, array in reference.items()
        if name in exact and _is_float(array.dtype) and exact[name].shape == array.shape
    }


def roundings_only(references: Sequence[Arrays], exact: Sequence[Arrays]) -> list[dict[str, np.ndarray]]:
    """What a source computes in float64, as far as its fp32 differs from that by rounding.

    An output that is further away on the whole is left out, and a number that is takes fp32's value: there
    the source decides otherwise in float64, which says nothing of how it rounds.

    Args:
        references: what the source computed, by output, a mapping a sample.
        exact: what it computes in float64, likewise; an output may be missing.
    """
    kept: list[dict[str, np.ndarray]] = []
    for reference, known, units in zip(references, exact, spreads(references)):
        rounded = {}
        for name, array in reference.items():
            true = known.get(name)
            if true is None or not _is_float(array.dtype) or true.shape != array.shape:
                continue
            finite = np.isfinite(array) & np.isfinite(true) & ~is_fill(array)
            if not finite.any():
                continue
            own = _own_rounding(array.astype(np.float64), true, finite)
            assert own is not None
            if _rms(own, finite) <= _LARGEST_ROUNDING * units[name]:
                rounded[name] = np.where(own <= _LARGEST_ROUNDING * units[name], true, array)
        kept.append(rounded)
    return kept


def spreads(references: Sequence[Arrays]) -> list[dict[str, float]]:
    """The unit of each output's differences, a mapping a sample; always above 0.

    It is the standard deviation of the sample's own finite values. An output of few elements tells it over
    the samples instead: the standard deviation of each element over them, together by their mean square. Of
    what is constant it is its size, and of what is 0 on every sample the smallest number.
    """
    return [
        {
            name: _unit([np.asarray(other[name]) for other in references if name in other], index)
            for name in reference
        }
        for index, reference in enumerate(references)
    ]


def _unit(samples: Sequence[np.ndarray], index: int) -> float:
    own = samples[index] if index < len(samples) else samples[-1]
    if own.dtype.kind == "c":
        return _unit([_pairs(sample) for sample in samples], index)
    if not _is_float(own.dtype):
        return 1.0
    samples = [np.where(is_fill(sample), np.nan, sample) for sample in samples]
    own = samples[index] if index < len(samples) else samples[-1]
    values = own[np.isfinite(own)].astype(np.float64)
    within = float(np.std(values)) if values.size else 0.0
    alike = [sample for sample in samples if sample.shape == own.shape and np.isfinite(sample).all()]
    over = float(np.sqrt(np.mean(np.var(np.stack(alike).astype(np.float64), axis=0)))) if alike else 0.0
    # A sample on which the output is nearly the same everywhere is not held to less than its rounding.
    candidates = [max(within, 1e-3 * over), over] if own.size >= _FEW else [over, within]
    size = float(np.sqrt(np.mean(values**2))) if values.size else 0.0
    found = next((value for value in [*candidates, size] if value > _NOISE * size), size or _EXACT)
    return max(found, _STEPS * _step(own))


def _step(values: np.ndarray) -> float:
    """The step that all of an output's numbers are multiples of, where they were computed beside 1; else 0.

    A probability of 5e-7 that a kernel computes as a half and something has the last place of a half: 3e-8.
    Numbers that are as large as their step says have it by themselves: their last places are known.
    """
    if values.dtype != np.float32:
        return 0.0
    bits = values[np.isfinite(values) & (values != 0)].view(np.int32)
    if bits.size < _FEW:
        return 0.0
    mantissa = (bits & 0x7FFFFF) | 0x800000
    lowest = np.ldexp((mantissa & -mantissa).astype(np.float64), ((bits >> 23) & 0xFF) - 150)
    step = float(lowest.min())
    largest = float(np.max(np.abs(values[np.isfinite(values)])))
    return step if 2.0 * np.spacing(np.float32(largest)) <= step <= float(np.finfo(np.float32).eps) else 0.0


def _own_rounding(expected: np.ndarray, exact: np.ndarray | None, finite: np.ndarray) -> np.ndarray | None:
    """What the source's fp32 differs from its float64, by element; None where that is not known."""
    if exact is None or exact.shape != expected.shape:
        return None
    known = finite & np.isfinite(exact)
    return np.where(known, np.abs(expected - np.where(known, exact, 0.0)), 0.0)


def _inner(own: np.ndarray | None, last: np.ndarray) -> float:
    """Mean square of the source's rounding before its last one, as far as it clearly exceeds that.

    A number is rounded by at most half of its last place, evenly: a mean square of its twelfth.
    """
    if own is None:
        return 0.0
    return max(0.0, float(np.mean(own**2) - 2.0 * np.mean(last**2) / 12.0))


def _rms_explained(own: np.ndarray | None, last: np.ndarray, finite: np.ndarray, unit: float) -> float:
    inner = min(_REORDERING * float(np.sqrt(_inner(own, last))), _LARGEST_ROUNDING * unit)
    return float(np.hypot(inner, _LAST_ROUNDING * _rms(last, finite) / np.sqrt(12.0)))


def _explained(own: np.ndarray | None, last: np.ndarray, unit: float) -> np.ndarray:
    """How far each number may be off by rounding: its own, and what at least `_ALONE` numbers show."""
    explained = _LAST_ROUNDING / 2.0 * last
    if own is None or not _inner(own, last):
        return explained
    shared = max(1, min(_ALONE, own.size // 4))
    common = float(np.partition(own, own.size - shared, axis=None)[-shared])
    inner = np.minimum(_REORDERING * np.maximum(own, common), 3.0 * _LARGEST_ROUNDING * unit)
    return np.asarray(explained + inner)


def _moved(moves: np.ndarray, finite: np.ndarray, unit: float) -> np.ndarray:
    """What the source's own sensitivity to its inputs excuses, number by number.

    Never more than three tenths of a unit at a place, nor a tenth on the whole: a source that moves more
    decides something.
    """
    moved = np.where(finite & np.isfinite(moves), moves, 0.0).astype(np.float64)
    by_all = 2.0 * float(np.quantile(moved[finite], _MOVED_BY_ALL)) if finite.any() else 0.0
    excused = np.minimum(np.maximum(moved, by_all), 3.0 * _LARGEST_ROUNDING * unit)
    whole = _rms(excused, finite) if finite.any() else 0.0
    return np.asarray(excused * min(1.0, _LARGEST_ROUNDING * unit / whole) if whole else excused)


def _body(
    expected: np.ndarray,
    error: np.ndarray,
    own: np.ndarray | None,
    last: np.ndarray,
    finite: np.ndarray,
    unit: float,
    least: float,
) -> float:
    """The root mean square error of an output's body, over the body's spread."""
    values = expected[finite]
    if values.size < _FEW:
        return 0.0
    apart = np.abs(values - np.median(values))
    body = apart <= np.quantile(apart, _BODY)
    spread, size = float(np.std(values[body])), float(np.sqrt(np.mean(values[body] ** 2)))
    if spread <= _NOISE * size:
        return 0.0
    spread = max(spread, _LEAST_BODY[own is None] * unit, least)
    places = last[finite][body]
    before = 0.0 if own is None else _inner(own[finite][body], places)
    inner = min(_REORDERING * float(np.sqrt(before)), _LARGEST_ROUNDING * spread)
    # What was computed beside the largest numbers may be rounded as they are.
    rounding = _LAST_ROUNDING * float(last.max()) / np.sqrt(12.0)
    off = float(np.sqrt(np.mean(error[finite][body] ** 2))) - float(np.hypot(inner, rounding))
    return max(0.0, off) / spread


def _worst_slice(
    expected: np.ndarray,
    error: np.ndarray,
    own: np.ndarray | None,
    last: np.ndarray,
    finite: np.ndarray,
    unit: float,
    fewest: int = _FEWEST_IN_SLICE,
    smallest: float = 1e-4,
    least: float = 0.0,
) -> float:
    """The largest root mean square error of a slice along one axis, over the slice's own size.

    Slices of fewer finite numbers than `fewest` are not judged, and none is taken for smaller than `smallest`
    of the output's unit, nor than `least`.
    """
    worst = 0.0
    for axis in range(1, expected.ndim):
        count = expected.shape[axis]
        if not 1 < count <= _MOST_SLICES or expected.size // count < fewest:
            continue
        rest = tuple(other for other in range(expected.ndim) if other != axis)
        judged = np.count_nonzero(finite, axis=rest) >= fewest
        if not judged.any():
            continue
        mean = functools.partial(_mean, axes=rest, finite=finite)
        sizes = np.sqrt(mean(expected**2))
        along = [count if other == axis else 1 for other in range(expected.ndim)]
        centred = expected - mean(expected).reshape(along)
        units = np.maximum.reduce(
            [np.sqrt(mean(centred**2)), sizes / 4.0, np.full(count, max(smallest * unit, least))]
        )
        rounding = mean(last**2) / 12.0 * _LAST_ROUNDING**2
        before = 0.0 if own is None else np.maximum(mean(own**2) - 2.0 * mean(last**2) / 12.0, 0.0)
        inner = np.minimum(_REORDERING * np.sqrt(before), _LARGEST_ROUNDING * units)
        off = np.sqrt(mean(error**2)) - np.hypot(inner, np.sqrt(rounding))
        worst = max(worst, float(np.max((off / units)[judged])))
    return worst


def _mean(values: np.ndarray, axes: tuple[int, ...], finite: np.ndarray) -> np.ndarray:
    return np.sum(values, axis=axes, where=finite) / np.maximum(np.count_nonzero(finite, axis=axes), 1)


def _rms(values: np.ndarray, finite: np.ndarray) -> float:
    return float(np.sqrt(np.sum(values**2, where=finite) / np.count_nonzero(finite)))


def _cosine(expected: np.ndarray, found: np.ndarray, most: float) -> float:
    norms = float(np.linalg.norm(expected.ravel()) * np.linalg.norm(found.ravel()))
    if norms == 0.0:
        return 1.0 if most == 0.0 else 0.0
    return float(np.clip(expected.ravel() @ found.ravel() / norms, -1.0, 1.0))
