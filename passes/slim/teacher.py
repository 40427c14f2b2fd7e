"""What the whole network computes on calibration data, kept as rows and moments for fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgec.core.evaluation import Evaluator
from edgec.core.graph import Arrays, TensorSpec
from edgec.passes.slim.least_squares import Moments
from edgec.passes.slim.linear_layers import LinearLayer, input_rows, output_rows, places

ROWS = 16_384
"""Rows of a layer that a fit sees, over all samples: some times what the widest layers have of regressors."""

SAMPLES = 256
"""Calibration samples that are run at most, spread evenly over those that there are."""


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What one linear layer of the teacher saw and was for.

    Attributes:
        moments: of its regressors, without targets.
        targets: by sample the rows of `LinearLayer.target`, (picked, outputs) float32.
        spread: sum over rows of the squared distance of the target from its mean.
    """

    moments: Moments
    targets: list[np.ndarray]
    spread: float


class Rows:
    """Which rows of each sample are looked at: the same for teacher and student, the same in every run.

    Padding is never looked at: rows that a mask among the inputs has a zero for.

    Args:
        samples: the feeds.
        inputs: the graph's inputs.
    """

    def __init__(self, samples: Sequence[Arrays], inputs: Iterable[TensorSpec]) -> None:
        masks = [spec.name for spec in inputs if spec.semantics == "mask"]
        self._real = [[sample[name].reshape(-1) != 0 for name in masks] for sample in samples]
        self._share = max(1, ROWS // max(len(samples), 1))

    def picked(self, sample: int, count: int) -> np.ndarray:
        """Ascending indices into the `count` rows that a layer has of a sample."""
        real = next((mask for mask in self._real[sample] if len(mask) == count), None)
        allowed = np.arange(count) if real is None else np.flatnonzero(real)
        if len(allowed) <= self._share:
            return allowed
        rng = np.random.default_rng([sample, count])
        return np.sort(rng.choice(allowed, self._share, replace=False))


def teach(
    model: ir.Model, layers: Iterable[LinearLayer], samples: Sequence[Arrays], rows: Rows
) -> dict[str, Lesson]:
    """Run a network once on every sample; by a layer's node what it saw.

    Args:
        model: a graph that ONNX Runtime runs.
        layers: linear layers of it.
        samples: feeds by input name.
        rows: which rows to keep.
    """
    layers = list(layers)
    nodes = {str(node.name): node for node in model.graph}
    wanted = dict.fromkeys(name for layer in layers for name in (layer.value, layer.target))
    lessons: dict[str, Lesson] = {}
    given: Mapping[str, np.ndarray]
    with Evaluator(model, outputs=list(wanted)) as evaluator:
        for index, sample in enumerate(samples):
            given = {**sample, **evaluator.run(sample)}
            for layer in layers:
                node = nodes[layer.node]
                picked = rows.picked(index, places(node, given[layer.target]))
                inputs = input_rows(node, given[layer.value], picked)
                if layer.node not in lessons:
                    lessons[layer.node] = Lesson(Moments.empty(inputs.shape[1], 0), [], 0.0)
                lesson = lessons[layer.node]
                lesson.moments.add(inputs, np.empty((len(inputs), 0), np.float32))
                lesson.targets.append(output_rows(node, given[layer.target], picked).copy())
    return {
        name: dataclasses.replace(lesson, spread=_spread(lesson.targets)) for name, lesson in lessons.items()
    }


def _spread(targets: Sequence[np.ndarray]) -> float:
    count = sum(len(part) for part in targets)
    mean = sum(part.sum(0, dtype=np.float64) for part in targets) / max(count, 1)
    return float(sum(np.square(part - mean).sum() for part in targets))
