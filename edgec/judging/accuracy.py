"""Scoring the source and the engine on the same held-out data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgec.core.bundle import read_arrays
from edgec.core.errors import RequestError
from edgec.core.graph import Arrays, Graph, TensorSpec

LABELS = "labels"

Run = Callable[[Mapping[str, np.ndarray]], Arrays]


@dataclasses.dataclass(frozen=True)
class EvaluationData:
    """Held-out data.

    Attributes:
        name: where it came from, for the report.
        inputs: samples stacked on axis 0, by input name.
        labels: class indices, shape (samples,); None where there are no labels, and the score is then
            the agreement with the source.
    """

    name: str
    inputs: Arrays
    labels: np.ndarray | None

    @property
    def samples(self) -> int:
        """How many samples."""
        return len(next(iter(self.inputs.values())))

    def part(self, rows: slice | np.ndarray, name: str) -> EvaluationData:
        """Some of the samples, under the data's name and the part's."""
        labels = None if self.labels is None else self.labels[rows]
        kept = {key: array[rows] for key, array in self.inputs.items()}
        return EvaluationData(f"{self.name}, {name}", kept, labels)

    def first(self, most: int) -> EvaluationData:
        """At most so many of the samples, spread over the whole."""
        if self.samples <= most:
            return self
        return self.part(spread(self.samples, most), f"{most} samples")


def spread(samples: int, most: int) -> slice:
    """At most so many of the samples, spread over the whole."""
    step = max(1, samples // most)
    return slice(0, most * step, step)


@dataclasses.dataclass(frozen=True)
class Scores:
    """One score of the source and of the engine.

    Attributes:
        metric: `top-1 accuracy`, or `mean cosine to the source` where there are no labels.
        source: the source's score, 0 to 1.
        engine: the engine's score.
        samples: how many samples.
        data: where they came from.
        error: the standard error of the drop, from the samples' own spread.
        unsteady: samples on which the source's own fp32 is off from its float64 as the engine is, and where
            only what is farther counts (`own_loss`).
    """

    metric: str
    source: float
    engine: float
    samples: int
    data: str
    error: float = 0.0
    unsteady: int = 0

    @property
    def drop(self) -> float:
        """How much the engine scores less than the source."""
        return self.source - self.engine

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**dataclasses.asdict(self), "drop": self.drop}


def evaluation_data(graph: Graph, path: str | Path | None, most: int | None = None) -> EvaluationData | None:
    """The data to score on: the user's file, else what a zoo model brings, else None.

    Args:
        graph: the loaded graph.
        path: the user's file.
        most: samples to take of a zoo model's data at most; a file is taken whole.

    Raises:
        RequestError: the file does not fit the model; says which array and how.
    """
    return _data(graph, path, "held out", most)


def calibration_data(graph: Graph, path: str | Path | None, most: int | None = None) -> EvaluationData | None:
    """The data that searches and calibration look at, likewise.

    Raises:
        RequestError: the file does not fit the model; says which array and how.
    """
    return _data(graph, path, "calibration", most)


def _data(
    graph: Graph, path: str | Path | None, part: Literal["held out", "calibration"], most: int | None
) -> EvaluationData | None:
    data: EvaluationData | None = None
    if path is not None:
        data = _from_file(Path(path))
    elif graph.source.kind == "zoo":
        data = _from_zoo(graph, part, most)
    if data is not None:
        _check_fit(graph, data)
    return data


def scores(data: EvaluationData, expected: np.ndarray, losses: np.ndarray, unsteady: int = 0) -> Scores:
    """The scores where the source's outputs are known, (samples, …), and what an engine loses, (samples,)."""
    metric = "mean cosine to the source" if data.labels is None else "top-1 accuracy"
    source = float(_sample_scores(data, expected, expected).mean())
    error = float(losses.std(ddof=1) / np.sqrt(len(losses))) if len(losses) > 1 else 0.0
    engine = source - float(losses.mean())
    return Scores(metric, source, engine, data.samples, data.name, error, unsteady)


def sample_losses(data: EvaluationData, expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """What each sample loses: 1 where a right class became wrong, -1 the other way round; without labels
    one minus the cosine. float64 (samples,). Their mean is the score's drop, infinite values included.
    """
    return _sample_scores(data, expected, expected) - _sample_scores(data, expected, found)


def _sample_scores(data: EvaluationData, expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """What each sample of an engine's outputs counts, 0 to 1. float64 (samples,)."""
    if data.labels is None:
        return np.ones(len(found)) if found is expected else sample_cosines(expected, found)
    rows = found.reshape(len(found), -1)
    right = rows.argmax(axis=1) == data.labels
    if found is not expected:
        # Numbers are asked for wherever the source has them.
        right &= _agree_where_infinite(expected.reshape(rows.shape), rows)
    return right.astype(np.float64)


def run_all(run: Run, specs: tuple[TensorSpec, ...], data: EvaluationData) -> np.ndarray:
    """The first output for every sample, shape (samples, …), run in batches of the model's own size."""
    return np.concatenate([next(iter(run(feeds).values()))[:real] for feeds, real in batches(specs, data)])


def batches(specs: tuple[TensorSpec, ...], data: EvaluationData) -> Iterator[tuple[Arrays, int]]:
    """The samples as feeds of the model's own batch size, each with how many of its samples are real."""
    batch = next((spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], int)), 1)
    assert isinstance(batch, int)
    for start in range(0, data.samples, batch):
        feeds = {name: array[start : start + batch] for name, array in data.inputs.items()}
        missing = batch - len(next(iter(feeds.values())))
        if missing:
            feeds = {name: _repeat_last(array, missing) for name, array in feeds.items()}
        yield feeds, batch - missing


def _from_file(path: Path) -> EvaluationData:
    arrays = read_arrays(path)
    labels = arrays.pop(LABELS, None)
    return EvaluationData(path.name, arrays, labels)


def _from_zoo(
    graph: Graph, part: Literal["held out", "calibration"], most: int | None
) -> EvaluationData | None:
    from edgec import zoo

    draw = zoo.evaluation if part == "held out" else zoo.calibration
    data = draw(graph.source.spec.removeprefix("zoo:"), count=most)
    return None if data is None else EvaluationData(f"{graph.source.spec}, {part}", data.inputs, data.labels)


def _check_fit(graph: Graph, data: EvaluationData) -> None:
    names = {spec.name for spec in graph.inputs}
    if set(data.inputs) != names:
        raise RequestError(
            f"has the arrays {sorted(data.inputs)}, the model takes {sorted(names)}",
            where=data.name,
            fix="name each array after the model's input, and the classes 'labels'",
        )
    lengths = {name: len(array) for name, array in data.inputs.items()}
    if data.labels is not None:
        lengths[LABELS] = len(data.labels)
    if not any(lengths.values()):
        raise RequestError("it holds no samples", where=data.name, fix="stack the samples on axis 0")
    if len(set(lengths.values())) != 1:
        raise RequestError(f"its arrays have different numbers of samples: {lengths}", where=data.name)
    for spec in graph.inputs:
        array = data.inputs[spec.name]
        wanted = spec.shape[1:]
        fits = array.ndim == len(spec.shape) and all(
            size == have for size, have in zip(wanted, array.shape[1:], strict=False) if isinstance(size, int)
        )
        if not fits:
            raise RequestError(
                f"array {spec.name!r} has samples of shape {array.shape[1:]}, the model takes {wanted}",
                where=data.name,
            )
        if array.dtype != np.dtype(spec.dtype):
            raise RequestError(
                f"array {spec.name!r} is {array.dtype}, the model takes {spec.dtype}", where=data.name
            )
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise RequestError(f"array {spec.name!r} has NaN values", where=data.name)
        if array.dtype.kind == "f" and np.isinf(array).any():
            raise RequestError(
                f"array {spec.name!r} has infinite values",
                where=data.name,
                fix="leave those samples out, or write a mask's infinity as a large finite number",
            )
    _check_labels(graph, data)


def _check_labels(graph: Graph, data: EvaluationData) -> None:
    labels = data.labels
    if labels is None:
        return
    classes = graph.references[0][graph.outputs[0].name].shape[-1]
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= classes:
        raise RequestError(
            f"'labels' must hold one class index a sample, from 0 to {classes - 1}",
            where=data.name,
        )


def _repeat_last(array: np.ndarray, times: int) -> np.ndarray:
    return np.concatenate([array, np.repeat(array[-1:], times, axis=0)])


def mean_cosine(expected: np.ndarray, found: np.ndarray) -> float:
    """The mean over samples of the cosine between two outputs, each of shape (samples, …)."""
    return float(np.mean(sample_cosines(expected, found)))


def sample_cosines(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The cosine of each sample between two outputs, each of shape (samples, …). float64 (samples,).

    Infinite values that both have in the same place (masked logits) are left out. A sample that has any other
    value that is no finite number counts 0: it agrees in nothing.
    """
    left = expected.reshape(len(expected), -1).astype(np.float64)
    right = found.reshape(len(found), -1).astype(np.float64)
    finite = np.isfinite(left) & np.isfinite(right)
    agrees = _agree_where_infinite(left, right)
    left, right = np.where(finite, left, 0.0), np.where(finite, right, 0.0)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosines = np.sum(left * right, axis=1) / np.maximum(norms, 1e-30)
    # What is infinite all over, in both, agrees.
    cosines = np.where(finite.any(axis=1), cosines, 1.0)
    return np.where(agrees, cosines, 0.0)


def _agree_where_infinite(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """For each row of (samples, values): whether neither is NaN anywhere and infinities are the same."""
    finite = np.isfinite(expected) & np.isfinite(found)
    return np.all(finite | (expected == found), axis=1)
