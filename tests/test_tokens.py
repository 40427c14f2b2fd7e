"""The search for a token schedule, on a network whose latency and accuracy are formulas."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "passes" / "tokens"))
from encoders import Encoder

from edgec import tokens
from edgec.core.errors import JobError
from edgec.core.timing import Latency
from edgec.passes.tokens.schedule import Schedule
from edgec.passes.tokens.sites import find_sites

BLOCKS, LENGTH, OVERHEAD = 6, 41, 0.05


class Formula:
    """One millisecond a block of full length, and a little for each reduction; early ones hurt more."""

    def __init__(self) -> None:
        self.built: list[str] = []
        self.open = 0

    def build(self, schedule: Schedule) -> Schedule:
        self.built.append(schedule.name)
        self.open += 1
        return schedule

    def milliseconds(self, schedule: Schedule) -> float:
        left, total = LENGTH, 0.0
        for block in range(BLOCKS):
            r = schedule.rates.get(block, 0)
            left -= r
            total += left / LENGTH + (OVERHEAD if r else 0.0)
        return total

    def damage(self, schedule: Schedule) -> float:
        left, total = LENGTH, 0.0
        for block in range(BLOCKS):
            r = schedule.rates.get(block, 0)
            total += (r / left) ** 2 * (2.0 - block / BLOCKS)
            left -= r
        return total

    def score(self, schedule: Schedule) -> float:
        return 0.9 - 0.05 * self.damage(schedule)

    def measure(self, engines: Mapping[str, Schedule]) -> dict[str, Latency]:
        times = {name: self.milliseconds(engine) for name, engine in engines.items()}
        return {name: Latency((ms,) * 3, (ms,) * 9) for name, ms in times.items()}

    def close(self, engine: Schedule) -> None:
        self.open -= 1


@pytest.fixture(scope="module")
def found() -> tuple[tokens.Search, Formula]:
    trials = Formula()
    return tokens.search(_sites(), trials, max_drop=0.02), trials


def _sites() -> list:
    return find_sites(Encoder(patches=LENGTH - 1, blocks=BLOCKS).model())


def test_the_fastest_point_that_keeps_the_allowance_is_near_the_best_there_is(
    found: tuple[tokens.Search, Formula],
) -> None:
    search, formula = found
    point = search.within_drop(0.02)
    assert search.baseline.score - point.score <= 0.02
    allowed = [
        formula.milliseconds(schedule)
        for schedule in tokens._candidates(_sites(), 2)
        if search.baseline.score - formula.score(schedule) <= 0.02
    ]
    assert point.milliseconds <= 1.1 * min(allowed)
    assert point.milliseconds < 0.8 * search.baseline.milliseconds


def test_every_engine_is_freed_and_the_builds_are_bounded(found: tuple[tokens.Search, Formula]) -> None:
    search, formula = found
    assert formula.open == 0
    assert len(formula.built) <= 1 + 12 + 12
    assert len(search.points) <= 12


def test_the_frontier_is_one(found: tuple[tokens.Search, Formula]) -> None:
    frontier = found[0].frontier
    assert [point.milliseconds for point in frontier] == sorted(point.milliseconds for point in frontier)
    assert [point.score for point in frontier] == sorted(point.score for point in frontier)
    assert frontier[-1] is found[0].baseline
    assert found[0].named(frontier[0].name) == frontier[0]


def test_a_latency_is_met_with_the_best_score_or_refused(found: tuple[tokens.Search, Formula]) -> None:
    search = found[0]
    point = search.within_latency(0.8 * search.baseline.milliseconds)
    assert point.milliseconds <= 0.8 * search.baseline.milliseconds
    faster = [each for each in search.frontier if each.milliseconds <= 0.8 * search.baseline.milliseconds]
    assert point.score == max(each.score for each in faster)
    with pytest.raises(JobError, match=r"no token schedule reaches 0.1 ms; the fastest, .* takes"):
        search.within_latency(0.1)
    with pytest.raises(JobError, match="costs a drop"):
        search.within_latency(search.frontier[0].milliseconds + 1e-6, max_drop=1e-9)
    with pytest.raises(JobError, match="choose from"):
        search.named("7:7")


def test_a_graph_without_sites_is_refused() -> None:
    with pytest.raises(JobError, match="no block"):
        tokens.search([], Formula(), max_drop=0.01)
