"""The search for a token schedule, on a network whose latency and accuracy are formulas."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "passes" / "tokens"))
from encoders import Encoder

from edgec.core.errors import JobError, Terminated
from edgec.core.timing import Latency
from edgec.passes.tokens.sites import find_sites
from edgec.search import token_schedule as tokens
from edgec.search.token_methods import METHODS, Plan
from edgec.search.token_schedule import Goal, Judgement

BLOCKS, LENGTH, OVERHEAD = 6, 41, 0.05

SOURCE = 0.9

HARM = {"merge": 2.0, "energy": 1.5, "many-to-many": 0.9, "prune": 1.0, "drop": 3.0}
"""How much each method hurts; many-to-many hurts least and is slow."""

SLOW = {"many-to-many": 0.8}


class Formula:
    """One millisecond a block of full length, and a little for each reduction; early ones hurt more."""

    def __init__(self) -> None:
        self.built: list[str] = []
        self.open = 0

    def build(self, plan: Plan) -> Plan:
        self.built.append(plan.name)
        self.open += 1
        return plan

    def work(self, plan: Plan) -> float:
        left, total = LENGTH, 0.0
        for block in range(BLOCKS):
            left -= plan.schedule.rates.get(block, 0)
            total += left / LENGTH
        return total / BLOCKS

    def milliseconds(self, plan: Plan) -> float:
        steps = sum(1 for r in plan.schedule.rates.values() if r)
        return BLOCKS * self.work(plan) + steps * (OVERHEAD + SLOW.get(plan.method.name, 0.0))

    def damage(self, plan: Plan) -> float:
        left, total = LENGTH, 0.0
        for block in range(BLOCKS):
            r = plan.schedule.rates.get(block, 0)
            total += (r / left) ** 2 * (2.0 - block / BLOCKS)
            left -= r
        return HARM[plan.method.name] * total

    def judge(self, plan: Plan) -> Judgement:
        drop = 0.05 * self.damage(plan)
        return Judgement(SOURCE - drop, drop, 0.0)

    def measure(self, engines: Mapping[str, Plan]) -> dict[str, Latency]:
        times = {name: self.milliseconds(engine) for name, engine in engines.items()}
        return {name: Latency((ms,) * 3, (ms,) * 9) for name, ms in times.items()}

    def close(self, plan: Plan) -> None:
        self.open -= 1


BUILD_SECONDS = 10.0


class Clock:
    """In place of the module `time`: it goes on only where it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Timed(Formula):
    """Building takes ten seconds of a clock, and all else none; one build may be interrupted."""

    def __init__(
        self,
        clock: Clock,
        interrupted_at: int | None = None,
        interrupt: type[BaseException] = KeyboardInterrupt,
    ) -> None:
        super().__init__()
        self.clock, self.interrupted_at, self.interrupt = clock, interrupted_at, interrupt

    def build(self, plan: Plan) -> Plan:
        self.clock.now += BUILD_SECONDS
        if len(self.built) + 1 == self.interrupted_at:
            raise self.interrupt
        return super().build(plan)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(tokens, "time", made)
    return made


@pytest.fixture(scope="module")
def found() -> tuple[tokens.Search, Formula]:
    trials = Formula()
    return tokens.search(_sites(), trials, Goal(max_drop=0.02)), trials


def _sites() -> list:
    return find_sites(Encoder(patches=LENGTH - 1, blocks=BLOCKS).model())


def test_the_method_that_hurts_least_for_its_latency_is_searched(
    found: tuple[tokens.Search, Formula],
) -> None:
    search, _ = found
    assert {probe.plan.method.name for probe in search.probes} == set(METHODS)
    assert {point.plan.method.name for point in search.points} == {"prune"}


def test_the_fastest_point_that_keeps_the_allowance_is_near_the_best_there_is(
    found: tuple[tokens.Search, Formula],
) -> None:
    search, formula = found
    point = search.wanted(Goal(max_drop=0.02))[0]
    assert search.baseline.score - point.score <= 0.02
    allowed = [
        formula.milliseconds(plan)
        for plan in tokens._candidates(_sites(), METHODS["prune"])
        if formula.judge(plan).drop <= 0.02
    ]
    assert point.milliseconds <= 1.1 * min(allowed)
    assert point.milliseconds < 0.8 * search.baseline.milliseconds


def test_every_engine_is_freed_and_the_builds_are_bounded(found: tuple[tokens.Search, Formula]) -> None:
    search, formula = found
    assert formula.open == 0
    assert len(search.points) <= 10
    assert len(formula.built) == 1 + len(METHODS) + len(search.table) + len(search.points)
    assert len(search.table) <= 15


def test_no_point_of_the_frontier_beats_another(found: tuple[tokens.Search, Formula]) -> None:
    frontier = found[0].frontier
    assert [point.milliseconds for point in frontier] == sorted(point.milliseconds for point in frontier)
    assert not any(one.beats(other) for one in frontier for other in frontier)
    assert frontier[-1] is found[0].baseline
    assert found[0].named(frontier[0].name) == frontier[0]
    with pytest.raises(JobError, match="choose from"):
        found[0].named("7:7")


def test_a_standard_error_counts_against_a_point(found: tuple[tokens.Search, Formula]) -> None:
    point = found[0].wanted(Goal(max_drop=0.02))[0]
    assert point.judgement is not None
    unsure = tokens.dataclasses.replace(
        point, judgement=Judgement(point.score, point.judgement.drop, error=0.02)
    )
    assert Goal(max_drop=0.02).keeps_drop(point)
    assert not Goal(max_drop=0.02).keeps_drop(unsure)


def test_a_latency_is_met_with_the_best_score_or_refused(found: tuple[tokens.Search, Formula]) -> None:
    search = found[0]
    limit = 0.8 * search.baseline.milliseconds
    point = search.wanted(Goal(milliseconds=limit))[0]
    assert point.milliseconds <= limit
    faster = [each for each in search.frontier if each.milliseconds <= limit]
    assert point.score == max(each.score for each in faster)
    with pytest.raises(JobError, match=r"no token schedule reaches 0.1 ms; the fastest, .* takes"):
        search.wanted(Goal(milliseconds=0.1))
    with pytest.raises(JobError, match=r"costs a drop of .*--latency"):
        search.wanted(Goal(max_drop=1e-9, milliseconds=search.frontier[0].milliseconds + 1e-6))


def test_a_search_for_a_latency_looks_around_it() -> None:
    trials = Formula()
    limit = 0.7 * BLOCKS
    search = tokens.search(_sites(), trials, Goal(milliseconds=limit))
    best = search.wanted(Goal(milliseconds=limit))[0]
    assert 0.85 * limit <= best.milliseconds <= limit


def test_a_drop_that_no_faster_schedule_keeps_says_what_the_nearest_costs() -> None:
    search = tokens.search(_sites(), Formula(), Goal(max_drop=1e-7))
    with pytest.raises(JobError, match=r"the nearest, .* drops .*allow --max-drop"):
        search.wanted(Goal(max_drop=1e-7))


def test_where_nothing_is_faster_the_unreduced_engine_is_what_is_wanted() -> None:
    class Idle(Formula):
        def milliseconds(self, plan: Plan) -> float:
            return BLOCKS + 0.5 * len(plan.schedule.rates)

    search = tokens.search(_sites(), Idle(), Goal(max_drop=0.02))
    assert [point.name for point in search.wanted(Goal(max_drop=0.02))] == ["none"]


def test_one_wild_measurement_does_not_turn_the_prediction() -> None:
    class Disturbed(Formula):
        def measure(self, engines: Mapping[str, Plan]) -> dict[str, Latency]:
            measured = super().measure(engines)
            if len(self.built) == 9:
                measured["reduced"] = Latency((60.0,) * 3, (60.0,) * 9)
            return measured

    calm, wild = (tokens.search(_sites(), trials, Goal(max_drop=0.02)) for trials in (Formula(), Disturbed()))
    best, other = (search.wanted(Goal(max_drop=0.02))[0].milliseconds for search in (calm, wild))
    assert other <= 1.1 * best


def test_a_graph_without_sites_is_refused() -> None:
    with pytest.raises(JobError, match="no block"):
        tokens.search([], Formula(), Goal(max_drop=0.01))


def test_a_search_keeps_to_its_seconds_and_offers_what_it_has(clock: Clock) -> None:
    trials = Timed(clock)
    search = tokens.search(_sites(), trials, Goal(max_drop=0.02), seconds=8 * BUILD_SECONDS)
    assert search.stopped == "the search's 80 s were over"
    # The unreduced engine, probes for a quarter of the time, the table up to six tenths, points for the rest.
    assert (len(search.probes), len(search.table), len(search.points)) == (1, 3, 3)
    assert clock.now == 8 * BUILD_SECONDS
    assert search.wanted(Goal(max_drop=0.02))[0] in search.points
    assert trials.open == 0


def test_a_search_without_time_offers_the_unreduced_engine_alone(clock: Clock) -> None:
    trials = Timed(clock)
    search = tokens.search(_sites(), trials, Goal(max_drop=0.02), seconds=0.0)
    assert search.stopped == "the search's 0 s were over"
    assert [point.name for point in search.wanted(Goal(max_drop=0.02))] == ["none"]
    assert trials.open == 0


def test_a_search_with_time_enough_was_not_stopped(found: tuple[tokens.Search, Formula]) -> None:
    assert found[0].stopped is None


def test_an_interrupt_keeps_the_best_so_far(clock: Clock, found: tuple[tokens.Search, Formula]) -> None:
    offered_from = 1 + len(METHODS) + len(found[0].table)
    trials = Timed(clock, interrupted_at=offered_from + 4)
    search = tokens.search(_sites(), trials, Goal(max_drop=0.02), seconds=1e6)
    assert search.stopped == "interrupted: the best so far was taken"
    assert {point.name for point in search.points} == set(trials.built[offered_from:])
    assert len(search.points) == 3
    assert search.wanted(Goal(max_drop=0.02))[0] in search.points
    assert trials.open == 0


def test_an_interrupt_before_anything_is_offered_is_the_callers(
    clock: Clock, found: tuple[tokens.Search, Formula]
) -> None:
    for build in (3, 1 + len(METHODS) + len(found[0].table)):
        trials = Timed(clock, interrupted_at=build)
        with pytest.raises(KeyboardInterrupt):
            tokens.search(_sites(), trials, Goal(max_drop=0.02), seconds=1e6)
        assert trials.open == 0


def test_a_polite_kill_ends_the_search_whatever_was_offered(
    clock: Clock, found: tuple[tokens.Search, Formula]
) -> None:
    trials = Timed(clock, 4 + len(METHODS) + len(found[0].table), Terminated)
    with pytest.raises(Terminated):
        tokens.search(_sites(), trials, Goal(max_drop=0.02), seconds=1e6)
    assert trials.open == 0
