"""The loop and the axis tokens, on a network whose latency and accuracy are formulas."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import onnx_ir as ir
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "passes" / "tokens"))
from encoders import Encoder

from edgec.core.errors import JobError, Terminated
from edgec.core.graph import Graph, Source
from edgec.core.progress import Silent
from edgec.judging.accuracy import Scores
from edgec.passes.tokens.sites import find_sites
from edgec.search import deadline as deadlines
from edgec.search import loop
from edgec.search.axes import tokens
from edgec.search.axes.token_methods import METHODS, TokenPlan
from edgec.search.deadline import Deadline
from edgec.search.goal import Goal
from edgec.search.loop import Search
from edgec.search.plan import Plan
from edgec.search.trials import Trial
from edgec.targets.base import Candidate

BLOCKS, LENGTH, OVERHEAD = 6, 41, 0.05

SOURCE = 0.9

HARM = {"merge": 2.0, "energy": 1.5, "many-to-many": 0.9, "prune": 1.0, "drop": 3.0}
"""How much each method hurts; many-to-many hurts least and is slow."""

SLOW = {"many-to-many": 0.8}


class Formula:
    """One millisecond a block of full length, and a little for each reduction; early ones hurt more."""

    def __init__(self) -> None:
        self.built: list[str] = []
        self.is_open = True
        self.baseline = self._trial(Plan(), is_scored=True)

    @property
    def engines_built(self) -> int:
        return len(self.built)

    def probe(self, plan: Plan) -> Trial:
        return self._trial(plan, is_scored=False)

    def point(self, plan: Plan) -> Trial:
        return self._trial(plan, is_scored=True)

    def close(self) -> None:
        self.is_open = False

    def _trial(self, plan: Plan, *, is_scored: bool) -> Trial:
        self.build()
        self.built.append(plan.name)
        trial = Trial(Candidate("formula", "fp32", "plain"), Path("nowhere"), plan)
        setting = plan.on("tokens") or tokens.read_plan("none", _sites())
        assert isinstance(setting, TokenPlan)
        trial.milliseconds = self.milliseconds(setting)
        trial.ratio = trial.milliseconds / BLOCKS
        trial.work, trial.degradation = self.work(setting), self.damage(setting)
        if is_scored:
            drop = 0.05 * trial.degradation
            trial.scores = Scores("top-1 accuracy", SOURCE, SOURCE - drop, 100, "formula")
        return trial

    def build(self) -> None:
        """What building takes."""

    def work(self, setting: TokenPlan) -> float:
        left, total = LENGTH, 0.0
        for block in range(BLOCKS):
            left -= setting.schedule.rates.get(block, 0)
            total += left / LENGTH
        return total / BLOCKS

    def milliseconds(self, setting: TokenPlan) -> float:
        steps = sum(1 for r in setting.schedule.rates.values() if r)
        return BLOCKS * self.work(setting) + steps * (OVERHEAD + SLOW.get(setting.method.name, 0.0))

    def damage(self, setting: TokenPlan) -> float:
        left, total = LENGTH, 0.0
        for block in range(BLOCKS):
            r = setting.schedule.rates.get(block, 0)
            total += (r / left) ** 2 * (2.0 - block / BLOCKS)
            left -= r
        return HARM[setting.method.name] * total


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
        self.clock, self.interrupted_at, self.interrupt = clock, interrupted_at, interrupt
        super().__init__()

    def build(self) -> None:
        self.clock.now += BUILD_SECONDS
        if len(self.built) + 1 == self.interrupted_at:
            raise self.interrupt


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(deadlines, "time", made)
    return made


@pytest.fixture(scope="module")
def found() -> tuple[Search, Formula]:
    bench = Formula()
    return _search(bench, Goal(max_drop=0.02)), bench


def _search(bench: Formula, goal: Goal, deadline: Deadline | None = None) -> Search:
    axis = tokens.Tokens(None, Silent(), sites=_sites())  # type: ignore[arg-type]
    return loop.search([axis], bench, [goal], deadline=deadline)


def _setting(trial: Trial) -> TokenPlan:
    setting = trial.plan.on("tokens")
    assert isinstance(setting, TokenPlan)
    return setting


def _sites() -> list:
    return find_sites(Encoder(patches=LENGTH - 1, blocks=BLOCKS).model())


def test_the_method_that_hurts_least_for_its_latency_is_searched(
    found: tuple[Search, Formula],
) -> None:
    search, _ = found
    assert {_setting(probe).method.name for probe in search.axes[0].probes} == set(METHODS)
    assert {_setting(point).method.name for point in search.points} == {"prune"}


def test_the_fastest_point_that_keeps_the_allowance_is_near_the_best_there_is(
    found: tuple[Search, Formula],
) -> None:
    search, formula = found
    point = search.wanted(Goal(max_drop=0.02))[0]
    assert search.baseline.score - point.score <= 0.02
    allowed = [
        formula.milliseconds(plan)
        for plan in tokens._candidates(_sites(), METHODS["prune"])
        if 0.05 * formula.damage(plan) <= 0.02
    ]
    assert point.milliseconds <= 1.1 * min(allowed)
    assert point.milliseconds < 0.8 * search.baseline.milliseconds


def test_every_engine_is_freed_and_the_builds_are_bounded(found: tuple[Search, Formula]) -> None:
    search, formula = found
    assert not formula.is_open
    assert len(search.points) <= 10
    assert len(formula.built) == 1 + len(METHODS) + len(search.axes[0].table) + len(search.points)
    assert len(search.axes[0].table) <= 15


def test_no_point_of_the_frontier_beats_another(found: tuple[Search, Formula]) -> None:
    frontier = found[0].frontier
    assert [point.milliseconds for point in frontier] == sorted(point.milliseconds for point in frontier)
    assert not any(one.beats(other) for one in frontier for other in frontier)
    assert frontier[-1] is found[0].baseline
    assert found[0].named(frontier[0].plan.name) == frontier[0]
    with pytest.raises(JobError, match="choose from"):
        found[0].named("7:7")


def test_a_standard_error_counts_against_a_point(found: tuple[Search, Formula]) -> None:
    point = found[0].wanted(Goal(max_drop=0.02))[0]
    assert point.scores is not None
    unsure = dataclasses.replace(point, scores=dataclasses.replace(point.scores, error=0.02))
    assert Goal(max_drop=0.02).keeps_drop(point)
    assert not Goal(max_drop=0.02).keeps_drop(unsure)


def test_a_latency_is_met_with_the_best_score_or_refused(found: tuple[Search, Formula]) -> None:
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
    search = _search(trials, Goal(milliseconds=limit))
    best = search.wanted(Goal(milliseconds=limit))[0]
    assert 0.85 * limit <= best.milliseconds <= limit


def test_a_drop_that_no_faster_schedule_keeps_says_what_the_nearest_costs() -> None:
    search = _search(Formula(), Goal(max_drop=1e-7))
    with pytest.raises(JobError, match=r"the nearest, .* drops .*allow --max-drop"):
        search.wanted(Goal(max_drop=1e-7))


def test_where_nothing_is_faster_the_unreduced_engine_is_what_is_wanted() -> None:
    class Idle(Formula):
        def milliseconds(self, setting: TokenPlan) -> float:
            return BLOCKS + 0.5 * len(setting.schedule.rates)

    search = _search(Idle(), Goal(max_drop=0.02))
    assert [point.plan.name for point in search.wanted(Goal(max_drop=0.02))] == ["none"]


def test_one_wild_measurement_does_not_turn_the_prediction() -> None:
    class Disturbed(Formula):
        def _trial(self, plan: Plan, *, is_scored: bool) -> Trial:
            trial = super()._trial(plan, is_scored=is_scored)
            if len(self.built) == 9:
                trial.milliseconds, trial.ratio = 60.0, 60.0 / BLOCKS
            return trial

    calm, wild = (_search(trials, Goal(max_drop=0.02)) for trials in (Formula(), Disturbed()))
    best, other = (search.wanted(Goal(max_drop=0.02))[0].milliseconds for search in (calm, wild))
    assert other <= 1.1 * best


def test_a_graph_without_sites_is_refused() -> None:
    model = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 23}), ir_version=10)
    with pytest.raises(JobError, match="no block"):
        tokens.sites_of(Graph(model, Source("m", "onnx", "m", "0"), (), [], []))


def test_a_search_keeps_to_its_seconds_and_offers_what_it_has(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LEAST_BUILDS", 1)
    deadline = Deadline(8 * BUILD_SECONDS)
    trials = Timed(clock)
    search = _search(trials, Goal(max_drop=0.02), deadline)
    assert search.stopped == "the search's 80 s were over"
    # The unreduced engine, probes for a part of what is left of six tenths, the table to their end, points.
    assert (len(search.axes[0].probes), len(search.axes[0].table), len(search.points)) == (2, 2, 3)
    assert clock.now == 8 * BUILD_SECONDS
    assert search.wanted(Goal(max_drop=0.02))[0] in search.points
    assert not trials.is_open


def test_a_search_without_time_builds_a_few_plans_all_the_same(clock: Clock) -> None:
    trials = Timed(clock)
    search = _search(trials, Goal(max_drop=0.02), Deadline(0.0))
    assert 0 < len(search.points) <= loop.LEAST_BUILDS
    assert search.wanted(Goal(max_drop=0.02))[0] in search.points
    assert not trials.is_open


@pytest.mark.parametrize("least", [3, 4])
def test_however_late_it_is_after_the_probes_a_few_plans_are_built(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, least: int
) -> None:
    monkeypatch.setattr(loop, "LEAST_BUILDS", least)
    search = _search(Timed(clock), Goal(max_drop=0.02), Deadline(6 * BUILD_SECONDS))
    assert len(search.points) == least


def test_a_search_with_time_enough_was_not_stopped(found: tuple[Search, Formula]) -> None:
    assert found[0].stopped is None


def test_an_interrupt_keeps_the_best_so_far(clock: Clock, found: tuple[Search, Formula]) -> None:
    offered_from = 1 + len(METHODS) + len(found[0].axes[0].table)
    trials = Timed(clock, interrupted_at=offered_from + 4)
    search = _search(trials, Goal(max_drop=0.02), Deadline(1e6))
    assert search.stopped == "interrupted: the best so far was taken"
    assert {point.plan.name for point in search.points} == set(trials.built[offered_from:])
    assert len(search.points) == 3
    assert search.wanted(Goal(max_drop=0.02))[0] in search.points
    assert not trials.is_open


def test_an_interrupt_before_anything_is_offered_is_the_callers(
    clock: Clock, found: tuple[Search, Formula]
) -> None:
    for build in (3, 1 + len(METHODS) + len(found[0].axes[0].table)):
        trials = Timed(clock, interrupted_at=build)
        with pytest.raises(KeyboardInterrupt):
            _search(trials, Goal(max_drop=0.02), Deadline(1e6))
        assert not trials.is_open


def test_a_polite_kill_ends_the_search_whatever_was_offered(
    clock: Clock, found: tuple[Search, Formula]
) -> None:
    trials = Timed(clock, 4 + len(METHODS) + len(found[0].axes[0].table), Terminated)
    with pytest.raises(Terminated):
        _search(trials, Goal(max_drop=0.02), Deadline(1e6))
    assert not trials.is_open


class Waiting:
    """An axis that probes until its deadline, and remembers when it began and ended."""

    def __init__(self, name: str, clock: Clock, fails: bool = False) -> None:
        self.name, self.clock, self.fails = name, clock, fails
        self.from_to = (0.0, 0.0)

    def probe(self, bench: Formula, deadline: Deadline) -> None:
        began = self.clock.now
        while not deadline.past():
            self.clock.now += 1.0
        self.from_to = (began, self.clock.now)
        if self.fails:
            raise JobError(f"{self.name} has nothing to take")

    def predictions(self) -> list:
        return []


def test_axes_probe_from_the_last_applied_on_in_equal_shares_of_what_is_left(clock: Clock) -> None:
    bench = Formula()
    first, second, third = (Waiting(name, clock, name == "second") for name in ("first", "second", "third"))
    deadline = Deadline(100.0)
    clock.now += 30.0  # something took of the time before
    found = loop.search([first, second, third], bench, [Goal(max_drop=0.02)], deadline=deadline)  # type: ignore[list-item]
    assert [axis.from_to for axis in (third, second, first)] == [(30.0, 40.0), (40.0, 50.0), (50.0, 60.0)]
    assert [axis.name for axis in found.axes] == ["first", "third"]
