"""The axis tokens: where to take tokens away, and how many.

First each method is tried on one and the same schedule; the one that moves the outputs least goes on. Then
a table is measured, by engines that reduce at one layer only: how much faster each makes the network, and how
far its outputs move. From it every schedule of one to three layers is predicted: savings add up because each
reduction shortens what lies behind it, degradations are taken as adding up. Few layers with large reductions
usually beat many small ones (arXiv 2407.05941), so schedules of every layer are among the candidates but not
the only ones.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgec.core.errors import EdgecError, JobError
from edgec.core.graph import Arrays, Graph
from edgec.core.progress import Progress
from edgec.passes.infra import MatchLog
from edgec.passes.manager import PassReport, Pipeline
from edgec.passes.tokens.calibrate import calibrate
from edgec.passes.tokens.restore import RestoreTokens
from edgec.passes.tokens.schedule import Schedule, before, even, room
from edgec.passes.tokens.sites import Site, find_sites
from edgec.plugins.ops.token_steps import largest_r
from edgec.search.allocation import Prediction
from edgec.search.axes.axis import Probing
from edgec.search.axes.token_methods import METHODS, Method, TokenPlan, read_plan, threshold_of
from edgec.search.deadline import Deadline
from edgec.search.plan import NOTHING, Plan, Setting
from edgec.search.trials import Trial

PROBE = (0.25, 0.3)
"""Fractions of the tokens that the schedule takes on which methods are compared, at two layers."""

LEAST_DAMAGE = 1e-9
"""Damages below this are rounding."""

TABLE_SITES = 5
"""At most this many layers are tried alone; the savings and damages of the others lie between."""

LEAST_TABLE_SITES = 2
"""Of every sequence so many at least, its first and last."""

PROBING = 0.4
"""Share of the axis' time after which no other method is tried."""

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


class Tokens:
    """The blocks of a graph whose tokens can leave.

    Args:
        neutral: the neutral graph.
        progress: told each step.
        fitting: inputs that thresholds are counted on.
        sites: of the graph, where they are known.
        methods: what to choose among.

    Raises:
        JobError: the graph has no such block; lists the reasons.
    """

    name = "tokens"

    def __init__(
        self,
        neutral: Graph,
        progress: Progress,
        fitting: Sequence[Arrays] = (),
        *,
        sites: Sequence[Site] | None = None,
        methods: Sequence[Method] = tuple(METHODS.values()),
    ) -> None:
        self._neutral = neutral
        self._progress = progress
        self._fitting = tuple(fitting)
        self._methods = methods
        self.sites, self._log = sites_of(neutral) if sites is None else (list(sites), MatchLog())
        self.probes: list[Trial] = []
        self.table: list[Trial] = []
        self._baseline: Trial | None = None

    def read(self, text: str) -> TokenPlan:
        """The setting that `--tokens` names.

        Raises:
            RequestError: it is none of this graph, or a threshold has no calibration inputs.
        """
        asked = threshold_of(text)
        if asked is None:
            return read_plan(text, self.sites)
        self._progress.step("counting important tokens on calibration inputs")
        method, threshold = asked
        return TokenPlan(method, calibrate(self._neutral.model, self._fitting, threshold=threshold))

    def probe(self, bench: Probing, deadline: Deadline) -> None:
        """Try the methods, then one of them at single layers.

        Raises:
            JobError: no method can reduce the graph.
        """
        self._baseline = bench.baseline
        for method in self._methods:
            if self.probes and deadline.past(PROBING):
                break
            try:
                self.probes.append(bench.probe(Plan.of(tokens=TokenPlan(method, _probe(self.sites)))))
            except EdgecError as error:
                self._progress.note(f"tokens: {error}")
        if not self.probes:
            raise JobError("no method can reduce the graph's tokens", fix="leave --tokens off")
        for site, r in _alone(self.sites, self._method):
            if self.table and deadline.past():
                break
            self.table.append(bench.probe(Plan.of(tokens=TokenPlan(self._method, Schedule({site.index: r})))))

    @property
    def _method(self) -> Method:
        return _setting(min(self.probes, key=_price)).method

    def predictions(self) -> list[Prediction]:
        """Every candidate of the best method, as the table predicts it."""
        assert self._baseline is not None
        model = _Model(self.sites, self._baseline, self.table)
        found = []
        for setting in _candidates(self.sites, self._method):
            ratio, degradation = model.predict(setting.schedule)
            places = frozenset(("tokens", site) for site in setting.schedule.rates)
            found.append(Prediction(Plan.of(tokens=setting), ratio, degradation, places))
        return found

    def apply(self, graph: Graph, setting: Setting) -> tuple[Graph, tuple[PassReport, ...]]:
        """A copy of a graph with fewer tokens.

        Args:
            graph: the neutral graph, or that graph after other axes were applied.
            setting: of this axis.

        Raises:
            RequestError: a site does not exist, or its tokens do not allow the r.
        """
        assert isinstance(setting, TokenPlan)
        reduced = graph.clone()
        moved = self._moved(graph, setting)
        reports = Pipeline([moved.step(), RestoreTokens()]).run(reduced.model)
        return reduced, tuple(reports)

    def _moved(self, graph: Graph, setting: TokenPlan) -> TokenPlan:
        """The setting with its sites counted as in a graph that lacks some of them."""
        if graph is self._neutral:
            return setting
        places = {site.layer: site.index for site in find_sites(graph.model, MatchLog())}
        if places == {site.layer: site.index for site in self.sites}:
            return setting
        layers = {site.index: site.layer for site in self.sites}
        rates = {
            places[layers[index]]: r
            for index, r in setting.schedule.rates.items()
            if layers.get(index) in places
        }
        return TokenPlan(setting.method, Schedule(rates))

    def describe(self, setting: Setting | None, work: float) -> dict[str, Any]:
        """What the report says of a setting, as far as it does not depend on measuring.

        Args:
            setting: of this axis; None for nothing.
            work: multiply-accumulates that are left, over those without.
        """
        plan = setting if isinstance(setting, TokenPlan) else read_plan(NOTHING, self.sites)
        schedule = plan.schedule
        rates = {site.index: r for site, r in plan.reductions(self.sites)}
        rows = []
        for site in self.sites:
            there, r = before(self.sites, schedule.rates, site, schedule.restore), rates.get(site.index, 0)
            rows.append(
                {
                    "site": site.index,
                    "layer": site.layer,
                    "sequence": site.sequence,
                    "r": r,
                    "before": there,
                    "after": site.length if site.index == schedule.restore else there - r,
                    "protected": site.protected,
                }
            )
        first = {row["sequence"]: row["before"] for row in reversed(rows)}
        last = {row["sequence"]: row["after"] for row in rows}
        return {
            "name": plan.name,
            "method": plan.method.name,
            "meaning": plan.method.meaning,
            "schedule": schedule.name,
            "before": sum(first.values()),
            "after": sum(last.values()),
            "sites": rows,
            "refused": [dataclasses.asdict(miss) for miss in self._log.misses],
            "work": work,
            "methods": [
                {
                    "method": _setting(probe).method.name,
                    "ratio": probe.ratio,
                    "damage": probe.degradation,
                }
                for probe in self.probes
            ],
        }


def sites_of(neutral: Graph) -> tuple[list[Site], MatchLog]:
    """The sites of a graph, and the attentions that are none with the reasons.

    Raises:
        JobError: it has no site; lists the reasons.
    """
    log = MatchLog()
    sites = find_sites(neutral.model, log)
    if not sites:
        reasons = "; ".join(f"{miss.source} (node {miss.node}): {miss.reason}" for miss in log.misses)
        raise JobError(
            f"no block's tokens can be reduced ({reasons or 'the graph has no attention'})",
            fix="leave --tokens off",
        )
    return sites, log


def _setting(trial: Trial) -> TokenPlan:
    setting = trial.plan.on("tokens")
    assert isinstance(setting, TokenPlan)
    return setting


def _price(probe: Trial) -> float:
    """What a method costs on the common schedule: degradation, doubled for every tenth of latency more."""
    return math.log2(max(LEAST_DAMAGE, probe.degradation)) + 10.0 * probe.ratio


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

    def __init__(self, sites: Sequence[Site], baseline: Trial, table: Sequence[Trial]) -> None:
        self._sites = sites
        # By layer: (fraction taken away, work saved, damage), from little on.
        self._rows: dict[int, list[tuple[float, float, float]]] = {}
        for point in table:
            [(site, r)] = _setting(point).schedule.rates.items()
            harm = max(LEAST_DAMAGE, point.degradation - baseline.degradation)
            self._rows.setdefault(site, []).append((r / sites[site].length, 1.0 - point.work, harm))
        self._gain, self._overhead = _fit(
            np.array([1.0 - point.work for point in table]), np.array([1.0 - point.ratio for point in table])
        )

    def predict(self, schedule: Schedule) -> tuple[float, float]:
        """Latency over the baseline's, and degradation beyond its own.

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
        return ratio, harm

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


def _candidates(sites: Sequence[Site], method: Method) -> list[TokenPlan]:
    """Schedules of one to three layers, of so many depths of all sequences together, and of every layer."""
    most = method.most
    found: dict[str, TokenPlan] = {}
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
                        plan = TokenPlan(method, Schedule(rates))
                        found[plan.name] = plan
    for r in range(1, max(2, *(mine[0].length // len(mine) for mine in sequences))):
        plan = TokenPlan(method, even(sites, r, most=most))
        found[plan.name] = plan
    found.pop(NOTHING, None)
    return list(found.values())


def _at_depth(sequences: Sequence[Sequence[Site]], depth: float) -> list[Site]:
    """One layer of every sequence, from its first at depth 0 to its last at 1."""
    return [mine[round(depth * (len(mine) - 1))] for mine in sequences]
