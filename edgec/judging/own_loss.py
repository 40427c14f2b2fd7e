"""What a source itself loses by computing in float32, taken off what its engines are charged with.

A network may carry the last place of its input to a tenth of its output on some samples and be steady on all
others. There an exact engine differs from the source as the source's own fp32 differs from its float64, and
as it would differ itself had its input been rounded otherwise: none is nearer to what the network means.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from edgec.core.graph import Arrays, Graph
from edgec.judging import accuracy
from edgec.judging.accuracy import EvaluationData

TOLD = 1e-3
"""A loss below this, of all samples or of one, is not looked into: a tenth of the usual budget."""

_ROUNDINGS = 6
"""Times that an input is moved by a last place: a jump that a rounding may cause shows in one of them, where
a single run may be lucky."""

_STEADY = 3
"""After so many samples in a row on which the source is steady the engine's loss is its own: those that lose
most come first, and an unsteady one is among them."""

_KNOWN_STEADY = 6
"""After so many, and none unsteady, a source is not looked at again."""

_EXPLAINS = 0.1
"""The share of a sample's loss that the source's own must be, to count as a reason."""

_LARGEST = 0.25
"""Where float64 is further away than this, it is no rounding: the source decides otherwise there, or loses
what it adds to a mask of -1e9, and an engine must follow its fp32. No more is excused either."""


@dataclasses.dataclass(frozen=True)
class _Own:
    """A sample's outputs in float64, None where they are not known, and the farthest that fp32 is off."""

    exact: np.ndarray | None
    farthest: float


class OwnLoss:
    """The source's own loss to its float64, by sample; found once each, and only where an engine loses.

    Args:
        graph: the loaded graph.
        data: samples. With labels nothing is looked at: a class is right or wrong.
        least: the mean loss from which on it matters.
    """

    def __init__(self, graph: Graph, data: EvaluationData, least: float = TOLD) -> None:
        self._graph = graph
        self._data = data
        self._least = least
        self._known: dict[int, _Own] = {}

    def taken_off(
        self, samples: np.ndarray, expected: np.ndarray, found: np.ndarray, losses: np.ndarray
    ) -> tuple[np.ndarray, int]:
        """An engine's losses, those aside that the source's own rounding explains.

        Args:
            samples: the numbers of the samples in the data, int (samples,).
            expected: what the source computes on them in fp32, (samples, …).
            found: what the engine does, likewise.
            losses: one minus the cosine of both, float64 (samples,).

        Returns:
            the losses, float64 (samples,): on an unsteady sample how much farther from float64 the engine is
            than the source's fp32 may be; and how many are unsteady.
        """
        beyond = losses.copy()
        if self._graph.run_exact is None or self._data.labels is not None or losses.mean() <= self._least:
            return beyond, 0
        unsteady = steady = 0
        for place in np.argsort(-losses, kind="stable"):
            if losses[place] <= TOLD or steady == _STEADY or self._is_known_steady():
                break
            own = self._of(int(samples[place]), expected[place])
            if own.exact is not None and own.farthest >= _EXPLAINS * losses[place]:
                beyond[place] = max(0.0, _loss(own.exact, found[place]) - own.farthest)
                unsteady, steady = unsteady + 1, 0
            else:
                steady += 1
        return beyond, unsteady

    def _is_known_steady(self) -> bool:
        return len(self._known) >= _KNOWN_STEADY and all(own.farthest < TOLD for own in self._known.values())

    def _of(self, sample: int, expected: np.ndarray) -> _Own:
        if sample not in self._known:
            self._known[sample] = self._found(sample, expected)
        return self._known[sample]

    def _found(self, sample: int, expected: np.ndarray) -> _Own:
        graph = self._graph
        assert graph.run_exact is not None
        assert graph.run_source is not None
        [(feeds, _)] = accuracy.batches(graph.inputs, self._data.part(np.array([sample]), ""))
        outputs = graph.run_exact.once(feeds)
        exact = next(iter(outputs.values()))[0] if outputs else None
        if exact is None or exact.shape != expected.shape or (own := _loss(exact, expected)) > _LARGEST:
            return _Own(None, 0.0)
        for draw in range(_ROUNDINGS):
            moved = next(iter(graph.run_source(_moved(feeds, draw)).values()))[0]
            own = max(own, _loss(exact, moved))
        return _Own(exact, min(own, _LARGEST))


def _moved(feeds: Arrays, draw: int) -> Arrays:
    """Feeds whose float32 numbers are moved by a last place up or down, or not at all."""
    drawn = np.random.default_rng(draw)
    return {
        name: array + np.spacing(array) * drawn.integers(-1, 2, array.shape).astype(np.float32)
        if array.dtype == np.float32
        else array
        for name, array in feeds.items()
    }


def _loss(exact: np.ndarray, found: np.ndarray) -> float:
    return float(1.0 - accuracy.sample_cosines(exact[None], found[None])[0])
