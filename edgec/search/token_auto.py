"""`--tokens auto`: the search with real engines on the user's data, and the one look at held-out data."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgec.core.errors import EdgecError, JobError, NumericsError
from edgec.core.graph import Graph
from edgec.core.progress import Progress
from edgec.core.timing import Latency, measure
from edgec.judging import accuracy
from edgec.judging.budget import Budget, Judge
from edgec.passes.inspection import inspect_model
from edgec.passes.tokens.schedule import Schedule
from edgec.passes.tokens.sites import Site
from edgec.runtime.engine import Engine
from edgec.search.precision import SECONDS
from edgec.search.token_methods import DEFAULT, METHODS, Plan
from edgec.search.token_reduction import (
    Choose,
    Reduction,
    apply,
    beside_unreduced,
    built,
    describe,
    sites_of,
    with_references,
)
from edgec.search.token_schedule import Goal, Judgement, Point, Search, search
from edgec.targets.base import Candidate, Target

DAMAGE_SAMPLES = 64
"""Samples that tell how far outputs move: a mean over smooth distances is steady on few."""

BLOCKS = 5
BLOCK_SECONDS = 0.1


class EngineTrials:
    """Plans tried with engines of one candidate on the search's data.

    Args:
        neutral: the neutral graph.
        target: the target.
        unreduced: the engine without reduction: the best there is.
        candidate: what is built of every plan.
        judge: scores on the search's data.
        scratch: an existing folder.
        scale: what latencies are multiplied by, to tell them as of another engine of the same network.
    """

    def __init__(
        self,
        neutral: Graph,
        target: Target,
        unreduced: Candidate,
        candidate: Candidate,
        judge: Judge,
        scratch: Path,
        scale: float = 1.0,
    ) -> None:
        self._neutral = neutral
        self._target = target
        self._unreduced = unreduced
        self._candidate = candidate
        self._judge = judge
        self._few = judge.first(DAMAGE_SAMPLES)
        self._folders: dict[int, Path] = {}
        self._scratch = scratch
        self._scale = scale
        self._built = 0
        self._macs = inspect_model(neutral.model).macs

    def build(self, plan: Plan) -> Engine:
        """The engine of the network under a plan."""
        graph, candidate = self._neutral, self._unreduced
        if plan.schedule.rates:
            graph, candidate = apply(self._neutral, plan).graph, self._candidate
        self._built += 1
        folder = self._scratch / f"tokens-{self._built}"
        engine = built(self._target, graph, candidate, folder)
        self._folders[id(engine)] = folder
        return engine

    def work(self, plan: Plan) -> float:
        """The multiply-accumulates under a plan over those without."""
        return inspect_model(apply(self._neutral, plan).graph.model).macs / max(1, self._macs)

    def judge(self, engine: Engine) -> Judgement:
        """The score on all of the search's data."""
        losses = accuracy.sample_losses(
            self._judge.data, self._judge.expected, self._judge.outputs(engine.run)
        )
        source = accuracy.scores(self._judge.data, self._judge.expected, self._judge.expected).source
        drop = float(losses.mean())
        error = float(losses.std(ddof=1) / np.sqrt(len(losses))) if len(losses) > 1 else 0.0
        return Judgement(source - drop, drop, error)

    def damage(self, engine: Engine) -> float:
        """One minus the mean cosine to the source's outputs."""
        return self._few.damage(self._few.outputs(engine.run))

    def measure(self, engines: Mapping[str, Engine]) -> dict[str, Latency]:
        """Latencies in alternating blocks."""
        feeds = self._neutral.examples[0]
        calls = {name: functools.partial(engine.run, feeds) for name, engine in engines.items()}
        found = measure(calls, blocks=BLOCKS, block_seconds=BLOCK_SECONDS)
        return {name: self._scaled(latency) for name, latency in found.items()}

    def close(self, engine: Engine) -> None:
        """Close an engine and remove its files."""
        engine.close()
        shutil.rmtree(self._folders.pop(id(engine)), ignore_errors=True)

    def _scaled(self, latency: Latency) -> Latency:
        blocks = tuple(each * self._scale for each in latency.blocks)
        return Latency(blocks, tuple(each * self._scale for each in latency.samples))


@dataclasses.dataclass
class _Look:
    """One look at the held-out data, and at the engine beside the unreduced one.

    Attributes:
        name: the plan.
        drop: on the held-out data.
        kept: whether it is what was wanted.
        milliseconds: the engine's latency, where it was measured.
        ratio: of its latency to the same engine's without reduction, from blocks that ran side by side.
    """

    name: str
    drop: float
    kept: bool
    milliseconds: float | None
    ratio: float | None = None

    @property
    def slower(self) -> bool:
        """Whether the last measurement found that nothing is gained."""
        return self.ratio is not None and self.ratio >= 1.0


def reduce_by_search(
    neutral: Graph,
    goal: Goal,
    target: Target,
    choose: Choose,
    choose_exact: Choose,
    budget: Budget,
    scratch: Path,
    progress: Progress,
    seconds: float = SECONDS,
) -> Reduction:
    """Search a plan, compile the best, judge it on the held-out data, and measure it beside the unreduced.

    Where the held-out data refuses the best, the next that moves the outputs less is compiled; where the last
    measurement does, because the engine is no faster than without reduction, the next best, or the unreduced
    engine once the search's time is over. Every such look is in the report.

    Args:
        neutral: the neutral graph, gated against the source.
        goal: what is wanted.
        target: the target; it must run here.
        choose: chooses the engine that ships.
        choose_exact: chooses the engine that the search tries plans with: one without a loss of its own, so
            that what is seen is the plan's, and that is quick to build.
        budget: the data to search on and the data held out.
        scratch: an existing folder.
        progress: told each step.
        seconds: how long to search.

    Raises:
        JobError: the graph has no site, or no plan reaches the goal; says how near the nearest came.
        NumericsError: none of those that reach it in the search does so on the held-out data.
    """
    started = time.monotonic()
    sites, log = sites_of(neutral)
    unreduced, scale = _tried_with(neutral, goal, choose, choose_exact, scratch)
    candidate = reduced_form(target, neutral, unreduced, sites)
    trials = EngineTrials(neutral, target, unreduced, candidate, budget.search, scratch, scale)
    began = time.monotonic()
    found = search(sites, trials, goal, seconds=seconds, progress=progress)
    looks: list[_Look] = []
    for place, point in enumerate(_stepping(found, goal, looks)):
        reduces = bool(point.plan.schedule.rates)
        if reduces and any(look.slower for look in looks) and time.monotonic() - began > seconds:
            continue
        progress.step(f"compiling token schedule {point.name}")
        reduced = with_references(apply(neutral, point.plan))
        attempt = scratch / f"attempt-{place}"
        attempt.mkdir()
        choice = choose(reduced.graph, attempt)
        engine = target.open(choice.chosen.folder)
        try:
            progress.step(f"judging {point.name} on held-out data")
            scores = budget.held_out.scores(engine.run)
        finally:
            engine.close()
        reached = None if choice.chosen.latency is None else choice.chosen.latency.p50
        in_time = goal.milliseconds is None or reached is None or reached <= goal.milliseconds
        in_budget = goal.max_drop is None or scores.drop <= goal.max_drop
        look = _Look(point.name, scores.drop, in_time and in_budget, reached)
        looks.append(look)
        beside = None
        if look.kept and reduces:
            beside = beside_unreduced(neutral, choice, target, scratch, progress)
            look.ratio = None if beside is None else beside["ratio"]
            look.kept = not look.slower
        if look.slower:
            progress.note(f"{point.name} is no faster: {look.ratio:.2f} of the same engine's time without it")
        if not look.kept:
            shutil.rmtree(attempt)
            continue
        choice.chosen.folder = choice.chosen.folder.rename(scratch / "chosen")
        shutil.rmtree(attempt)
        fields = describe(neutral, reduced, sites, log, asked="auto")
        fields["gated"] = goal.max_drop is not None
        fields |= _search_fields(found, point, candidate, budget, looks, time.monotonic() - started)
        fields["baseline"] = beside
        if not reduces:
            progress.note("no token schedule is faster than the engine without: nothing was reduced")
        return Reduction(reduced, choice, scores, fields)
    raise _none_held(looks, goal, budget)


def _tried_with(
    neutral: Graph, goal: Goal, choose: Choose, choose_exact: Choose, scratch: Path
) -> tuple[Candidate, float]:
    """The candidate that plans are tried with, and its latency's scale.

    Where a latency is wanted and the engine that ships may be another, plans are told on that one's scale.
    """
    exact = _chosen(choose_exact, neutral, scratch / "exact")
    if goal.milliseconds is None or choose is choose_exact:
        return exact.candidate, 1.0
    ships = _chosen(choose, neutral, scratch / "ships")
    if ships.latency is None or exact.latency is None:
        return exact.candidate, 1.0
    return exact.candidate, ships.latency.p50 / exact.latency.p50


def reduced_form(target: Target, neutral: Graph, unreduced: Candidate, sites: list[Site]) -> Candidate:
    """The candidate for plans: the unreduced network's, or its like where there is no such form of them."""
    milder = Plan(METHODS[DEFAULT], Schedule({sites[0].index: 1}))
    offered = target.candidates(apply(neutral, milder).graph, unreduced.precision)
    if unreduced in offered:
        return unreduced
    alike = [each for each in offered if each.engine == unreduced.engine]
    return (alike or offered)[0]


def _chosen(choose: Choose, graph: Graph, folder: Path) -> Any:
    folder.mkdir()
    try:
        return choose(graph, folder).chosen
    finally:
        shutil.rmtree(folder)


def _stepping(found: Search, goal: Goal, looks: list[_Look]) -> Any:
    """The points to look at, best first; after a look that failed, those that lie on its better side."""
    for point in found.wanted(goal):
        failed = [(look, found.named(look.name)) for look in looks]
        hopeless = any(
            (goal.max_drop is not None and look.drop > goal.max_drop and point.damage >= past.damage)
            or (
                goal.milliseconds is not None
                and (look.milliseconds or 0.0) > goal.milliseconds
                and point.milliseconds >= past.milliseconds
            )
            for look, past in failed
        )
        if not hopeless:
            yield point


def _none_held(looks: list[_Look], goal: Goal, budget: Budget) -> EdgecError:
    tried = "; ".join(
        f"{look.name} drops {look.drop:.2%}"
        + ("" if look.milliseconds is None else f" at {look.milliseconds:.2f} ms")
        + (f", {look.ratio:.2f} of the unreduced engine's time" if look.slower else "")
        for look in looks
    )
    data = budget.held_out.data
    limits = []
    if goal.max_drop is not None:
        limits.append(f"a drop of {goal.max_drop:.2%}")
    if goal.milliseconds is not None:
        limits.append(f"{goal.milliseconds:g} ms")
    kind = NumericsError if goal.max_drop is not None else JobError
    return kind(
        f"no token schedule that the search found keeps {' and '.join(limits)} on the {data.samples} "
        f"held-out samples: {tried}",
        fix="allow more, give more data to search on, or leave --tokens off",
    )


def _search_fields(
    found: Search, chosen: Point, candidate: Candidate, budget: Budget, looks: list[_Look], seconds: float
) -> dict[str, Any]:
    frontier = []
    for point in found.frontier:
        assert point.judgement is not None
        frontier.append(
            {
                "name": point.name,
                "ratio": point.ratio,
                "p50": point.milliseconds,
                "score": point.judgement.score,
                "drop": point.judgement.drop,
                "error": point.judgement.error,
                "damage": point.damage,
                "chosen": point is chosen,
            }
        )
    searched, held_out = budget.search.data, budget.held_out.data
    return {
        "frontier": frontier,
        "methods": [
            {"method": probe.plan.method.name, "ratio": probe.ratio, "damage": probe.damage}
            for probe in found.probes
        ],
        "searched_on": {
            "data": searched.name,
            "samples": searched.samples,
            "metric": "top-1 accuracy" if searched.labels is not None else "mean cosine to the source",
            "engine": candidate.name,
            "engines_built": 1 + len(found.probes) + len(found.table) + len(found.points),
            "seconds": seconds,
            "stopped": found.stopped,
        },
        "held_out": {
            "data": held_out.name,
            "samples": held_out.samples,
            "looks": [dataclasses.asdict(look) for look in looks],
        },
    }
