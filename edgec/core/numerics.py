"""Comparing what an engine computed with what the source computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far outputs are from their reference, the worst over samples and outputs.

    Attributes:
        max_abs: largest absolute difference; inf where one side is not finite and the other is.
        scaled: largest absolute difference over max(1, the reference output's standard deviation).
        cosine: smallest cosine similarity of the flattened outputs.
        output: name of the output with the largest `scaled`.
    """

    max_abs: float
    scaled: float
    cosine: float
    output: str

    def worst(self, other: Difference) -> Difference:
        """The worse of both, field by field."""
        return Difference(
            max(self.max_abs, other.max_abs),
            max(self.scaled, other.scaled),
            min(self.cosine, other.cosine),
            self.output if self.scaled >= other.scaled else other.output,
        )


@dataclasses.dataclass(frozen=True)
class Gate:
    """What a difference must keep to.

    Attributes:
        scaled: bound on `Difference.scaled`.
        cosine: bound on `Difference.cosine`.
        why: the argument for the bounds, one sentence.
    """

    scaled: float
    cosine: float
    why: str

    def accepts(self, difference: Difference) -> bool:
        """Whether the difference keeps both bounds."""
        return difference.scaled <= self.scaled and difference.cosine >= self.cosine


GATES: dict[str, Gate] = {
    "fp32": Gate(
        1e-4,
        0.999_999,
        "fp32 rounds at 6e-8; reordered sums over a thousand terms and some fifty layers stay under "
        "a thousand roundings, and a wrong GELU form or epsilon is ten times over it",
    ),
    "fp16": Gate(
        5e-2,
        0.999,
        "fp16 rounds at 4.9e-4; a hundred roundings that do not cancel reach 5e-2 of the output's "
        "spread; semantics are gated in fp32 before",
    ),
    "bf16": Gate(
        2.5e-1,
        0.99,
        "bf16 rounds at 3.9e-3, eight times coarser than fp16, and its sums of a hundred roundings "
        "grow likewise; semantics are gated in fp32 before",
    ),
}
"""Gates by precision, for outputs of unit spread. Lossy steps use the user's own budget instead."""


def compare_arrays(reference: np.ndarray, actual: np.ndarray, name: str = "") -> Difference:
    """Compare one output, in float64.

    Non-finite values must agree in kind and place (masked logits are legitimately -inf).

    Raises:
        ValueError: the shapes differ.
    """
    if reference.shape != actual.shape:
        raise ValueError(f"output {name!r}: shape {actual.shape}, the source's is {reference.shape}")
    expected = np.asarray(reference, dtype=np.float64).ravel()
    found = np.asarray(actual, dtype=np.float64).ravel()
    if expected.size == 0:
        return Difference(0.0, 0.0, 1.0, name)
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(found)) or not np.array_equal(
        expected[~finite], found[~finite], equal_nan=True
    ):
        return Difference(float("inf"), float("inf"), -1.0, name)
    expected, found = expected[finite], found[finite]
    if expected.size == 0:
        return Difference(0.0, 0.0, 1.0, name)
    max_abs = float(np.max(np.abs(expected - found)))
    scaled = max_abs / max(1.0, float(np.std(expected)))
    norms = float(np.linalg.norm(expected) * np.linalg.norm(found))
    if norms == 0.0:
        cosine = 1.0 if max_abs == 0.0 else 0.0
    else:
        cosine = float(np.clip(expected @ found / norms, -1.0, 1.0))
    return Difference(max_abs, scaled, cosine, name)


def compare(references: Sequence[Arrays], actuals: Sequence[Arrays]) -> Difference:
    """Compare all outputs of all samples; the worst of them.

    Raises:
        ValueError: a sample or an output is missing, or a shape differs.
    """
    if not references or len(references) != len(actuals):
        raise ValueError(f"{len(actuals)} samples, the source has {len(references)}")
    worst = Difference(0.0, 0.0, 1.0, next(iter(references[0]), ""))
    for reference, actual in zip(references, actuals, strict=True):
        for name, expected in reference.items():
            if name not in actual:
                raise ValueError(f"output {name!r} is missing")
            worst = worst.worst(compare_arrays(expected, actual[name], name))
    return worst
