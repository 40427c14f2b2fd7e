"""What is taken away in a compile: the plan, the engine that ships, and what it cost."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgec.core.errors import EdgecError, JobError, NumericsError
from edgec.core.graph import Graph
from edgec.core.progress import Progress
from edgec.core.timing import measure
from edgec.judging import accuracy
from edgec.judging.budget import Budget
from edgec.passes.inspection import inspect_model
from edgec.runtime.engine import Engine
from edgec.search.axes.axis import Axis
from edgec.search.bench import Bench
from edgec.search.deadline import Deadline
from edgec.search.goal import Goal
from edgec.search.held_out import RefusedError
from edgec.search.loop import Search, search
from edgec.search.plan import Plan
from edgec.search.plans import PlanTrials, Reduced, apply, with_references
from edgec.search.trials import Choice, Trial
from edgec.targets.base import Candidate, Target

Choose = Callable[[Graph, Path], Choice]
"""The choice among a graph's engines, in a new folder; held-out data has judged what it chose."""

BETTER = 0.97
"""Another plan is compiled where its engine should take at most this much of the time of the best so far."""


@dataclasses.dataclass
class Reduction:
    """What came of a request to take something away.

    Attributes:
        reduced: the graph that ships.
        choice: its engine.
        sections: what the report says of each axis, by its name.
    """

    reduced: Reduced
    choice: Choice
    sections: dict[str, dict[str, Any]]


def reduce_as_named(
    neutral: Graph,
    axes: Sequence[Axis],
    asked: Mapping[str, str],
    target: Target,
    choose: Choose,
    scratch: Path,
    progress: Progress,
) -> Reduction:
    """The engine of settings that the user names.

    Args:
        neutral: the neutral graph, gated against the source.
        axes: those that the user names a setting of.
        asked: by axis, what its option says.
        target: the target.
        choose: chooses the engine.
        scratch: an existing folder.
        progress: told each step.

    Raises:
        RequestError: a text names no setting of this graph.
        NumericsError: no engine computes what the reduced graph computes, or held-out data refuses it.
    """
    plan = Plan.of(**{axis.name: axis.read(asked[axis.name]) for axis in axes})
    progress.step(f"taking away: {plan.name}")
    reduced = with_references(neutral, apply(neutral, axes, plan))
    choice = choose(reduced.graph, scratch)
    sections = _sections(neutral, axes, reduced, asked)
    beside = beside_unreduced(neutral, choice, target, scratch, progress)
    for section in sections.values():
        section["baseline"] = beside
    return Reduction(reduced, choice, sections)


@dataclasses.dataclass
class HeldOutCheck:
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
    milliseconds: float | None = None
    ratio: float | None = None

    @property
    def slower(self) -> bool:
        """Whether the last measurement found that nothing is gained."""
        return self.ratio is not None and self.ratio >= 1.0


@dataclasses.dataclass(frozen=True)
class Lossy:
    """What the engine axes give on their own.

    Attributes:
        gain: the chosen engine's latency over that of the exact one.
        drop: what it loses on the search's data.
    """

    gain: float = 1.0
    drop: float = 0.0


def reduce_by_search(
    neutral: Graph,
    axes: Sequence[Axis],
    asked: Mapping[str, str],
    goal: Goal,
    target: Target,
    choose: Choose,
    choose_whole: Choose,
    choose_exact: Choose,
    budget: Budget,
    scratch: Path,
    progress: Progress,
    deadline: Deadline,
) -> Reduction:
    """Search a plan, compile the best, judge it on the held-out data, and measure it beside the unreduced.

    Plans are tried in an exact engine, so that what is seen is the plan's. Where the engine that ships may
    lose something of its own, that is measured on the whole network first, and plans that leave room for it
    are looked for too. Where held-out data refuses the best, the next that moves the outputs less is
    compiled; where the last measurement does, because the engine is no faster than without reduction, the
    next best, or the unreduced engine once the search's time is over. Every such look is in the report.

    Args:
        neutral: the neutral graph, gated against the source.
        axes: what is searched, in the order in which it is applied.
        asked: by axis, what its option says.
        goal: what is wanted.
        target: the target; it must run here.
        choose: chooses the engine that ships.
        choose_whole: the same for the whole network, which held-out data does not judge.
        choose_exact: chooses the engine that the search tries plans with, `choose_whole` itself where the
            engine that ships loses nothing of its own.
        budget: the data to search on and the data held out.
        scratch: an existing folder.
        progress: told each step.
        deadline: when to stop.

    Raises:
        JobError: nothing can be taken away, or no plan reaches the goal; says how near the nearest came.
        NumericsError: none of those that reach it in the search does so on the held-out data.
    """
    exact = _chosen(choose_exact, neutral, scratch / "exact")
    ships = exact if choose_whole is choose_exact else _chosen(choose_whole, neutral, scratch / "whole")
    lossy = _lossy(exact, ships)
    scale = lossy.gain if goal.milliseconds is not None else 1.0
    bench = Bench(target, neutral.examples[0], scratch, progress, budget.search)
    trials = PlanTrials(bench, neutral, axes, exact.candidate, progress, scale)
    found = search(axes, trials, _goals(goal, lossy), deadline=deadline, progress=progress)
    return _Shipping(
        neutral, found, goal, lossy, target, choose, budget, scratch, progress, deadline
    ).first_that_holds(asked, exact.candidate)


def _goals(goal: Goal, lossy: Lossy) -> list[Goal]:
    """The goal, and what leaves room for what the engine loses of its own."""
    if goal.max_drop is None or not 0.0 < lossy.drop < goal.max_drop or lossy.gain >= 1.0:
        return [goal]
    return [goal, Goal(goal.max_drop - lossy.drop, goal.milliseconds)]


def _chosen(choose: Choose, graph: Graph, folder: Path) -> Trial:
    folder.mkdir()
    try:
        return choose(graph, folder).chosen
    finally:
        shutil.rmtree(folder)


def _lossy(exact: Trial, ships: Trial) -> Lossy:
    if ships.candidate == exact.candidate or exact.latency is None or ships.latency is None:
        return Lossy()
    drop = 0.0 if ships.scores is None else max(0.0, ships.scores.drop)
    return Lossy(ships.latency.p50 / exact.latency.p50, drop)


class _Shipping:
    """Compiles the points of a search, best first, until one holds and no other should be faster."""

    def __init__(
        self,
        neutral: Graph,
        found: Search,
        goal: Goal,
        lossy: Lossy,
        target: Target,
        choose: Choose,
        budget: Budget,
        scratch: Path,
        progress: Progress,
        deadline: Deadline,
    ) -> None:
        self._neutral = neutral
        self._found = found
        self._goal = goal
        self._lossy = lossy
        self._target = target
        self._choose = choose
        self._budget = budget
        self._scratch = scratch
        self._progress = progress
        self._deadline = deadline
        self.checks: list[HeldOutCheck] = []

    def first_that_holds(self, asked: Mapping[str, str], searched_in: Candidate) -> Reduction:
        """The reduction that ships.

        Raises:
            NumericsError: held-out data refuses all, or no latency is reached.
        """
        best: tuple[Trial, Reduced, Choice, dict[str, Any] | None] | None = None
        for point in self._stepping():
            reduces = bool(point.plan)
            if reduces and any(check.slower for check in self.checks) and self._deadline.past():
                continue
            if best is not None and (
                self._deadline.past() or self._expected(point) > BETTER * self._expected(best[0])
            ):
                continue
            tried = self._compile(point)
            if tried is not None and (best is None or self._is_faster(tried[1], best[2])):
                best = (point, *tried)
        if best is None:
            raise self._none_held()
        point, reduced, choice, beside = best
        choice.chosen.folder = choice.chosen.folder.rename(self._scratch / "chosen")
        self._remove_attempts()
        axes = self._found.axes
        sections = _sections(self._neutral, axes, reduced, asked)
        fields = self._fields(point, searched_in)
        for section in sections.values():
            section |= {**fields, "baseline": beside, "gated": self._goal.max_drop is not None}
        if not point.plan:
            self._progress.note("nothing is faster than the engine of the whole network: nothing was reduced")
        return Reduction(reduced, choice, sections)

    def _expected(self, point: Trial) -> float:
        """The latency that a point's engine should reach, over that of the exact one of the whole network."""
        allowed = self._goal.max_drop
        assert point.scores is not None
        has_room = allowed is None or point.drop + point.scores.error + self._lossy.drop <= allowed
        return point.ratio * (self._lossy.gain if has_room else 1.0)

    def _stepping(self) -> Iterator[Trial]:
        """The points to compile, best first; after one that failed, those that lie on its better side."""
        # Where the engine may gain by a loss of its own, or several axes were asked, none of them has to.
        alone = len(self._found.axes) == 1 and self._lossy.gain == 1.0
        wanted = self._found.wanted(self._goal, must_gain=alone)
        if self._goal.milliseconds is None:
            wanted = sorted(wanted, key=self._expected)
        for point in wanted:
            failed = [(check, self._found.named(check.name)) for check in self.checks if not check.kept]
            hopeless = bool(point.plan) and any(
                (
                    self._goal.max_drop is not None
                    and check.drop > self._goal.max_drop
                    and point.degradation >= past.degradation
                )
                or (
                    self._goal.milliseconds is not None
                    and (check.milliseconds or 0.0) > self._goal.milliseconds
                    and point.milliseconds >= past.milliseconds
                )
                for check, past in failed
            )
            if not hopeless:
                yield point

    def _compile(self, point: Trial) -> tuple[Reduced, Choice, dict[str, Any] | None] | None:
        """Compile a point's graph; None where it does not hold."""
        self._progress.step(f"compiling {point.plan.name}")
        reduced = with_references(self._neutral, apply(self._neutral, self._found.axes, point.plan))
        attempt = self._scratch / f"attempt-{len(self.checks)}"
        attempt.mkdir()
        try:
            choice = self._choose(reduced.graph, attempt)
        except RefusedError as error:
            least = min(trial.held_out.drop for trial in error.trials if trial.held_out is not None)
            self.checks.append(HeldOutCheck(point.plan.name, least, kept=False))
            shutil.rmtree(attempt)
            return None
        chosen = choice.chosen
        assert chosen.held_out is not None
        reached = None if chosen.latency is None else chosen.latency.p50
        in_time = self._goal.milliseconds is None or reached is None or reached <= self._goal.milliseconds
        check = HeldOutCheck(point.plan.name, chosen.held_out.drop, in_time, reached)
        self.checks.append(check)
        beside = None
        if check.kept and point.plan:
            beside = beside_unreduced(self._neutral, choice, self._target, self._scratch, self._progress)
            check.ratio = None if beside is None else beside["ratio"]
            check.kept = not check.slower
        if check.slower:
            self._progress.note(
                f"{point.plan.name} is no faster: {check.ratio:.2f} of the same engine's time without it"
            )
        if not check.kept:
            shutil.rmtree(attempt)
            return None
        return reduced, choice, beside

    def _is_faster(self, choice: Choice, than: Choice) -> bool:
        """Whether an engine is faster than another, measured side by side."""
        bench = Bench(self._target, self._neutral.examples[0], self._scratch, self._progress, None)
        bench.refer_to(than.chosen)
        latency = choice.chosen.latency
        try:
            with bench.opened(choice.chosen) as engine:
                ratio = bench.time(choice.chosen, engine)
        finally:
            bench.close()
            choice.chosen.latency = latency
        return ratio is not None and ratio < 1.0

    def _remove_attempts(self) -> None:
        for attempt in self._scratch.glob("attempt-*"):
            shutil.rmtree(attempt)

    def _none_held(self) -> EdgecError:
        tried = "; ".join(
            f"{check.name} drops {check.drop:.2%}"
            + ("" if check.milliseconds is None else f" at {check.milliseconds:.2f} ms")
            + (f", {check.ratio:.2f} of the unreduced engine's time" if check.slower else "")
            for check in self.checks
        )
        limits = []
        if self._goal.max_drop is not None:
            limits.append(f"a drop of {self._goal.max_drop:.2%}")
        if self._goal.milliseconds is not None:
            limits.append(f"{self._goal.milliseconds:g} ms")
        options = " and ".join(f"--{axis.name}" for axis in self._found.axes)
        kind = NumericsError if self._goal.max_drop is not None else JobError
        return kind(
            f"no plan that the search found keeps {' and '.join(limits)} on the "
            f"{self._budget.held_out.data.samples} held-out samples: {tried}",
            fix=f"allow more, give more data to search on, or leave {options} off",
        )

    def _fields(self, chosen: Trial, searched_in: Candidate) -> dict[str, Any]:
        """What every section says of the search."""
        searched, held_out = self._budget.search.data, self._budget.held_out.data
        return {
            "frontier": [self._point(point, chosen) for point in self._found.frontier],
            "searched_on": {
                "data": searched.name,
                "samples": searched.samples,
                "metric": "top-1 accuracy" if searched.labels is not None else "mean cosine to the source",
                "engine": searched_in.name,
                "engines_built": self._found.engines_built,
                "seconds": self._deadline.spent,
                "stopped": self._found.stopped,
            },
            "held_out": {
                "data": held_out.name,
                "samples": held_out.samples,
                "looks": [dataclasses.asdict(check) for check in self.checks],
            },
        }

    @staticmethod
    def _point(point: Trial, chosen: Trial) -> dict[str, Any]:
        assert point.scores is not None
        return {
            "name": point.plan.name,
            "settings": {axis: setting.name for axis, setting in point.plan.settings},
            "ratio": point.ratio,
            "p50": point.milliseconds,
            "score": point.score,
            "drop": point.drop,
            "error": point.scores.error,
            "damage": point.degradation,
            "chosen": point is chosen,
        }


def _sections(
    neutral: Graph, axes: Sequence[Axis], reduced: Reduced, asked: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """What the report says of each axis, as far as it does not depend on measuring."""
    work = inspect_model(reduced.graph.model).macs / max(1, inspect_model(neutral.model).macs)
    return {
        axis.name: {
            "asked": asked[axis.name],
            **axis.describe(reduced.plan.on(axis.name), work),
            "baseline": None,
            "frontier": [],
            "searched_on": None,
            "held_out": None,
            "agreement": None,
            "padding": None,
            "gated": False,
        }
        for axis in axes
    }


def beside_unreduced(
    neutral: Graph, choice: Choice, target: Target, scratch: Path, progress: Progress
) -> dict[str, Any] | None:
    """The same engine without reduction, measured beside the chosen one; None where nothing can be measured.

    Returns:
        engine, precision and form, its median in milliseconds, and the ratio of the reduced engine's to it.
    """
    if not target.runs_here:
        return None
    candidate = choice.chosen.candidate
    progress.step("measuring beside the engine of the whole network")
    folder = scratch / "unreduced"
    try:
        folder.mkdir()
        target.build(target.lower(neutral, candidate), candidate, folder)
        unreduced = target.open(folder)
    except EdgecError as error:
        progress.note(f"the engine of the whole network could not be built: {error}")
        shutil.rmtree(folder, ignore_errors=True)
        return None
    chosen = target.open(choice.chosen.folder)
    feeds = neutral.examples[0]
    try:
        found = measure({"unreduced": lambda: unreduced.run(feeds), "reduced": lambda: chosen.run(feeds)})
    finally:
        unreduced.close()
        chosen.close()
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "engine": candidate.engine,
        "precision": candidate.precision,
        "form": candidate.form,
        "p50": found["unreduced"].p50,
        "ratio": found["reduced"].ratio_to(found["unreduced"]),
    }


def agreement(source: Graph, engine: Engine) -> dict[str, Any]:
    """How far an engine's first output is from the source's own on the examples."""
    name = source.outputs[0].name
    expected = np.concatenate([reference[name] for reference in source.references])
    found = np.concatenate([engine.run(feeds)[name] for feeds in source.examples])
    return {
        "cosine": accuracy.mean_cosine(expected, found),
        "samples": len(expected),
        "output": name,
    }
