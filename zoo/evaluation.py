"""Held-out and calibration data of the models that have some, and how an output is scored on it."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from edgec.core.graph import Arrays
from edgec.zoo.catalogue import entry

PICTURES = 512
"""Pictures of vit_shapes and vit_patterns where no count is given: at most 308 MB, some seconds to draw."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Data to score a model on.

    Attributes:
        inputs: by input name, samples first, as the model takes them.
        labels: the class of each sample, int64; None where samples have no class.
        metric: `accuracy` (right classes), or `embedding` (see `score`).
        grades: for embeddings, how alike samples 2i and 2i + 1 are by a person's reading, 0 to 5.
    """

    inputs: Arrays
    labels: np.ndarray | None
    metric: Literal["accuracy", "embedding"]
    grades: np.ndarray | None = None

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(next(iter(self.inputs.values())))

    def score(self, outputs: np.ndarray, source: np.ndarray | None = None) -> dict[str, float]:
        """Score a model's first output.

        Args:
            outputs: one row a sample, in the order of `inputs`.
            source: the unchanged model's rows; needed for `embedding`.

        Returns:
            `accuracy`; or for embeddings `cosine` (mean, to the source's embedding), `cosine_min`,
            `ranking` (Spearman's correlation of the similarities of all pairs of samples, source's
            against outputs') and `graded` (Spearman's, of the graded pairs' similarities and grades).

        Raises:
            ValueError: an embedding is scored without the source's rows.
        """
        if self.metric == "accuracy":
            assert self.labels is not None
            return {"accuracy": float((outputs.argmax(axis=1) == self.labels).mean())}
        if source is None or self.grades is None:
            raise ValueError("embeddings are scored against the source's")
        found, expected = _normalised(outputs), _normalised(source)
        cosine = (found * expected).sum(axis=1)
        pairs = np.triu_indices(len(found), 1)
        graded = (found[0::2] * found[1::2]).sum(axis=1)
        return {
            "cosine": float(cosine.mean()),
            "cosine_min": float(cosine.min()),
            "ranking": spearman((found @ found.T)[pairs], (expected @ expected.T)[pairs]),
            "graded": spearman(graded, self.grades),
        }


def evaluation(name: str, *, count: int | None = None) -> Evaluation | None:
    """Held-out data of a zoo model, which neither training nor calibration saw; None where it has none.

    Args:
        name: its name in the zoo.
        count: how many samples at most; vit_shapes and vit_patterns draw as many as asked, 512 where not
            given.

    Raises:
        RequestError: the zoo has no such model.
        MissingExtraError: a package of the extra `zoo` is not installed.
    """
    return _data(entry(name).name, "held_out", count)


def calibration(name: str, *, count: int | None = None) -> Evaluation | None:
    """Data to calibrate and search on, apart from training and `evaluation`; else like `evaluation`."""
    return _data(entry(name).name, "calibration", count)


def _data(name: str, part: Literal["calibration", "held_out"], count: int | None) -> Evaluation | None:
    if name == "vit_digits":
        from edgec.zoo.vit_digits.data import digits

        images, labels = digits(part)
        return Evaluation({"image": images[:count]}, labels[:count], "accuracy")
    if name == "vit_shapes":
        from edgec.zoo.vit_shapes.scenes import CALIBRATION, HELD_OUT, scenes

        seed = HELD_OUT if part == "held_out" else CALIBRATION
        pictures, labels = scenes(seed, 0, PICTURES if count is None else count)
        return Evaluation({"image": pictures}, labels, "accuracy")
    if name == "vit_patterns":
        from edgec.zoo.vit_patterns.scenes import CALIBRATION, HELD_OUT, scenes

        seed = HELD_OUT if part == "held_out" else CALIBRATION
        pictures, labels = scenes(seed, 0, PICTURES if count is None else count)
        return Evaluation({"image": pictures}, labels, "accuracy")
    if name == "minilm":
        from edgec.zoo.minilm.data import graded_pairs, tokenise

        grades, texts = graded_pairs(part)
        rows = len(texts) if count is None else min(len(texts), count + count % 2)
        return Evaluation(tokenise(texts[:rows]), None, "embedding", grades[: rows // 2])
    return None


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation, ties at their mean rank."""
    return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _normalised(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)
