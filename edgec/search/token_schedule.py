"""The search for a token schedule: where to take tokens away, and how many, by measurement.

First each method is tried on one and the same schedule; the one that moves the outputs least goes on. Then
a table is measured on the target, by building engines that reduce at one layer only: how much faster each
makes the network, and how far its outputs move. From it every schedule of one to three layers is predicted:
savings add up because each reduction shortens what lies behind it, damages are taken as adding up. The
schedules that are best by prediction are then built, measured and scored, and only measured points are
ever offered. Few layers with large reductions usually beat many small ones (arXiv 2407.05941), so schedules
of every layer are among the candidates but not the only ones.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np

from edgec.core.errors import EdgecError, JobError
from edgec.core.progress import Progress, Silent
from edgec.core.timing import Latency
from edgec.passes.tokens.schedule import Schedule, before, even, room
from edgec.passes.tokens.sites import Site
from edgec.plugins.ops.token_steps import largest_r
from edgec.search.precision import SECONDS
from edgec.search.token_methods import DEFAULT, METHODS, Method, Plan

Engine = TypeVar("Engine")

BASELINE = "none"
"""The name of the schedule that reduces nothing."""


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What an engine scores on the search's data.

    Attributes:
        score: what the budget is about, 0 to 1, higher is better: accuracy, or agreement without labels.
        drop: how much less than the source's score.
        error: the standard error of the drop, from the samples' own spread.
    """

    score: float
    drop: float
    error: float


class Trials(Protocol[Engine]):
    """What the search can do with a plan. Engines may be whatever the implementer likes."""

    def build(self, plan: Plan) -> Engine:
        """The engine of the network under a plan."""

    def work(self, plan: Plan) -> float:
        """The multiply-accumulates under a plan over those without."""

    def judge(self, engine: Engine) -> Judgement:
        """The score on all of the search's data."""

    def damage(self, engine: Engine) -> float:
        """How far the outputs are from the source's: at least 0, smoother than the score."""

    def measure(self, engines: Mapping[str, Engine]) -> Mapping[str, Latency]:
        """Latencies, taken in alternating blocks."""

    def close(self, engine: Engine) -> None:
        """Free an engine."""


@dataclasses.dataclass(frozen=True)
class Goal:
    """What is wanted; one of the two at least.

    Attributes:
        max_drop: the largest drop of the score, as a fraction; the fastest such point is wanted where no
            latency is.
        milliseconds: the largest latency; the most accurate such point is wanted.
    """

    max_drop: float | None = None
    milliseconds: float | None = None

    def keeps_drop(self, point: Point) -> bool:
        """Whether a point's drop is allowed, a standard error on top: it will be judged on other data."""
        if self.max_drop is None or point.judgement is None or not point.plan.schedule.rates:
            return True
        return point.judgement.drop + point.judgement.error <= self.max_drop

    def keeps_latency(self, point: Point) -> bool:
        """Whether a point is fast enough."""
        return self.milliseconds is None or point.milliseconds <= self.milliseconds


@dataclasses.dataclass(frozen=True)
class Point:
    """One plan, measured.

    Attributes:
        plan: the plan.
        milliseconds: its latency.
        ratio: its latency over the unreduced engine's, from blocks that ran side by side.
        work: its multiply-accumulates over the unreduced network's.
        damage: how far its outputs are from the source's.
        judgement: its score; None for the points of the tables, which are never offered.
    """

    plan: Plan
    milliseconds: float
    ratio: float
    work: float
    damage: float
    judgement: Judgement | None = None

    @property
    def name(self) -> str:
        """The plan's name: what `--tokens` takes."""
        return self.plan.name

    @property
    def score(self) -> float:
        """The score of a point that was judged."""
        assert self.judgement is not None
        return self.judgement.score

    def beats(self, other: Point) -> bool:
        """Whether it is at least as good in latency, score and damage, and better in one."""
        mine = (self.milliseconds, -self.score, self.damage)
        its = (other.milliseconds, -other.score, other.damage)
        return all(one <= two for one, two in zip(mine, its, strict=True)) and mine != its


@dataclasses.dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
        baseline: the unreduced engine.
        probes: each method on one and the same schedule.
        table: the single-layer points that predictions were made from.
        points: every plan that was built to be offered, fastest first.
        stopped: why the search ended early; None where it did not.
    """

    baseline: Point
    probes: tuple[Point, ...]
    table: tuple[Point, ...]
    points: tuple[Point, ...]
    stopped: str | None = None

    @property
    def frontier(self) -> tuple[Point, ...]:
        """The points that no other beats in latency, score and damage, fastest first.

        The baseline is always among them: it is what ships where a later measurement refuses the others.
        """
        every = (*self.points, self.baseline)
        kept = [point for point in self.points if not any(other.beats(point) for other in every)]
        return tuple(sorted((*kept, self.baseline), key=lambda point: point.milliseconds))

    def named(self, name: str) -> Point:
        """The point with a name.

        Raises:
            JobError: none has it.
        """
        for point in (*self.points, self.baseline):
            if point.name == name:
                return point
        names = ", ".join(point.name for point in self.frontier)
        raise JobError(f"no point of the frontier is named {name}", fix=f"choose from {names}")

    def wanted(self, goal: Goal) -> list[Point]:
        """The points that reach a goal, best first; the baseline is among them where it does.

        Raises:
            JobError: none reaches it; says how near the nearest came.
        """
        points = self.frontier
        fast = [point for point in points if goal.keeps_latency(point)]
        if not fast:
            nearest = points[0]
            raise JobError(
                f"no token schedule reaches {goal.milliseconds:g} ms; the fastest, {nearest.name}, takes "
                f"{nearest.milliseconds:.2f} ms",
                fix=f"allow {nearest.milliseconds * 1.05:.2f}ms, or choose another precision",
            )
        reaching = [point for point in fast if goal.keeps_drop(point)]
        if goal.milliseconds is None:
            faster = [point for point in points if point.ratio < 1.0 and point.plan.schedule.rates]
            if faster and not any(point in reaching for point in faster):
                raise _drop_out_of_reach(faster, goal)
            return sorted(reaching, key=lambda point: point.milliseconds)
        if not reaching:
            raise self._both_out_of_reach(fast, goal)
        return sorted(reaching, key=lambda point: (-point.score, point.damage))

    def _both_out_of_reach(self, fast: Sequence[Point], goal: Goal) -> JobError:
        assert goal.max_drop is not None
        best = min(fast, key=_drop_of)
        kept = min(filter(goal.keeps_drop, self.frontier), key=lambda point: point.milliseconds)
        return JobError(
            f"{goal.milliseconds:g} ms costs a drop of {_drop_of(best):.2%} at least ({best.name}), more "
            f"than {goal.max_drop:.2%}",
            fix=f"allow that drop, or --latency {kept.milliseconds * 1.05:.2f}ms, which {kept.name} keeps",
        )


def _drop_of(point: Point) -> float:
    assert point.judgement is not None
    return point.judgement.drop


def _drop_out_of_reach(faster: Sequence[Point], goal: Goal) -> JobError:
    assert goal.max_drop is not None
    nearest = min(faster, key=lambda point: (_drop_of(point), point.damage))
    judged = nearest.judgement
    assert judged is not None
    needed = judged.drop + judged.error
    return JobError(
        f"no token schedule that is faster keeps a drop of {goal.max_drop:.2%}: the nearest, {nearest.name}, "
        f"drops {judged.drop:.2%} (± {judged.error:.2%}) at {nearest.ratio:.2f} of the latency",
        fix=f"allow --max-drop {needed * 100 + 0.005:.2f}%, or leave --tokens off",
    )


PROBE = (0.25, 0.3)
"""Fractions of the tokens that the schedule takes on which methods are compared, at two layers."""

LEAST_DAMAGE = 1e-9
"""Damages below this are rounding."""

TABLE_SITES = 5
"""At most this many layers are tried alone; the savings and damages of the others lie between."""

LEAST_TABLE_SITES = 2
"""Of every sequence so many at least, its first and last."""

PROBING, TABLING = 0.25, 0.6
"""Shares of the search's time after which no other method, and no other layer alone, is tried."""

TABLE_FRACTIONS = {2: (0.25, 0.48), 1: (0.25, 0.5, 0.8)}
"""Fractions of the tokens taken away in the table; pairs allow at most a half."""

FRACTIONS = {2: (0.1, 0.2, 0.3, 0.4, 0.48), 1: (0.1, 0.2, 0.3, 0.45, 0.6, 0.75)}
"""Fractions of the tokens there are that a candidate takes away at one layer."""

LEAST_FRACTION = 0.04
"""A candidate takes at least this much of all tokens where it takes any: less does not pay for the step."""

MOST_LAYERS = 3
"""Layers of a candidate, besides the schedules of every layer."""

MOST_PLACES = 10
"""Places that the layers of a candidate are chosen from."""

SPACING = 0.015
"""Neighbours on the predicted frontier differ in latency by this fraction of the baseline's at least."""


def search(
    sites: Sequence[Site],
    trials: Trials[Engine],
    goal: Goal,
    *,
    methods: Sequence[Method] = tuple(METHODS.values()),
    builds: int = 10,
    seconds: float = SECONDS,
    progress: Progress | None = None,
) -> Search:
    """Search method, layers and rates.

    An interrupt (Ctrl-C) ends the search with what was offered so far; where nothing was, it goes on to the
    caller.

    Args:
        sites: of the neutral graph.
        trials: builds, scores and measures.
        goal: what the user wants; the search spends its builds around it.
        methods: what to choose among.
        builds: candidates to build beyond the probes and the table.
        seconds: how long to search; the schedule that is being tried then is still finished.
        progress: told each step.

    Raises:
        JobError: the graph has no site, or no method can reduce it.
    """
    progress = progress or Silent()
    if not sites:
        raise JobError("the graph has no block whose tokens can be reduced", fix="leave --tokens off")
    bench = _Bench(trials, progress, seconds)
    hunt = _Hunt(sites, bench, goal, methods, builds)
    try:
        hunt.run()
    except _TimeIsOver:
        hunt.stopped = f"the search's {seconds:.0f} s were over"
    except KeyboardInterrupt:
        if not hunt.points:
            raise
        hunt.stopped = "interrupted: the best so far was taken"
    finally:
        bench.close()
    if hunt.stopped:
        progress.note(f"tokens: {hunt.stopped}")
    points = sorted(hunt.points.values(), key=lambda point: point.milliseconds)
    return Search(bench.baseline, tuple(hunt.probes), tuple(hunt.table), tuple(points), hunt.stopped)


class _TimeIsOver(Exception):  # noqa: N818 - it is no error
    pass


class _Hunt:
    """What a search has found so far."""

    def __init__(
        self, sites: Sequence[Site], bench: _Bench, goal: Goal, methods: Sequence[Method], builds: int
    ) -> None:
        self._sites = sites
        self._bench = bench
        self._goal = goal
        self._methods = methods
        self._builds = builds
        self.probes: list[Point] = []
        self.table: list[Point] = []
        self.points: dict[str, Point] = {}
        self.stopped: str | None = None

    def run(self) -> None:
        """Probe the methods, measure the table, climb.

        Raises:
            _TimeIsOver: it is; what was found is there.
            JobError: no method can reduce the graph.
        """
        sites, bench = self._sites, self._bench
        for method in self._methods:
            if self.probes and bench.spent(PROBING):
                break
            point = bench.able(Plan(method, _probe(sites)))
            self.probes += [] if point is None else [point]
        if not self.probes:
            raise JobError("no method can reduce the graph's tokens", fix="leave --tokens off")
        method = min(self.probes, key=_price).plan.method
        for site, r in _alone(sites, method):
            if self.table and bench.spent(TABLING):
                break
            self.table.append(bench.probe(Plan(method, Schedule({site.index: r}))))
        model = _Model(sites, bench.baseline, self.table)
        _Climb(_candidates(sites, method), model, bench, self._goal, self._builds, self.points).run()


class _Bench:
    """Builds, measures beside the baseline, scores, and frees."""

    def __init__(self, trials: Trials[Engine], progress: Progress, seconds: float) -> None:
        self._trials = trials
        self._progress = progress
        self._seconds = seconds
        self._started = time.monotonic()
        self._count = 0
        progress.step("tokens: the unreduced engine")
        unreduced = Plan(METHODS[DEFAULT], Schedule({}))
        self._unreduced = trials.build(unreduced)
        latency = trials.measure({BASELINE: self._unreduced})[BASELINE]
        judged, damage = trials.judge(self._unreduced), trials.damage(self._unreduced)
        self.baseline = Point(unreduced, latency.p50, 1.0, 1.0, damage, judged)

    def spent(self, share: float) -> bool:
        """Whether so much of the search's time is over."""
        return time.monotonic() - self._started >= share * self._seconds

    def able(self, plan: Plan) -> Point | None:
        """A point without a score; None where the method cannot reduce this graph."""
        try:
            return self.probe(plan)
        except EdgecError as error:
            self._progress.note(f"tokens: {error}")
            return None

    def probe(self, plan: Plan) -> Point:
        """A point without a score."""
        return self._point(plan, judged=False)

    def point(self, plan: Plan) -> Point:
        """A point to offer.

        Raises:
            _TimeIsOver: the search's time is over.
        """
        if self.spent(1.0):
            raise _TimeIsOver
        return self._point(plan, judged=True)

    def _point(self, plan: Plan, *, judged: bool) -> Point:
        self._count += 1
        self._progress.step(f"tokens: schedule {self._count}, {plan.name}")
        engine = self._trials.build(plan)
        try:
            found = self._trials.measure({BASELINE: self._unreduced, "reduced": engine})
            ratio = found["reduced"].ratio_to(found[BASELINE])
            # The ratio is steadier than either time, so latencies are told on the baseline's scale.
            milliseconds = ratio * self.baseline.milliseconds
            judgement = self._trials.judge(engine) if judged else None
            work, damage = self._trials.work(plan), self._trials.damage(engine)
            return Point(plan, milliseconds, ratio, work, damage, judgement)
        finally:
            self._trials.close(engine)

    def close(self) -> None:
        self._trials.close(self._unreduced)


def _price(probe: Point) -> float:
    """What a method costs on the common schedule: its damage, doubled for every tenth of latency more."""
    return math.log2(max(LEAST_DAMAGE, probe.damage)) + 10.0 * probe.ratio


def _probe(sites: Sequence[Site]) -> Schedule:
    """Two reductions of each sequence, a quarter and half of the way through, that every method can do."""
    rates: dict[int, int] = {}
    for mine in _sequences(sites):
        first, second = mine[len(mine) // 4], mine[len(mine) // 2]
        for site, fraction in zip(dict.fromkeys((first.index, second.index)), PROBE, strict=False):
            _take(sites, rates, sites[site], fraction, most=2)
    return Schedule(rates)


def _take(sites: Sequence[Site], rates: dict[int, int], site: Site, fraction: float, *, most: int) -> None:
    """Take a fraction of the tokens that are left at a site, or as many as can go."""
    limit = room(sites, rates, site, most=most)
    rates[site.index] = min(round(fraction * before(sites, rates, site)), limit) if limit else 0


def _sequences(sites: Sequence[Site]) -> list[list[Site]]:
    """The sites of each sequence, in order."""
    found: dict[int, list[Site]] = {}
    for site in sites:
        found.setdefault(site.sequence, []).append(site)
    return list(found.values())


def _alone(sites: Sequence[Site], method: Method) -> list[tuple[Site, int]]:
    """The reductions of the table: some layers of each sequence, each with some rates."""
    sequences = _sequences(sites)
    each = max(LEAST_TABLE_SITES, TABLE_SITES // len(sequences))
    return [
        (site, min(round(fraction * site.length), largest_r(site.length, site.protected, most=method.most)))
        for mine in sequences
        for site in _spread(mine, each)
        for fraction in TABLE_FRACTIONS[method.most]
    ]


def _spread(sites: Sequence[Site], count: int) -> list[Site]:
    """At most `count` of the sites, first and last among them, evenly."""
    if len(sites) <= count:
        return list(sites)
    places = {round(step * (len(sites) - 1) / (count - 1)) for step in range(count)}
    return [sites[place] for place in sorted(places)]


class _Model:
    """Predicts a schedule from the single-layer points.

    A latency is a + b·work + c·reductions of the baseline's, fitted to the table by least absolute
    deviations: a single measurement on a busy machine must not steer the search, and a wrong prediction
    only costs a build. Damages are interpolated in logarithms, since they grow with a power of what is taken.
    """

    def __init__(self, sites: Sequence[Site], baseline: Point, table: Sequence[Point]) -> None:
        self._sites = sites
        self._baseline = baseline
        # By layer: (fraction taken away, work saved, damage), from little on.
        self._rows: dict[int, list[tuple[float, float, float]]] = {}
        for point in table:
            [(site, r)] = point.plan.schedule.rates.items()
            harm = max(LEAST_DAMAGE, point.damage - baseline.damage)
            self._rows.setdefault(site, []).append((r / sites[site].length, 1.0 - point.work, harm))
        self._gain, self._overhead = _fit(
            np.array([1.0 - point.work for point in table]), np.array([1.0 - point.ratio for point in table])
        )

    def predict(self, schedule: Schedule) -> tuple[float, float]:
        """Latency and damage beyond the baseline's.

        What the tokens that are gone already save, or have cost, at this layer is in the sum before.
        """
        saved = harm = 0.0
        count = 0
        for index, r in sorted(schedule.rates.items()):
            if r:
                site = self._sites[index]
                gone = 1.0 - before(self._sites, schedule.rates, site) / site.length
                more = gone + r / site.length
                saved += self._at(site, more, _saved) - self._at(site, gone, _saved)
                harm += max(0.0, self._at(site, more, _harm) - self._at(site, gone, _harm))
                count += 1
        ratio = 1.0 - self._gain * saved + self._overhead * count
        return self._baseline.milliseconds * ratio, harm

    def _at(self, site: Site, fraction: float, along: _Along) -> float:
        if fraction <= 0.0:
            return 0.0
        mine = [index for index in sorted(self._rows) if self._sites[index].sequence == site.sequence]
        layers = mine or sorted(self._rows)
        place = bisect.bisect_left(layers, site.index)
        after = layers[min(place, len(layers) - 1)]
        ahead = layers[max(place - 1, 0)] if after != site.index else after
        one = along(self._rows[ahead], fraction)
        if ahead == after:
            return one
        return one + (along(self._rows[after], fraction) - one) * (site.index - ahead) / (after - ahead)


_Along = Callable[[Sequence[tuple[float, float, float]], float], float]
"""A row's value at a fraction of the tokens."""


def _fit(work_saved: np.ndarray, time_saved: np.ndarray) -> tuple[float, float]:
    """Gain and overhead in time saved = gain · work saved - overhead, by least absolute deviations."""
    columns = np.stack([work_saved, -np.ones_like(work_saved)], axis=1)
    weights = np.ones_like(work_saved)
    gain, overhead = 1.0, 0.0
    for _ in range(20):
        root = np.sqrt(weights)
        gain, overhead = np.linalg.lstsq(columns * root[:, None], time_saved * root, rcond=None)[0]
        weights = 1.0 / np.maximum(1e-3, np.abs(columns @ np.array([gain, overhead]) - time_saved))
    # A table of noise alone must still say that less work is faster.
    return float(np.clip(gain, 0.3, 1.5)), float(np.clip(overhead, 0.0, 0.1))


def _saved(row: Sequence[tuple[float, float, float]], fraction: float) -> float:
    """Straight lines from nothing on."""
    return float(np.interp(fraction, [0.0, *(each[0] for each in row)], [0.0, *(each[1] for each in row)]))


def _harm(row: Sequence[tuple[float, float, float]], fraction: float) -> float:
    """Straight lines between logarithms, and on along the first and the last."""
    place = min(max(1, bisect.bisect_left([each[0] for each in row], fraction)), len(row) - 1)
    left, right = row[max(0, place - 1)], row[place]
    if right[0] == left[0]:
        return right[2] * (fraction / right[0]) ** 2
    slope = math.log(right[2] / left[2]) / math.log(right[0] / left[0])
    return left[2] * float((fraction / left[0]) ** max(slope, 1.0))


def _candidates(sites: Sequence[Site], method: Method) -> list[Plan]:
    """Schedules of one to three layers, of so many depths of all sequences together, and of every layer."""
    most = method.most
    found: dict[str, Plan] = {}
    sequences = _sequences(sites)
    groups = [[site] for site in _spread(sites, MOST_PLACES)]
    together = [_at_depth(sequences, depth / (MOST_PLACES - 1)) for depth in range(MOST_PLACES)]
    for places in (groups, together) if len(sequences) > 1 else (groups,):
        for count in range(1, MOST_LAYERS + 1):
            for layers in itertools.combinations(places, count):
                for fractions in itertools.product(FRACTIONS[most], repeat=count):
                    rates: dict[int, int] = {}
                    for group, fraction in zip(layers, fractions, strict=True):
                        for site in group:
                            _take(sites, rates, site, fraction, most=most)
                    if all(r >= LEAST_FRACTION * sites[index].length for index, r in rates.items()):
                        plan = Plan(method, Schedule(rates))
                        found[plan.name] = plan
    for r in range(1, max(2, *(mine[0].length // len(mine) for mine in sequences))):
        plan = Plan(method, even(sites, r, most=most))
        found[plan.name] = plan
    found.pop(BASELINE, None)
    return list(found.values())


def _at_depth(sequences: Sequence[Sequence[Site]], depth: float) -> list[Site]:
    """One layer of every sequence, from its first at depth 0 to its last at 1."""
    return [mine[round(depth * (len(mine) - 1))] for mine in sequences]


@dataclasses.dataclass(frozen=True)
class _Predicted:
    milliseconds: float
    harm: float
    plan: Plan

    @property
    def layers(self) -> frozenset[int]:
        return frozenset(self.plan.schedule.rates)


class _Climb:
    """Builds candidates of the predicted frontier, by bisection around the goal."""

    def __init__(
        self,
        candidates: Sequence[Plan],
        model: _Model,
        bench: _Bench,
        goal: Goal,
        builds: int,
        points: dict[str, Point],
    ) -> None:
        predicted = [_Predicted(*model.predict(plan.schedule), plan) for plan in candidates]
        predicted = [each for each in predicted if each.milliseconds < bench.baseline.milliseconds]
        self._predicted = sorted(predicted, key=lambda each: (each.milliseconds, each.harm, each.plan.name))
        self._bench = bench
        self._goal = goal
        self._builds = builds
        self._points = points

    def run(self) -> None:
        frontier: list[_Predicted] = []
        spacing = SPACING * self._bench.baseline.milliseconds
        for each in self._predicted:
            if not frontier or (
                each.harm < frontier[-1].harm and each.milliseconds >= frontier[-1].milliseconds + spacing
            ):
                frontier.append(each)
        self._bisect(frontier)
        # A third of the rest goes along the frontier, for the whole picture; what is left looks near the
        # best for other layers that the prediction may have wronged.
        steps = max(1, (self._builds - len(self._points)) // 3)
        for step in range(steps if frontier else 0):
            self._build(frontier[round((step + 0.5) / steps * (len(frontier) - 1))].plan)
        while len(self._points) < self._builds and self._look_beside():
            continue

    def _bisect(self, frontier: Sequence[_Predicted]) -> None:
        # Fastest first: along the frontier latency rises and the drop falls. Where a latency is wanted the
        # boundary is where that is no longer kept, else where the drop first is.
        by_latency = self._goal.milliseconds is not None
        low, high = -1, len(frontier)
        while len(self._points) < 2 * self._builds // 3 and high - low > 1:
            middle = (low + high) // 2
            point = self._build(frontier[middle].plan)
            enough = not self._goal.keeps_latency(point) if by_latency else self._goal.keeps_drop(point)
            if enough:
                high = middle
            else:
                low = middle

    def _look_beside(self) -> bool:
        """Build the least harmful candidate, by prediction, that would be better than the best so far."""
        kept = [
            point
            for point in self._points.values()
            if self._goal.keeps_drop(point) and self._goal.keeps_latency(point)
        ]
        if self._goal.milliseconds is not None:
            limit = 0.98 * self._goal.milliseconds
        else:
            # By prediction on both sides: what was measured of one is not compared with a guess of another.
            expected = {each.plan.name: each.milliseconds for each in self._predicted}
            slowest = self._bench.baseline.milliseconds
            limit = 0.98 * min([expected[point.name] for point in kept], default=slowest)
        tried = {frozenset(point.plan.schedule.rates) for point in self._points.values()}
        # What is predicted to be worse than one that broke the drop is not worth a build.
        broke = {name for name, point in self._points.items() if not self._goal.keeps_drop(point)}
        harms = [each.harm for each in self._predicted if each.plan.name in broke]
        worst = min(harms, default=float("inf"))
        better = [
            each
            for each in self._predicted
            if each.milliseconds <= limit and each.harm < worst and each.layers not in tried
        ]
        if not better:
            return False
        self._build(min(better, key=lambda each: (each.harm, each.milliseconds)).plan)
        return True

    def _build(self, plan: Plan) -> Point:
        if plan.name not in self._points:
            self._points[plan.name] = self._bench.point(plan)
        return self._points[plan.name]
