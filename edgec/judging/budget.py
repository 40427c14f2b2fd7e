"""What a lossy step may cost, and the data that tells what it did cost.

Token reduction, int8 and weight compression change what a network computes. What they may cost is the
user's to say (`--max-drop`), and it is measured twice: searches look at one part of the data as often as
they like, the result is judged once on another part that no search has seen.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from pathlib import Path

import numpy as np

from edgec.core.errors import NumericsError, RequestError
from edgec.core.graph import Arrays, Graph
from edgec.judging import accuracy
from edgec.judging.accuracy import EvaluationData, Run, Scores, spread
from edgec.judging.own_loss import TOLD, OwnLoss

DEFAULT_DROP = 0.01
"""The drop that a lossy step may cost where the user asks for one and names no drop: one point of
accuracy, or a mean cosine of 0.99 to the source where there are no labels."""

CALIBRATION_SAMPLES = 64
"""Most samples that tell the ranges of values."""

PLAIN_SAMPLES = 256
"""Samples of a zoo model that an exact compile is scored on: drawing them and running the source takes longer
than all else, and the score only confirms what the gates have shown."""

SEARCH_SAMPLES = 256
"""Samples that a search scores an engine on first: a search scores some tens of engines."""

MOST_SAMPLES = 4096
"""Samples that a search scores an engine on at most, where fewer do not tell whether a drop is kept."""


class Judge:
    """Scores engines on one set of data against the source, which runs on each sample once.

    Args:
        graph: the loaded graph; its `run_source` says what the source computes.
        data: samples, with or without labels.
        told: a drop. Scores then come of a first part of the samples, and of ever more, each look doubling
            them, until the drop found is farther from `told` than its standard error: where few samples
            change sides, a few hundred say nothing of one point. None scores all samples.
    """

    def __init__(self, graph: Graph, data: EvaluationData, told: float | None = None) -> None:
        self._graph = graph
        self.data = data
        self._told = told
        self._seen: list[np.ndarray] = []
        self._own = OwnLoss(graph, data, TOLD if told is None else told)

    @functools.cached_property
    def expected(self) -> np.ndarray:
        """The source's first output for every sample, shape (samples, …)."""
        return self._source_on(self.data)

    def first(self, most: int) -> Judge:
        """A judge on at most so many of the samples, spread over the whole, scored all."""
        fewer = Judge(self._graph, self.data.first(most))
        if "expected" in self.__dict__:  # the source does not run again
            fewer.__dict__["expected"] = self.expected[spread(len(self.expected), most)]
        return fewer

    def outputs(self, run: Run) -> np.ndarray:
        """An engine's first output for every sample, shape (samples, …)."""
        return accuracy.run_all(run, self._graph.inputs, self.data)

    def scores(self, run: Run) -> Scores:
        """The source's score and the engine's."""
        if self._told is None:
            every = np.arange(self.data.samples)
            return self._scores(self.data, every, self.expected, self.outputs(run))
        expected: list[np.ndarray] = []
        found: list[np.ndarray] = []
        for rows in self._looks:
            part = self.data.part(rows, f"{len(rows)} samples")
            if len(self._seen) == len(expected):
                self._seen.append(self._source_on(part))
            expected.append(self._seen[len(expected)])
            found.append(accuracy.run_all(run, self._graph.inputs, part))
            looked = np.concatenate(self._looks[: len(found)])
            data = dataclasses.replace(self.data.part(looked, ""), name=self.data.name)
            scores = self._scores(data, looked, np.concatenate(expected), np.concatenate(found))
            if abs(scores.drop - self._told) >= scores.error:
                break
        return scores

    def _scores(
        self, data: EvaluationData, samples: np.ndarray, expected: np.ndarray, found: np.ndarray
    ) -> Scores:
        losses = accuracy.sample_losses(data, expected, found)
        return accuracy.scores(data, expected, *self._own.taken_off(samples, expected, found, losses))

    @functools.cached_property
    def _looks(self) -> list[np.ndarray]:
        """The samples of every look, by their numbers: in an order that every part is spread by."""
        order = np.random.default_rng(0).permutation(self.data.samples)
        ends = [0, SEARCH_SAMPLES]
        while ends[-1] < len(order):
            ends.append(2 * ends[-1])
        return [np.sort(order[start:end]) for start, end in itertools.pairwise(ends)]

    def _source_on(self, data: EvaluationData) -> np.ndarray:
        assert self._graph.run_source is not None
        return accuracy.run_all(self._graph.run_source, self._graph.inputs, data)

    def damage(self, outputs: np.ndarray) -> float:
        """How far outputs are from the source's: one minus their mean cosine, at least 0."""
        return max(0.0, 1.0 - accuracy.mean_cosine(self.expected, outputs))


def evaluate(graph: Graph, run: Run, data: EvaluationData | None) -> Scores | None:
    """Score the source and an engine on the data; None without data or a source to run."""
    return None if data is None or graph.run_source is None else Judge(graph, data).scores(run)


@dataclasses.dataclass(frozen=True)
class Budget:
    """What lossy steps may cost together.

    Attributes:
        max_drop: the largest drop of the score, as a fraction.
        search: judges whatever a search tries.
        held_out: judges the result, once, on samples that no search has seen.
    """

    max_drop: float
    search: Judge
    held_out: Judge

    @property
    def labelled(self) -> bool:
        """Whether the score is accuracy; else it is the mean cosine to the source."""
        return self.held_out.data.labels is not None

    def check(self, scores: Scores) -> None:
        """Refuse an engine that costs more than is allowed.

        Raises:
            NumericsError: it does; says both scores.
        """
        if scores.drop > self.max_drop:
            raise NumericsError(
                f"{scores.metric} drops by {scores.drop:.2%} ({scores.source:.2%} to {scores.engine:.2%}) on "
                f"{scores.samples} held-out samples, {self.max_drop:.2%} is allowed",
                fix="allow a larger --max-drop, take a higher --precision, or reduce less",
            )


def budget_of(
    graph: Graph,
    evaluation: EvaluationData | None,
    calibration: EvaluationData | None,
    max_drop: float | None,
    most: int | None = None,
) -> Budget | None:
    """The budget that a request's data allow; None where there is no data at all.

    Calibration data with labels, or any where nothing has labels, is what searches look at; otherwise the
    evaluation data is parted, every second sample for the search and the rest held out. `most` is how many
    samples a search looks at where it needs them, `MOST_SAMPLES` where it is None.

    Raises:
        RequestError: a drop is allowed and there is nothing to measure it on, or one sample only.
    """
    given = evaluation or calibration
    if given is None or graph.run_source is None:
        if max_drop is None:
            return None
        raise RequestError(
            "--max-drop needs data to measure the drop on",
            fix="give --eval-data F.npz with inputs and labels, or --calib F.npz with inputs alone: the drop "
            "is then one minus the mean cosine to the source",
        )
    drop = DEFAULT_DROP if max_drop is None else max_drop
    most = MOST_SAMPLES if most is None else most
    alike = (
        evaluation is not None
        and calibration is not None
        and (calibration.labels is None) == (evaluation.labels is None)
    )
    if alike:
        assert evaluation is not None
        assert calibration is not None
        return Budget(drop, Judge(graph, calibration.first(most), drop), Judge(graph, evaluation))
    if given.samples < 2:
        raise RequestError(
            "one sample cannot serve the search and be held out from it", where=given.name, fix="give more"
        )
    seen = given.part(slice(0, None, 2), "searched").first(most)
    held_out = given.part(slice(1, None, 2), "held out")
    return Budget(drop, Judge(graph, seen, drop), Judge(graph, held_out))


FITTED_EVERY = 3
"""Of so many samples that a search may look at, one is fitted to and the others judge."""

FITTED_SAMPLES = 256
"""Samples that are fitted to at most: beyond them more judge."""


def fitting_parted(graph: Graph, budget: Budget) -> tuple[Budget, tuple[Arrays, ...]]:
    """A budget whose search looks at a part of its data only, and the rest as feeds to fit to.

    What is fitted to samples does better on them than on others: they cannot judge it.

    Raises:
        RequestError: one sample cannot be parted.
    """
    data = budget.search.data
    if data.samples < 2:
        raise RequestError(
            "one sample cannot serve to fit what is slimmed and to judge it",
            where=data.name,
            fix="give more with --calib F.npz",
        )
    every = max(FITTED_EVERY, data.samples // FITTED_SAMPLES)
    fitted = np.arange(data.samples) % every == 0
    fitting = calibration_feeds(graph, data.part(fitted, "fitted to"), data.samples)
    judge = Judge(graph, data.part(~fitted, "searched"), budget.max_drop)
    return dataclasses.replace(budget, search=judge), fitting


def calibration_feeds(
    graph: Graph, calibration: EvaluationData, most: int = CALIBRATION_SAMPLES
) -> tuple[Arrays, ...]:
    """Calibration data as feeds of the model's own batch size, at most `most` samples."""
    return tuple(feeds for feeds, _ in accuracy.batches(graph.inputs, calibration.first(most)))


def calibration_data(graph: Graph, path: str | Path | None, most: int | None = None) -> EvaluationData | None:
    """The data to calibrate on: the user's file, else what a zoo model brings, at most `most` samples of it.

    Raises:
        RequestError: the file does not fit the model, or cannot tell ranges: constant or NaN.
    """
    data = accuracy.calibration_data(graph, path, most)
    if data is None:
        return None
    for name, array in data.inputs.items():
        if array.dtype.kind == "f" and array.size > 1 and np.ptp(array) == 0:
            raise RequestError(
                f"array {name!r} holds one value only, which tells nothing of the ranges",
                where=data.name,
                fix="give inputs as the model will meet them",
            )
    return data
