"""What the whole network computes on calibration data, kept as rows and moments for fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgec.core.evaluation import Evaluator, with_outputs
from edgec.core.graph import Arrays, TensorSpec
from edgec.passes.precision.judge import evaluable
from edgec.passes.slim.least_squares import Gathering, Moments
from edgec.passes.slim.linear_layers import LinearLayer, count_rows, input_rows, value_rows

ROWS = 16_384
"""Rows of a layer that a fit sees, over all samples: some times what the widest layers have of regressors."""

BYTES = 2**30
"""What the rows of all streams may take; there are fewer rows where it is not enough."""

SAMPLES = 256
"""Calibration samples that are run at most, spread evenly over those that there are."""


class Rows:
    """Which rows of each sample are looked at: the same for teacher and student, the same in every run.

    Padding is never looked at: rows that a mask among the inputs has a zero for.

    Args:
        samples: the feeds.
        inputs: the graph's inputs.
        entries: how many floats are kept of one row, over all streams.
    """

    def __init__(self, samples: Sequence[Arrays], inputs: Iterable[TensorSpec], entries: int) -> None:
        masks = [spec.name for spec in inputs if spec.semantics == "mask"]
        self._real = [[sample[name].reshape(-1) != 0 for name in masks] for sample in samples]
        self._share = max(1, min(ROWS, BYTES // (4 * max(entries, 1))) // max(len(samples), 1))

    def picked(self, sample: int, count: int) -> np.ndarray:
        """Ascending indices into the `count` rows that a value has of a sample."""
        real = next((mask for mask in self._real[sample] if len(mask) == count), None)
        allowed = np.arange(count) if real is None else np.flatnonzero(real)
        if len(allowed) <= self._share:
            return allowed
        rng = np.random.default_rng([sample, count])
        return np.sort(rng.choice(allowed, self._share, replace=False))


@dataclasses.dataclass(frozen=True)
class Stream:
    """Rows of one value that the teacher computed.

    Attributes:
        axis: the axis of its entries.
        rows: by sample, (picked, entries) float32.
        counts: by sample how many rows there were to pick from.
    """

    axis: int
    rows: list[np.ndarray]
    counts: list[int]

    def spread(self) -> float:
        """Sum over rows of the squared distance from their mean."""
        count = sum(len(part) for part in self.rows)
        mean = sum(part.sum(0, dtype=np.float64) for part in self.rows) / max(count, 1)
        return float(sum(np.square(part - mean).sum() for part in self.rows))


@dataclasses.dataclass(frozen=True)
class Lessons:
    """What the teacher computed.

    Attributes:
        moments: by a linear layer's node, of what it reads, without targets.
        streams: by a value's name, its rows.
    """

    moments: dict[str, Moments]
    streams: dict[str, Stream]


def teach(
    model: ir.Model,
    layers: Iterable[LinearLayer],
    streams: Mapping[str, int],
    samples: Sequence[Arrays],
    rows: Rows,
) -> Lessons:
    """Run a network once on every sample.

    Args:
        model: the neutral graph.
        layers: linear layers of it whose moments are wanted.
        streams: by name the values whose rows are wanted, and the axis of their entries.
        samples: feeds by input name.
        rows: which rows to keep.
    """
    layers = list(layers)
    nodes = {str(node.name): node for node in model.graph}
    lessons = Lessons({}, {name: Stream(axis, [], []) for name, axis in streams.items()})
    gathered: dict[str, Gathering] = {}

    def look(index: int, values: Arrays) -> None:
        for layer in layers:
            picked = rows.picked(index, count_rows(values[layer.target], layer.axis))
            inputs = input_rows(nodes[layer.node], values[layer.value], picked)
            if layer.node not in gathered:
                gathered[layer.node] = Gathering(Moments.empty(inputs.shape[1], 0))
            gathered[layer.node].add(inputs, np.empty((len(inputs), 0), np.float32))
        for name, stream in lessons.streams.items():
            stream.counts.append(count_rows(values[name], stream.axis))
            picked = rows.picked(index, stream.counts[index])
            stream.rows.append(value_rows(values[name], stream.axis, picked).copy())

    observe(model, [*(layer.value for layer in layers), *(layer.target for layer in layers), *streams],
            samples, look)  # fmt: skip
    lessons.moments.update({node: gathering.finish() for node, gathering in gathered.items()})
    return lessons


def observe(
    model: ir.Model, names: Iterable[str], samples: Sequence[Arrays], look: Callable[[int, Arrays], None]
) -> None:
    """Run a network on samples and show values of each: its number, and the arrays by name, inputs too."""
    # Outputs first: writing attention out must not lose an operand of it that is asked for.
    running = evaluable(with_outputs(model, list(dict.fromkeys(names))))
    with Evaluator(running, optimized=True) as evaluator:
        for index, sample in enumerate(samples):
            look(index, {**sample, **evaluator.run(sample)})
