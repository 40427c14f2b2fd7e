"""Outputs that come of decisions between scores: classes, places, rows in the order of their scores.

A class number is no quantity, and rows behind a TopK stand where their scores put them: where two scores are
nearly equal, rounding may decide otherwise, and the answer is as good. So an element may differ where its
decision was a near-tie, and rows may change places where their scores are nearly the same.
"""

from __future__ import annotations

import dataclasses
from typing import Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]

_FEATURES = 64
"""Numbers of a row that tell it from others; of longer rows, so many spread over it."""

_ON_THE_WHOLE = 0.4
"""The bound on a root mean square over the one on the largest difference, as the gates have them."""

_OTHER = 1e6
"""The distance between two rows that differ in a whole number."""


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Rows of some outputs that stand in the order of their scores.

    Attributes:
        axes: the axis of the rows, by output; all axes before it are the batch.
        scores: (batch, rows), in units of the spread of all scores that were ranked.
        left_out: (batch,), the best score that was not kept, in the same units; not finite where all were.
    """

    axes: dict[str, int]
    scores: np.ndarray
    left_out: np.ndarray


@dataclasses.dataclass(frozen=True)
class Ties:
    """Where a source decides, on one sample.

    Attributes:
        margins: by output, in its shape: how far the decision behind each element is from the other way, in
            units of the scores' spread.
        rankings: the ranked rows.
        steps: for outputs that are rounded to steps: one step, and the spread of the scores, both in the
            output's own numbers. A near-tie is the next step, not any.
        runners_up: for outputs that are places: the place that was nearly taken; no other one is a near-tie.
    """

    margins: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    rankings: tuple[Ranking, ...] = ()
    steps: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    runners_up: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.margins or self.rankings)

    def settled(
        self, reference: Arrays, actual: Arrays, tolerance: float
    ) -> tuple[dict[str, np.ndarray], int]:
        """The actual outputs as they are to be compared, and how many near-ties that took.

        Args:
            reference: what the source computed, by output.
            actual: what is judged, in the same shapes.
            tolerance: how far a score may be off, in units of the scores' spread.

        Returns:
            outputs in which rows stand where the source's do and near-ties are decided as it decided them.
        """
        settled = {name: np.array(array, order="C") for name, array in actual.items()}
        count = 0
        for ranking in self.rankings:
            count += _match_rows(ranking, reference, settled, tolerance)
        for name, margins in self.margins.items():
            if name not in settled or settled[name].shape != margins.shape:
                continue
            # Both scores of a pair may be off.
            tied = (margins <= 2.0 * tolerance) & (settled[name] != reference[name])
            if name in self.steps:
                step, spread = self.steps[name]
                apart = np.abs(settled[name].astype(np.float64) - reference[name])
                beyond = np.maximum(apart - 1.001 * step, 0.0)
                on_the_whole = float(np.sqrt(np.mean(beyond**2)))
                # A rounded quantity is still one: off by little everywhere is off, as it is unrounded.
                room = spread * tolerance * (on_the_whole <= _ON_THE_WHOLE * tolerance * spread)
                tied &= beyond <= room
            if name in self.runners_up:
                tied &= settled[name] == self.runners_up[name]
            settled[name][tied] = reference[name][tied]
            count += int(np.count_nonzero(tied))
        return settled, count

    def to_arrays(self) -> dict[str, np.ndarray]:
        """As named arrays, for a file."""
        arrays = {f"margin:{name}": array for name, array in self.margins.items()}
        arrays.update({f"steps:{name}": np.array(both) for name, both in self.steps.items()})
        arrays.update({f"runner_up:{name}": array for name, array in self.runners_up.items()})
        for index, ranking in enumerate(self.rankings):
            arrays[f"scores:{index}"] = ranking.scores
            arrays[f"left_out:{index}"] = ranking.left_out
            for name, axis in ranking.axes.items():
                arrays[f"axis:{index}:{name}"] = np.array(axis)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Ties:
        """From what `to_arrays` returned."""
        margins: dict[str, np.ndarray] = {}
        axes: dict[str, dict[str, int]] = {}
        scores: dict[str, np.ndarray] = {}
        left_out: dict[str, np.ndarray] = {}
        steps: dict[str, tuple[float, float]] = {}
        runners_up: dict[str, np.ndarray] = {}
        for key, array in arrays.items():
            kind, _, rest = key.partition(":")
            if kind == "margin":
                margins[rest] = np.asarray(array)
            elif kind == "steps":
                steps[rest] = (float(array[0]), float(array[1]))
            elif kind == "scores":
                scores[rest] = np.asarray(array)
            elif kind == "runner_up":
                runners_up[rest] = np.asarray(array)
            elif kind == "left_out":
                left_out[rest] = np.asarray(array)
            else:
                index, _, name = rest.partition(":")
                axes.setdefault(index, {})[name] = int(array)
        rankings = tuple(
            Ranking(axes.get(index, {}), scores[index], left_out[index]) for index in sorted(scores)
        )
        return cls(margins, rankings, steps, runners_up)


def _match_rows(ranking: Ranking, reference: Arrays, actual: dict[str, np.ndarray], tolerance: float) -> int:
    """Put the rows of the actual outputs where the source's rows are, in place; how many were near-ties."""
    batch, rows = ranking.scores.shape
    names = [
        name
        for name, axis in ranking.axes.items()
        if name in actual
        and actual[name].shape == reference[name].shape
        and int(np.prod(reference[name].shape[:axis])) == batch
        and reference[name].shape[axis] == rows
    ]
    count = 0
    for index in range(batch if names else 0):
        views = [_rows(actual[name], ranking.axes[name], index) for name in names]
        expected = [_rows(np.asarray(reference[name]), ranking.axes[name], index) for name in names]
        order, free = _matched(expected, views, ranking.scores[index], ranking.left_out[index], tolerance)
        free = [row for row in free if all(map(_is_like, views, expected, [order[row]] * len(views)))]
        count += int(np.count_nonzero(order != np.arange(rows))) + len(free)
        for view, wanted in zip(views, expected):
            view[...] = view[order]
            view[free] = wanted[free]
    return count


def _rows(array: np.ndarray, axis: int, index: int) -> np.ndarray:
    """A view (rows, numbers of a row) of one entry of the batch."""
    return array.reshape(-1, array.shape[axis], int(np.prod(array.shape[axis + 1 :])))[index]


def _matched(
    expected: list[np.ndarray],
    found: list[np.ndarray],
    scores: np.ndarray,
    left_out: float,
    tolerance: float,
) -> tuple[np.ndarray, list[int]]:
    """Which found row belongs to each expected one, and the rows for which others were chosen.

    Another may be chosen where one that was left out scores nearly the same; what is not finite is none.
    """
    distance = np.zeros((len(scores), len(scores)))
    for wanted, given in zip(expected, found):
        distance = np.maximum(distance, _distances(wanted, given))
    order = np.arange(len(scores))
    astray = [row for row in range(len(scores)) if not distance[row, row] <= tolerance]
    near = np.abs(scores[:, None] - scores[None, :]) <= 2.0 * tolerance
    pairs = sorted(
        (float(distance[row, other]), row, other)
        for row in astray
        for other in astray
        if near[row, other] and distance[row, other] < np.inf
    )
    placed: dict[int, int] = {}
    taken: set[int] = set()
    for _, row, other in pairs:
        if row not in placed and other not in taken:
            placed[row] = other
            taken.add(other)
    rest = [other for other in astray if other not in taken]
    for row in astray:
        order[row] = placed[row] if row in placed else rest.pop(0)
    free = [
        row
        for row in astray
        if not distance[row, order[row]] <= tolerance
        and abs(scores[row] - left_out) <= 2.0 * tolerance
        and all(np.isfinite(given[order[row]]).all() for given in found)
    ]
    return order, free


def _is_like(found: np.ndarray, expected: np.ndarray, row: int) -> bool:
    """Whether a found row could be another one of the source's: its numbers lie among theirs."""
    if expected.dtype.kind != "f":
        return True
    numbers = expected[np.isfinite(expected)].astype(np.float64)
    if not numbers.size:
        return True
    room = float(np.std(numbers))
    return bool(np.all((found[row] >= numbers.min() - room) & (found[row] <= numbers.max() + room)))


def _distances(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The largest difference between any two rows, in units of the numbers' spread."""
    step = max(1, expected.shape[1] // _FEATURES)
    one, other = expected[:, ::step], found[:, ::step]
    if expected.dtype.kind not in "fc":
        return _OTHER * (one[:, None, :] != other[None, :, :]).any(axis=2)
    one, other = one.astype(np.float64), other.astype(np.float64)
    finite = one[np.isfinite(one)]
    unit = float(np.std(finite)) if finite.size else 1.0
    with np.errstate(invalid="ignore"):
        apart = np.abs(one[:, None, :] - other[None, :, :])
    apart[one[:, None, :] == other[None, :, :]] = 0.0  # infinities too
    return np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max(axis=2) / (unit or 1.0)
