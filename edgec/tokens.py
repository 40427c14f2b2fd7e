"""The search for a token schedule: where to take tokens away, and how many, by measurement.

Two tables are measured first, on the target, by building a few engines that reduce at one layer only: how
much faster each makes the network, and how far its outputs move. From them every schedule of one to
three layers is predicted: savings add up because each reduction shortens what lies behind it, damages are
taken as adding up. The schedules that are best by prediction are then built, measured and scored, and
only measured points are ever offered. Few layers with large reductions usually beat many small ones (arXiv
2407.05941), so schedules of every layer are among the candidates but not the only ones.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from edgec.core.errors import JobError
from edgec.core.progress import Progress, Silent
from edgec.core.timing import Latency
from edgec.passes.tokens.schedule import Schedule, even
from edgec.passes.tokens.sites import Site
from edgec.plugins.token_steps import largest_r

Engine = TypeVar("Engine")

BASELINE = "none"
"""The name of the schedule that reduces nothing."""


class Trials(Protocol[Engine]):
    """What the search can do with a schedule. Engines may be whatever the implementer likes."""

    def build(self, schedule: Schedule) -> Engine:
        """The engine of the network under a schedule."""

    def score(self, engine: Engine) -> float:
        """What the budget is about, higher is better: accuracy, or agreement where there are no labels."""

    def damage(self, engine: Engine) -> float:
        """How far the outputs are from the source's: at least 0, smoother than the score."""

    def measure(self, engines: Mapping[str, Engine]) -> Mapping[str, Latency]:
        """Latencies, taken in alternating blocks."""

    def close(self, engine: Engine) -> None:
        """Free an engine."""


@dataclasses.dataclass(frozen=True)
class Point:
    """One schedule, measured.

    Attributes:
        schedule: the schedule.
        milliseconds: its latency.
        ratio: its latency over the unreduced engine's, from blocks that ran side by side.
        score: its score on the search's data.
        damage: how far its outputs are from the source's.
    """

    schedule: Schedule
    milliseconds: float
    ratio: float
    score: float
    damage: float

    @property
    def name(self) -> str:
        """The schedule's name: what `--tokens` takes."""
        return self.schedule.name


@dataclasses.dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
        baseline: the unreduced engine.
        table: the single-layer points that predictions were made from.
        points: every schedule that was built to be offered, fastest first.
    """

    baseline: Point
    table: tuple[Point, ...]
    points: tuple[Point, ...]

    @property
    def frontier(self) -> tuple[Point, ...]:
        """The points that no other beats in both latency and score, fastest first; the baseline is one."""
        best: list[Point] = []
        ordered = sorted((*self.points, self.baseline), key=lambda point: (point.milliseconds, -point.score))
        for point in ordered:
            if not best or point.score > best[-1].score:
                best.append(point)
        return tuple(best)

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

    def within_drop(self, max_drop: float) -> Point:
        """The fastest point whose score is at most `max_drop` under the baseline's."""
        allowed = [point for point in self.frontier if self.baseline.score - point.score <= max_drop]
        return min(allowed, key=lambda point: point.milliseconds)

    def within_latency(self, milliseconds: float, max_drop: float | None = None) -> Point:
        """The point of highest score that is fast enough.

        Raises:
            JobError: none is fast enough, or those lose more than `max_drop`; says how near it came.
        """
        fast = [point for point in self.frontier if point.milliseconds <= milliseconds]
        if not fast:
            nearest = self.frontier[0]
            raise JobError(
                f"no token schedule reaches {milliseconds:g} ms; the fastest, {nearest.name}, takes "
                f"{nearest.milliseconds:.2f} ms",
                fix=f"allow {nearest.milliseconds:.2f} ms, or choose another precision",
            )
        best = max(fast, key=lambda point: point.score)
        drop = self.baseline.score - best.score
        if max_drop is not None and drop > max_drop:
            kept = self.within_drop(max_drop)
            raise JobError(
                f"{milliseconds:g} ms costs a drop of {drop:.2%} ({best.name}), more than {max_drop:.2%}",
                fix=f"allow that drop, or {kept.milliseconds:.2f} ms with {kept.name}",
            )
        return best


TABLE_SITES = 6
"""At most this many layers are tried alone; the savings and damages of the others lie between."""

TABLE_FRACTIONS = (0.25, 0.48)
"""Fractions of the tokens taken away in the table; pairs allow at most a half."""

FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.48)
"""Fractions of the tokens there are that a candidate takes away at one layer."""

MOST_LAYERS = 3
"""Layers of a candidate, besides the schedules of every layer."""


def search(
    sites: Sequence[Site],
    trials: Trials[Engine],
    *,
    max_drop: float,
    builds: int = 12,
    most: int = 2,
    progress: Progress | None = None,
) -> Search:
    """Search layers and rates.

    Args:
        sites: of the neutral graph.
        trials: builds, scores and measures.
        max_drop: the drop of the score that the user allows; the search spends its builds around it.
        builds: candidates to build beyond the tables.
        most: 2 where tokens leave in pairs (`tokens.merge`), 1 for `tokens.prune`.
        progress: told each step.

    Raises:
        JobError: the graph has no site.
    """
    progress = progress or Silent()
    if not sites:
        raise JobError("the graph has no block whose tokens can be reduced", fix="leave --tokens off")
    bench = _Bench(trials, progress)
    try:
        table = []
        chosen = _spread(sites, TABLE_SITES)
        for site in chosen:
            for fraction in TABLE_FRACTIONS:
                r = min(round(fraction * site.length), largest_r(site.length, site.protected, most=most))
                table.append(bench.point(Schedule({site.index: r})))
        model = _Model(sites, bench.baseline, table)
        points = _climb(_candidates(sites, most), model, bench, max_drop, builds)
    finally:
        bench.close()
    points.sort(key=lambda point: point.milliseconds)
    return Search(bench.baseline, tuple(table), tuple(points))


class _Bench:
    """Builds, measures beside the baseline, scores, and frees."""

    def __init__(self, trials: Trials[Engine], progress: Progress) -> None:
        self._trials = trials
        self._progress = progress
        progress.step("tokens: the unreduced engine")
        self._unreduced = trials.build(Schedule({}))
        latency = trials.measure({BASELINE: self._unreduced})[BASELINE]
        score, damage = trials.score(self._unreduced), trials.damage(self._unreduced)
        self.baseline = Point(Schedule({}), latency.p50, 1.0, score, damage)

    def point(self, schedule: Schedule) -> Point:
        self._progress.step(f"tokens: {schedule.name}")
        engine = self._trials.build(schedule)
        try:
            found = self._trials.measure({BASELINE: self._unreduced, "reduced": engine})
            ratio = found["reduced"].ratio_to(found[BASELINE])
            # The ratio is steadier than either time, so latencies are told on the baseline's scale.
            milliseconds = ratio * self.baseline.milliseconds
            return Point(
                schedule, milliseconds, ratio, self._trials.score(engine), self._trials.damage(engine)
            )
        finally:
            self._trials.close(engine)

    def close(self) -> None:
        self._trials.close(self._unreduced)


def _spread(sites: Sequence[Site], count: int) -> list[Site]:
    """At most `count` of the sites, first and last among them, evenly."""
    if len(sites) <= count:
        return list(sites)
    places = {round(step * (len(sites) - 1) / (count - 1)) for step in range(count)}
    return [sites[place] for place in sorted(places)]


class _Model:
    """Predicts a schedule from the single-layer points."""

    def __init__(self, sites: Sequence[Site], baseline: Point, table: Sequence[Point]) -> None:
        self._length = sites[0].length
        self._baseline = baseline
        # By layer: (fraction taken away, saving, damage), from nothing on.
        self._rows: dict[int, list[tuple[float, float, float]]] = {}
        for point in table:
            [(site, r)] = point.schedule.rates.items()
            row = self._rows.setdefault(site, [(0.0, 0.0, 0.0)])
            harm = max(0.0, point.damage - baseline.damage)
            row.append((r / self._length, baseline.milliseconds - point.milliseconds, harm))
        self._layers = sorted(self._rows)

    def predict(self, schedule: Schedule) -> tuple[float, float]:
        """Latency and damage beyond the baseline's."""
        saved = harm = gone = 0.0
        for site, r in sorted(schedule.rates.items()):
            if not r:
                continue
            more = gone + r / self._length
            # What the tokens that are gone already save behind this layer is in the sum before.
            saved += self._at(site, more, 1) - (self._at(site, gone, 1) if gone else 0.0)
            harm += self._at(site, r / self._length / max(1e-9, 1.0 - gone), 2)
            gone = more
        return self._baseline.milliseconds - saved, harm

    def _at(self, site: int, fraction: float, column: int) -> float:
        place = bisect.bisect_left(self._layers, site)
        after = self._layers[min(place, len(self._layers) - 1)]
        before = self._layers[max(place - 1, 0)] if after != site else after
        one, other = (_along(self._rows[layer], fraction, column) for layer in (before, after))
        if before == after:
            return one
        return one + (other - one) * (site - before) / (after - before)


def _along(row: Sequence[tuple[float, float, float]], fraction: float, column: int) -> float:
    """Between the row's points by straight lines, and on along the last."""
    place = min(max(1, bisect.bisect_left([point[0] for point in row], fraction)), len(row) - 1)
    left, right = row[place - 1], row[place]
    slope = (right[column] - left[column]) / max(1e-9, right[0] - left[0])
    return left[column] + slope * (fraction - left[0])


def _candidates(sites: Sequence[Site], most: int) -> list[Schedule]:
    chosen = _spread(sites, 2 * TABLE_SITES)
    found: dict[str, Schedule] = {}
    for count in range(1, MOST_LAYERS + 1):
        for layers in itertools.combinations(chosen, count):
            for fractions in itertools.product(FRACTIONS, repeat=count):
                rates, taken = {}, 0
                for site, fraction in zip(layers, fractions, strict=True):
                    left = site.length - taken
                    r = min(round(fraction * left), largest_r(left, site.protected, most=most))
                    rates[site.index] = r
                    taken += r
                schedule = Schedule(rates)
                found[schedule.name] = schedule
    for r in range(1, max(2, sites[0].length // len(sites))):
        schedule = even(sites, r, most=most)
        found[schedule.name] = schedule
    found.pop(BASELINE, None)
    return list(found.values())


def _climb(
    candidates: Sequence[Schedule], model: _Model, bench: _Bench, max_drop: float, builds: int
) -> list[Point]:
    """Build the candidates of the predicted frontier, by bisection around the drop that is allowed."""
    predicted = sorted((*model.predict(schedule), schedule.name, schedule) for schedule in candidates)
    frontier: list[Schedule] = []
    least = float("inf")
    for milliseconds, harm, _, schedule in predicted:
        if harm < least and milliseconds < bench.baseline.milliseconds:
            least = harm
            frontier.append(schedule)
    points: list[Point] = []
    # Fastest first: the drop falls along the frontier. Between the last that keeps and the first that breaks
    # the allowance lies the one that is wanted.
    low, high = -1, len(frontier)
    tried: set[int] = set()
    while len(points) < builds and high - low > 1:
        middle = (low + high) // 2
        tried.add(middle)
        points.append(bench.point(frontier[middle]))
        if bench.baseline.score - points[-1].score <= max_drop:
            high = middle
        else:
            low = middle
    # What is left of the builds goes to the neighbours and then evenly along, for the whole picture.
    near = sorted(range(len(frontier)), key=lambda place: abs(place - high))
    even_ones = [round(step * (len(frontier) - 1) / 4) for step in range(5)] if frontier else []
    for place in (*near[: max(0, builds // 3)], *even_ones):
        if len(points) >= builds:
            break
        if place not in tried:
            tried.add(place)
            points.append(bench.point(frontier[place]))
    return points
