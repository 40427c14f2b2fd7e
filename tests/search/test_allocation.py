"""Settings by gain for cost, predictions of combinations and their correction."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.judging.accuracy import Scores
from edgec.search.allocation import (
    SPACING,
    Correction,
    Level,
    Prediction,
    Refinement,
    combined,
    frontier,
    greedy,
    hull,
)
from edgec.search.goal import Goal
from edgec.search.plan import Plan
from edgec.search.trials import Trial
from edgec.targets.base import Candidate

amounts = st.floats(0.01, 1.0, allow_nan=False)
levels = st.lists(st.tuples(amounts, amounts), min_size=1, max_size=4)


@dataclasses.dataclass(frozen=True)
class Amount:
    """A setting of some axis."""

    name: str


def _plan(**settings: str) -> Plan:
    return Plan.of(**{axis: Amount(name) for axis, name in settings.items()})


def _trial(plan: Plan, ratio: float, degradation: float, drop: float = 0.0) -> Trial:
    trial = Trial(Candidate("formula", "fp32", "plain"), Path("nowhere"), plan)
    trial.ratio, trial.milliseconds, trial.degradation = ratio, 10.0 * ratio, degradation
    trial.scores = Scores("top-1 accuracy", 0.9, 0.9 - drop, 100, "formula")
    return trial


BASELINE = _trial(Plan(), 1.0, 0.0)


def test_a_hull_leaves_out_what_another_level_gains_more_for() -> None:
    found = hull(
        [Level("dear", 0.3, 0.9), Level("good", 0.5, 0.1), Level("most", 0.6, 0.5), Level("no", 0.2, 0.2)]
    )
    assert [level.amount for level in found] == ["good", "most"]


@given(st.lists(levels, min_size=1, max_size=4))
def test_greedy_settings_are_the_best_at_their_own_cost(places: list[list[tuple[float, float]]]) -> None:
    """No setting of all that there are gains more than a greedy one and costs no more than it."""
    offered = {
        place: [Level(index, gain, cost) for index, (gain, cost) in enumerate(each)]
        for place, each in enumerate(places)
    }

    def sums(setting: dict[int, int]) -> tuple[float, float]:
        chosen = [offered[place][index] for place, index in setting.items()]
        return sum(level.gain for level in chosen), sum(level.cost for level in chosen)

    settings = greedy(offered)
    gains = [sums(setting)[0] for setting in settings]
    assert gains == sorted(gains)
    choices = [[None, *range(len(each))] for each in places]
    for setting in settings:
        gain, cost = sums(setting)
        for other in itertools.product(*choices):
            taken = {place: index for place, index in enumerate(other) if index is not None}
            its_gain, its_cost = sums(taken)
            assert its_cost > cost - 1e-9 or its_gain <= gain + 1e-9


def test_combinations_are_products_of_latencies_and_sums_of_degradations() -> None:
    slim = [
        Prediction(_plan(slim=name), ratio, cost, frozenset({name}))
        for name, ratio, cost in (("a", 0.5, 0.1),)
    ]
    tokens = [
        Prediction(_plan(tokens=name), ratio, cost, frozenset({name}))
        for name, ratio, cost in (("x", 0.6, 0.2), ("y", 0.8, 0.05))
    ]
    found = {each.plan.name: each for each in combined([slim, tokens])}
    assert set(found) == {"a", "x", "y", "slim a, tokens x", "slim a, tokens y"}
    both = found["slim a, tokens y"]
    assert both.ratio == pytest.approx(0.4)
    assert both.degradation == pytest.approx(0.15)
    assert both.places == {"a", "y"}
    assert [axis for axis, _ in both.plan.settings] == ["slim", "tokens"]


def test_the_frontier_has_no_point_that_another_beats_and_none_too_near() -> None:
    predictions = [
        Prediction(_plan(slim=f"{index}"), 0.3 + 0.004 * index, math.exp(-index), frozenset())
        for index in range(100)
    ]
    front = frontier([*predictions, Prediction(_plan(slim="worse"), 0.9, 9.0, frozenset())])
    ratios = [each.ratio for each in front]
    assert all(two - one >= SPACING for one, two in itertools.pairwise(ratios))
    assert "worse" not in {each.plan.name for each in front}


def test_predictions_of_a_combination_learn_from_what_its_like_came_to() -> None:
    correction = Correction()
    both = [Prediction(_plan(slim=name, tokens="x"), 0.4, 0.1, frozenset()) for name in "abc"]
    alone = Prediction(_plan(slim="a"), 0.5, 0.1, frozenset())
    for each in both[:2]:
        correction.learn(each, _trial(each.plan, 0.8, 0.4), BASELINE)
    moved = correction.of(both[2])
    # Twice as slow and four times as bad, trusted by two thirds after two of them.
    assert moved.ratio == pytest.approx(0.4 * 2 ** (2 / 3))
    assert moved.degradation == pytest.approx(0.1 * 4 ** (2 / 3))
    assert correction.of(alone) == alone


def test_refinement_builds_around_the_boundary_and_stays_within_its_builds() -> None:
    truth = {f"{index}": (0.2 + 0.02 * index, math.exp(-index / 6)) for index in range(40)}
    built: list[str] = []

    def build(plan: Plan) -> Trial:
        built.append(plan.name)
        ratio, degradation = truth[plan.name]
        return _trial(plan, ratio, degradation, drop=0.05 * degradation)

    predictions = [
        Prediction(_plan(slim=name), ratio, degradation, frozenset({name}))
        for name, (ratio, degradation) in truth.items()
    ]
    points: dict[str, Trial] = {}
    Refinement(predictions, Goal(max_drop=0.01), BASELINE, build, 10, points).run()
    assert len(built) == len(points) <= 10
    holds = [trial.ratio for trial in points.values() if trial.drop <= 0.01]
    best = min(ratio for ratio, degradation in truth.values() if 0.05 * degradation <= 0.01)
    assert min(holds) <= best + 0.04
