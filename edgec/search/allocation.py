"""How much of what, at which place: settings by gain for their cost, predictions of combinations, refinement.

Within an axis every place has levels, each with what it gains and what it costs, measured or predicted alone.
The settings worth trying are the greedy ones of the multiple-choice knapsack (Sinha and Zoltners, 1979): the
steps of every place's convex hull, taken by gain for cost. Across axes a combination's latency is predicted
as a product and its degradation as a sum, corrected by what combinations of the same axes really came to:
plain sums are wrong where several dimensions shrink at once. Around the goal the predicted frontier is built
and measured by bisection, then what is predicted to be better than the best so far, until nothing is.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np

from edgec.search.goal import Goal
from edgec.search.plan import Plan
from edgec.search.trials import Trial

Place = TypeVar("Place", bound=Hashable)
Amount = TypeVar("Amount")

LEAST_COST = 1e-12


@dataclasses.dataclass(frozen=True)
class Level(Generic[Amount]):
    """How much of something at one place.

    Attributes:
        amount: the axis' own word for it.
        gain: what it is done for.
        cost: what it costs.
    """

    amount: Amount
    gain: float
    cost: float


def hull(levels: Sequence[Level[Amount]]) -> list[Level[Amount]]:
    """The levels that gain the most for their cost: the upper convex hull from nothing on, by cost."""
    kept: list[Level[Amount]] = []
    for level in sorted(levels, key=lambda each: (each.cost, -each.gain)):
        if level.gain <= (kept[-1].gain if kept else 0.0):
            continue
        while kept and _slope(kept[-1], level) >= _slope(kept[-2] if len(kept) > 1 else None, kept[-1]):
            kept.pop()
        kept.append(level)
    return kept


def greedy(places: Mapping[Place, Sequence[Level[Amount]]]) -> list[dict[Place, Amount]]:
    """Settings of ever more gain, each with one step more than the one before it.

    Args:
        places: the levels of every place, without that of nothing.

    Returns:
        from the setting of one place at its best step to that of all places at their last.
    """
    steps: list[tuple[float, Place, Amount]] = []
    for place, levels in places.items():
        before: Level[Amount] | None = None
        for level in hull(levels):
            steps.append((_slope(before, level), place, level.amount))
            before = level
    # Steps of one place keep their order: a hull's slopes only fall, and the sort is stable.
    steps.sort(key=lambda step: -step[0])
    found: list[dict[Place, Amount]] = []
    setting: dict[Place, Amount] = {}
    for _, place, amount in steps:
        setting = {**setting, place: amount}
        found.append(setting)
    return found


def _slope(before: Level[Amount] | None, level: Level[Amount]) -> float:
    gain, cost = (0.0, 0.0) if before is None else (before.gain, before.cost)
    return (level.gain - gain) / max(level.cost - cost, LEAST_COST)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A plan and what it should come to.

    Attributes:
        plan: the plan.
        ratio: its latency over that of the network that nothing was taken of.
        degradation: beyond that network's own.
        places: where it takes something: another setting of the same places is a near relative.
    """

    plan: Plan
    ratio: float
    degradation: float
    places: frozenset[Hashable]


MOST_OF_AN_AXIS = 24
"""Predictions of each axis that combinations are made of."""

SPACING = 0.015
"""Neighbours on the predicted frontier differ in ratio by this at least."""


def combined(axes: Sequence[Sequence[Prediction]]) -> list[Prediction]:
    """The predictions of every axis alone, and of the combinations of their frontiers."""
    alone = [each for predictions in axes for each in predictions]
    if len(axes) < 2:
        return alone
    fronts = [_spread(frontier(predictions), MOST_OF_AN_AXIS) for predictions in axes]
    found = list(alone)
    for count in range(2, len(axes) + 1):
        for some in itertools.combinations(fronts, count):
            found += [_together(each) for each in itertools.product(*some)]
    return found


def _together(parts: Sequence[Prediction]) -> Prediction:
    plan = Plan()
    for part in parts:
        plan = plan.also(part.plan)
    return Prediction(
        plan,
        math.prod(part.ratio for part in parts),
        sum(part.degradation for part in parts),
        frozenset().union(*(part.places for part in parts)),
    )


def frontier(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Those that no other is predicted to beat, fastest first, `SPACING` apart."""
    kept: list[Prediction] = []
    for each in sorted(predictions, key=lambda each: (each.ratio, each.degradation, each.plan.name)):
        if not kept or (each.degradation < kept[-1].degradation and each.ratio >= kept[-1].ratio + SPACING):
            kept.append(each)
    return kept


def _spread(predictions: Sequence[Prediction], most: int) -> list[Prediction]:
    if len(predictions) <= most:
        return list(predictions)
    places = np.linspace(0, len(predictions) - 1, most).round().astype(int)
    return [predictions[place] for place in places]


class Correction:
    """What combinations came to over what was predicted of them, by the axes that they are of."""

    def __init__(self) -> None:
        self._off: dict[frozenset[str], list[tuple[float, float]]] = {}

    def learn(self, prediction: Prediction, trial: Trial, baseline: Trial) -> None:
        """Remember a measured trial."""
        degradation = max(LEAST_COST, trial.degradation - baseline.degradation)
        off = (
            math.log(trial.ratio / prediction.ratio),
            math.log(degradation / max(LEAST_COST, prediction.degradation)),
        )
        self._off.setdefault(prediction.plan.axes, []).append(off)

    def of(self, prediction: Prediction) -> Prediction:
        """The prediction, moved by what was measured of its like: the fewer there are, the less."""
        known = self._off.get(prediction.plan.axes)
        if not known:
            return prediction
        trust = len(known) / (len(known) + 1)
        ratio, degradation = trust * np.median(np.array(known), axis=0)
        return dataclasses.replace(
            prediction,
            ratio=prediction.ratio * math.exp(ratio),
            degradation=prediction.degradation * math.exp(degradation),
        )


class Refinement:
    """Builds predictions of the frontier, by bisection around the goal, and then what should be better yet.

    Args:
        predictions: of every plan that may be tried.
        goal: what is wanted.
        baseline: the engine that nothing was taken of.
        build: builds, measures and scores a plan.
        builds: so many plans at most.
        points: what was built, by name; it grows.
    """

    def __init__(
        self,
        predictions: Sequence[Prediction],
        goal: Goal,
        baseline: Trial,
        build: Callable[[Plan], Trial],
        builds: int,
        points: dict[str, Trial],
    ) -> None:
        self._predictions = [each for each in predictions if each.ratio < 1.0]
        self._goal = goal
        self._baseline = baseline
        self._build_plan = build
        self._builds = builds
        self._points = points
        self._correction = Correction()

    def run(self) -> None:
        """Build until nothing better is predicted, or so many are built."""
        front = frontier(self._predictions)
        self._bisect(front)
        # A third of the rest goes along the frontier, for the whole picture; what is left looks near the
        # best for others that the prediction may have wronged.
        front = frontier(self._corrected())
        steps = max(1, (self._builds - len(self._points)) // 3)
        for step in range(steps if front else 0):
            self._build(front[round((step + 0.5) / steps * (len(front) - 1))])
        while len(self._points) < self._builds and self._look_beside():
            continue

    def _corrected(self) -> list[Prediction]:
        return [self._correction.of(each) for each in self._predictions]

    def _bisect(self, front: Sequence[Prediction]) -> None:
        # Fastest first: along the frontier latency rises and the drop falls. Where a latency is wanted the
        # boundary is where that is no longer kept, else where the drop first is.
        by_latency = self._goal.milliseconds is not None
        low, high = -1, len(front)
        while len(self._points) < 2 * self._builds // 3 and high - low > 1:
            middle = (low + high) // 2
            point = self._build(front[middle])
            enough = not self._goal.keeps_latency(point) if by_latency else self._goal.keeps_drop(point)
            if enough:
                high = middle
            else:
                low = middle

    def _look_beside(self) -> bool:
        """Build the one of least predicted degradation that would be better than the best so far.

        Returns:
            whether there was one.
        """
        corrected = self._corrected()
        kept = [
            point
            for point in self._points.values()
            if self._goal.keeps_drop(point) and self._goal.keeps_latency(point)
        ]
        if self._goal.milliseconds is not None:
            limit = 0.98 * self._goal.milliseconds / self._baseline.milliseconds
        else:
            # By prediction on both sides: what was measured of one is not compared with a guess of another.
            expected = {each.plan.name: each.ratio for each in corrected}
            limit = 0.98 * min([expected[point.plan.name] for point in kept], default=1.0)
        tried = {each.places for each in corrected if each.plan.name in self._points}
        # What is predicted to be worse than one that broke the drop is not worth a build.
        broke = {name for name, point in self._points.items() if not self._goal.keeps_drop(point)}
        worst = min((each.degradation for each in corrected if each.plan.name in broke), default=float("inf"))
        better = [
            each
            for each in corrected
            if each.ratio <= limit and each.degradation < worst and each.places not in tried
        ]
        if not better:
            return False
        self._build(min(better, key=lambda each: (each.degradation, each.ratio)))
        return True

    def _build(self, prediction: Prediction) -> Trial:
        name = prediction.plan.name
        if name not in self._points:
            point = self._points[name] = self._build_plan(prediction.plan)
            raw = next(each for each in self._predictions if each.plan.name == name)
            self._correction.learn(raw, point, self._baseline)
        return self._points[name]
