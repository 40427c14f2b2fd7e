"""In which order the regressors of a linear layer leave, and what each loss costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

RIDGE = 1e-3
"""What is added to the diagonal of the Gram matrix, a share of its mean."""

STEPS = 96
"""At most one in so many of the members that are left goes at a time."""

ENTRIES = 100_000
"""Entries of all steps' regressors: wide layers take fewer steps, whose cost grows with their square."""


@dataclasses.dataclass(frozen=True)
class Order:
    """The members of a unit as they leave.

    Attributes:
        members: (size,) int, the first to leave first.
        lost: (size + 1,) float; the sum of squares that the layer's outputs lose once so many have left and
            the weights of the others make good what they can.
    """

    members: np.ndarray
    lost: np.ndarray

    def kept(self, count: int) -> np.ndarray:
        """(count,) int: the members that stay, ascending."""
        return np.sort(self.members[len(self.members) - count :])


@dataclasses.dataclass(frozen=True)
class Layer:
    """A linear layer that reads the members.

    Attributes:
        gram: (n, n), sum of x xᵀ over calibration rows, the means taken off where a bias can follow.
        weight: (n, m), what it multiplies x by.
        members: (n,) int, of which member each regressor is; -1 for regressors that always stay.
    """

    gram: np.ndarray
    weight: np.ndarray
    members: np.ndarray


def eliminate(layers: Sequence[Layer], size: int, ridge: float = RIDGE) -> Order:
    """Backward elimination: again and again the member goes whose loss the others can best make good.

    With G the Gram matrix of a layer's regressors, damped, and W its weights, a set R of regressors that
    leaves costs tr(W_Rᵀ (G⁻¹_RR)⁻¹ W_R), after the others have taken over W_S - G⁻¹_SR (G⁻¹_RR)⁻¹ W_R: the
    optimal brain surgeon (Hassibi and Stork, 1993), for least squares of a layer's outputs as in Kwon et al.
    (arXiv 2204.09656), OSSCAR (2403.12983) and CORP (2602.05243). A member costs the sum over the layers.
    Several go at once while many are left, scored apart.

    Args:
        layers: those that read the members.
        size: how many members there are.
        ridge: added to the diagonal of each Gram matrix, a share of its mean.
    """
    readers = [_Reader(layer, size, ridge) for layer in layers]
    widest = max(len(layer.gram) for layer in layers)
    steps = max(STEPS // 8, min(STEPS, ENTRIES // max(widest, 1)))
    alive = np.arange(size)
    order: list[int] = []
    lost = [0.0]
    while len(alive):
        scores = np.maximum(sum(reader.scores(alive) for reader in readers), 0.0)
        ranked = np.argsort(scores, kind="stable")[: max(1, len(alive) // steps)]
        leaving = alive[ranked]
        cost = sum(reader.remove(leaving) for reader in readers)
        # Of those that go together only the sum is known; each is told its share by its own score.
        total = scores[ranked].sum()
        shares = scores[ranked] / total if total > 0 else np.full(len(ranked), 1 / len(ranked))
        lost.extend(lost[-1] + cost * np.cumsum(shares))
        order.extend(leaving.tolist())
        alive = np.setdiff1d(alive, leaving)
    return Order(np.array(order, dtype=np.int64), np.array(lost))


class _Reader:
    """A layer while its regressors leave."""

    def __init__(self, layer: Layer, size: int, ridge: float) -> None:
        count = len(layer.gram)
        scale = float(np.trace(layer.gram)) / max(count, 1)
        damping = ridge * scale if scale > 0.0 else 1.0
        self._inverse = np.linalg.inv(layer.gram + damping * np.eye(count))
        self._weight = layer.weight.astype(np.float64)
        self._members = layer.members
        self._single = bool((np.bincount(layer.members[layer.members >= 0], minlength=size) == 1).all())

    def scores(self, alive: np.ndarray) -> np.ndarray:
        """(alive,) float: what each member alone costs."""
        if self._single:
            place = np.argsort(self._members)[np.count_nonzero(self._members < 0) :]
            return np.square(self._weight[place]).sum(1) / np.diagonal(self._inverse)[place]
        costs = []
        for member in alive:
            place = np.flatnonzero(self._members == member)
            rows = self._weight[place]
            inner = self._inverse[np.ix_(place, place)]
            costs.append(float((rows * np.linalg.solve(inner, rows)).sum()) if len(place) else 0.0)
        return np.array(costs)

    def remove(self, leaving: np.ndarray) -> float:
        """Let members go, hand what they did to the others, and say what it costs."""
        going = np.isin(self._members, leaving)
        gone, stay = np.flatnonzero(going), np.flatnonzero(~going)
        rows = self._weight[gone]
        inner = np.linalg.inv(self._inverse[np.ix_(gone, gone)])
        across = self._inverse[np.ix_(stay, gone)] @ inner
        cost = float((rows * (inner @ rows)).sum())
        self._weight = self._weight[stay] - across @ rows
        self._inverse = self._inverse[np.ix_(stay, stay)] - across @ self._inverse[np.ix_(gone, stay)]
        self._members = self._members[stay]
        return max(cost, 0.0)
