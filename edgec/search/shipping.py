"""Shipping: the points of a search compiled, judged on held-out data and measured once more, best first."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgec.core.errors import EdgecError, JobError, NumericsError
from edgec.core.graph import Graph
from edgec.core.progress import Progress
from edgec.judging.budget import Budget
from edgec.passes.inspection import inspect_model
from edgec.search.axes.axis import Axis
from edgec.search.bench import Bench
from edgec.search.deadline import Deadline
from edgec.search.goal import Goal
from edgec.search.held_out import RefusedError
from edgec.search.loop import Search
from edgec.search.plans import Reduced, apply, with_references
from edgec.search.trials import Choice, Trial
from edgec.targets.base import Candidate, Target

Choose = Callable[[Graph, Path, Deadline, Choice | None], Choice]
"""The choice among a graph's engines, in a new folder, until a deadline; held-out data has judged what ships.
Where something was taken of the graph, the choice for the whole network says what is worth building."""

Holds = Callable[[Trial], bool]
"""Whether held-out data lets an engine ship."""

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


@dataclasses.dataclass
class HeldOutCheck:
    """One look at the held-out data, and at the engine beside the unreduced one.

    Attributes:
        name: the plan.
        drop: on the held-out data; None where no engine computed what the plan leaves.
        kept: whether it is what was wanted.
        milliseconds: the engine's latency, where it was measured.
        ratio: of its latency to the same engine's without reduction, from blocks that ran side by side.
    """

    name: str
    drop: float | None
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
        gain: the chosen engine's latency over that of the one that plans are tried in.
        drop: what it loses beyond that one on the search's data.
    """

    gain: float = 1.0
    drop: float = 0.0


@dataclasses.dataclass
class Shipping:
    """Compiles the points of a search, best first, until one holds and no other should be faster.

    Attributes:
        neutral: the neutral graph.
        found: the search.
        goal: what is wanted.
        lossy: what the engine gains and loses on its own.
        whole: the choice for the whole network; its engine is still there.
        target: the target; it must run here.
        choose: chooses the engine that ships.
        holds: judges an engine on the held-out data.
        budget: the data that was searched on and the data held out.
        scratch: an existing folder.
        progress: told each step.
        deadline: when no other point is compiled.
        checks: each look at the held-out data, in order.
    """

    neutral: Graph
    found: Search
    goal: Goal
    lossy: Lossy
    whole: Choice
    target: Target
    choose: Choose
    holds: Holds
    budget: Budget
    scratch: Path
    progress: Progress
    deadline: Deadline
    checks: list[HeldOutCheck] = dataclasses.field(default_factory=list)

    def first_that_holds(self, asked: Mapping[str, str], searched_in: Candidate) -> Reduction:
        """The reduction that ships.

        Raises:
            NumericsError: held-out data refuses all, or no latency is reached.
        """
        best: tuple[Trial, Reduced, Choice, dict[str, Any] | None] | None = None
        for point in self._stepping():
            reduces = bool(point.plan)
            if reduces and any(check.slower for check in self.checks) and self.deadline.past():
                continue
            if best is not None and self._expected(point) > BETTER * self._reached(best[0], best[2]):
                continue
            # However late it is, what ships must not be slower than the whole network's own engine.
            if best is not None and reduces and self.deadline.past():
                continue
            tried = self._compile(point)
            if tried is not None and (best is None or self._is_faster(tried[1], best[2])):
                best = (point, *tried)
        if best is None:
            raise self._none_held()
        point, reduced, choice, beside = best
        choice.chosen.folder = choice.chosen.folder.rename(self.scratch / "chosen")
        self._remove_attempts()
        axes = self.found.axes
        sections = sections_of(self.neutral, axes, reduced, asked)
        fields = self._fields(point, searched_in)
        for section in sections.values():
            section |= {**fields, "baseline": beside, "gated": self.goal.max_drop is not None}
        if not point.plan:
            self.progress.note("nothing is faster than the engine of the whole network: nothing was reduced")
        return Reduction(reduced, choice, sections)

    def _expected(self, point: Trial) -> float:
        """The latency that a point's engine should reach, over that of the whole network not quantised."""
        allowed = self.goal.max_drop
        assert point.scores is not None
        has_room = allowed is None or point.drop + point.scores.error + self.lossy.drop <= allowed
        return point.ratio * (self.lossy.gain if has_room else 1.0)

    def _reached(self, point: Trial, choice: Choice) -> float:
        """The same of an engine that was chosen: it may lose nothing of its own after all."""
        return point.ratio * (self.lossy.gain if choice.chosen.candidate.is_lossy else 1.0)

    def _stepping(self) -> Iterator[Trial]:
        """The points to compile, best first; after one that failed, those that lie on its better side."""
        # Where the engine may gain by a loss of its own, or several axes were asked, none of them has to.
        alone = len(self.found.axes) == 1 and self.lossy.gain == 1.0
        wanted = self.found.wanted(self.goal, must_gain=alone)
        if self.goal.milliseconds is None:
            wanted = sorted(wanted, key=self._expected)
        for point in wanted:
            failed = [(check, self.found.named(check.name)) for check in self.checks if not check.kept]
            hopeless = bool(point.plan) and any(
                (
                    self.goal.max_drop is not None
                    and check.drop is not None
                    and check.drop > self.goal.max_drop
                    and point.degradation >= past.degradation
                )
                or (
                    self.goal.milliseconds is not None
                    and (check.milliseconds or 0.0) > self.goal.milliseconds
                    and point.milliseconds >= past.milliseconds
                )
                for check, past in failed
            )
            if not hopeless:
                yield point

    def _compile(self, point: Trial) -> tuple[Reduced, Choice, dict[str, Any] | None] | None:
        """Compile a point's graph; None where it does not hold."""
        self.progress.step(f"compiling {point.plan.name}")
        reduced = with_references(self.neutral, apply(self.neutral, self.found.axes, point.plan))
        attempt = self.scratch / f"attempt-{len(self.checks)}"
        attempt.mkdir()
        try:
            if not point.plan and self.holds(self.whole.chosen):
                choice = self.whole
            else:
                choice = self.choose(reduced.graph, attempt, self.deadline, self.whole)
        except RefusedError as error:
            least = min(trial.held_out.drop for trial in error.trials if trial.held_out is not None)
            self.checks.append(HeldOutCheck(point.plan.name, least, kept=False))
            shutil.rmtree(attempt)
            return None
        except (JobError, NumericsError) as error:
            self.checks.append(HeldOutCheck(point.plan.name, None, kept=False))
            self.progress.note(f"{point.plan.name}: {error}; the next best is tried")
            shutil.rmtree(attempt)
            return None
        chosen = choice.chosen
        assert chosen.held_out is not None
        reached = None if chosen.latency is None else chosen.latency.p50
        in_time = self.goal.milliseconds is None or reached is None or reached <= self.goal.milliseconds
        check = HeldOutCheck(point.plan.name, chosen.held_out.drop, in_time, reached)
        self.checks.append(check)
        beside = None
        if check.kept and point.plan:
            beside = beside_unreduced(self.neutral, choice, self._bench())
            check.ratio = None if beside is None else beside["ratio"]
            check.kept = not check.slower
        if check.slower:
            self.progress.note(
                f"{point.plan.name} is no faster: {check.ratio:.2f} of the same engine's time without it"
            )
        if not check.kept:
            shutil.rmtree(attempt)
            return None
        return reduced, choice, beside

    def _is_faster(self, choice: Choice, than: Choice) -> bool:
        """Whether an engine is faster than another, measured side by side."""
        bench = self._bench()
        bench.refer_to(than.chosen)
        latency = choice.chosen.latency
        try:
            with bench.opened(choice.chosen) as engine:
                ratio = bench.time(choice.chosen, engine)
        finally:
            bench.close()
            choice.chosen.latency = latency
        return ratio is not None and ratio < 1.0

    def _bench(self) -> Bench:
        return Bench(self.target, self.neutral.examples[0], self.scratch, self.progress, None)

    def _remove_attempts(self) -> None:
        for attempt in self.scratch.glob("attempt-*"):
            shutil.rmtree(attempt)

    def _none_held(self) -> EdgecError:
        tried = "; ".join(
            (
                f"no engine computes {check.name}"
                if check.drop is None
                else f"{check.name} drops {check.drop:.2%}"
            )
            + ("" if check.milliseconds is None else f" at {check.milliseconds:.2f} ms")
            + (f", {check.ratio:.2f} of the unreduced engine's time" if check.slower else "")
            for check in self.checks
        )
        limits = []
        if self.goal.max_drop is not None:
            limits.append(f"a drop of {self.goal.max_drop:.2%}")
        if self.goal.milliseconds is not None:
            limits.append(f"{self.goal.milliseconds:g} ms")
        options = " and ".join(f"--{axis.name}" for axis in self.found.axes)
        kind = NumericsError if self.goal.max_drop is not None else JobError
        return kind(
            f"no plan that the search found keeps {' and '.join(limits)} on the "
            f"{self.budget.held_out.data.samples} held-out samples: {tried}",
            fix=f"allow more, give more data to search on, or leave {options} off",
        )

    def _fields(self, chosen: Trial, searched_in: Candidate) -> dict[str, Any]:
        """What every section says of the search."""
        searched, held_out = self.budget.search.data, self.budget.held_out.data
        return {
            "frontier": [self._point(point, chosen) for point in self.found.frontier],
            "searched_on": {
                "data": searched.name,
                "samples": max(point.scores.samples for point in self.found.frontier if point.scores),
                "metric": "top-1 accuracy" if searched.labels is not None else "mean cosine to the source",
                "engine": searched_in.name,
                "engines_built": self.found.engines_built,
                "seconds": self.deadline.spent,
                "stopped": self.found.stopped,
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


def sections_of(
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


def beside_unreduced(neutral: Graph, choice: Choice, bench: Bench) -> dict[str, Any] | None:
    """The same engine without reduction, measured beside the chosen one; None where nothing can be measured.

    Args:
        neutral: the neutral graph, of which nothing was taken.
        choice: the engine of what is left.
        bench: builds and measures.

    Returns:
        engine, precision and form, its median in milliseconds, and the ratio of the reduced engine's to it.
    """
    if not bench.target.runs_here:
        return None
    candidate = choice.chosen.candidate
    whole = Trial(candidate, bench.new_folder())
    bench.progress.step("measuring beside the engine of the whole network")
    try:
        bench.build_ungated(neutral, whole)
        reduced, unreduced = bench.beside(choice.chosen, whole)
    except EdgecError as error:
        bench.progress.note(f"the engine of the whole network could not be built: {error}")
        return None
    finally:
        bench.discard(whole)
    return {
        "engine": candidate.engine,
        "precision": candidate.precision,
        "form": candidate.form,
        "p50": unreduced.p50,
        "ratio": reduced.ratio_to(unreduced),
    }
