"""The loop of every search over axes: probe each, predict combinations, measure the best, and go on.

Only what was measured is offered. The frontier is of all points over all axes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from edgec.core.errors import JobError
from edgec.core.progress import Progress, Silent
from edgec.search.allocation import Refinement, combined
from edgec.search.axes.axis import Axis, Probing
from edgec.search.deadline import Deadline
from edgec.search.goal import Goal
from edgec.search.plan import Plan
from edgec.search.trials import Trial

PROBING = 0.6
"""Share of the time after which no axis probes any more."""

BUILDS = 10
"""Plans to build beyond the probes, for each axis."""

LEAST_BUILDS = 4
"""Plans to build however late it is: what the probes cost is lost where nothing is offered."""


class PlanBench(Probing, Protocol):
    """What the loop builds with."""

    @property
    def engines_built(self) -> int:
        """How many so far."""

    def point(self, plan: Plan) -> Trial:
        """As `probe`, and scored."""

    def close(self) -> None:
        """Free everything."""


@dataclasses.dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
        axes: what was searched, each with its probes.
        baseline: the network that nothing was taken of.
        points: every plan that was built to be offered, fastest first.
        engines_built: those of the probes and of the baseline too.
        stopped: why the search ended early; None where it did not.
    """

    axes: tuple[Axis, ...]
    baseline: Trial
    points: tuple[Trial, ...]
    engines_built: int = 0
    stopped: str | None = None

    @property
    def frontier(self) -> tuple[Trial, ...]:
        """The points that no other beats in latency, score and degradation, fastest first.

        The baseline is always among them: it is what ships where a later measurement refuses the others.
        """
        every = (*self.points, self.baseline)
        kept = [point for point in self.points if not any(other.beats(point) for other in every)]
        return tuple(sorted((*kept, self.baseline), key=lambda point: point.milliseconds))

    def named(self, name: str) -> Trial:
        """The point with a name.

        Raises:
            JobError: none has it.
        """
        for point in (*self.points, self.baseline):
            if point.plan.name == name:
                return point
        names = ", ".join(point.plan.name for point in self.frontier)
        raise JobError(f"no point of the frontier is named {name}", fix=f"choose from {names}")

    def wanted(self, goal: Goal, *, must_gain: bool = True) -> list[Trial]:
        """The points that reach a goal, best first; the baseline is among them where it does.

        Args:
            goal: the goal.
            must_gain: whether a drop that no faster point keeps is an error.

        Raises:
            JobError: none reaches it; says how near the nearest came.
        """
        return goal.best_first(self.frontier, _what(self.axes), must_gain=must_gain)


def search(
    axes: Sequence[Axis],
    bench: PlanBench,
    goals: Sequence[Goal],
    *,
    builds: int = BUILDS,
    deadline: Deadline | None = None,
    progress: Progress | None = None,
) -> Search:
    """Search the settings of all axes together.

    An interrupt (Ctrl-C) ends the search with what was offered so far; where nothing was, it goes on to the
    caller.

    Args:
        axes: what can be taken away, in the order in which it is applied.
        bench: builds, measures and scores; closed at the end.
        goals: what is wanted; the builds are shared among them.
        builds: plans to build beyond the probes, for each axis.
        deadline: when to stop; the plan that is being tried then is still finished, and `LEAST_BUILDS` are.
        progress: told each step.

    Raises:
        JobError: nothing can be taken away of the graph.
    """
    progress = progress or Silent()
    deadline = deadline or Deadline()
    points: dict[str, Trial] = {}
    stopped: str | None = None
    try:
        axes = _probed(axes, bench, deadline, progress)
        predictions = combined([axis.predictions() for axis in axes])

        def build(plan: Plan) -> Trial:
            if deadline.past() and len(points) >= LEAST_BUILDS:
                raise _TimeIsOver
            return bench.point(plan)

        for place, goal in enumerate(goals, start=1):
            most = len(axes) * builds * place // len(goals)
            Refinement(predictions, goal, bench.baseline, build, most, points).run()
    except _TimeIsOver:
        stopped = str(deadline)
    except KeyboardInterrupt:
        if not points:
            raise
        stopped = "interrupted: the best so far was taken"
    finally:
        bench.close()
    if stopped:
        progress.note(stopped)
    by_latency = sorted(points.values(), key=lambda point: point.milliseconds)
    return Search(tuple(axes), bench.baseline, tuple(by_latency), bench.engines_built, stopped)


class _TimeIsOver(Exception):  # noqa: N818 - it is no error
    pass


def _probed(axes: Sequence[Axis], bench: PlanBench, deadline: Deadline, progress: Progress) -> list[Axis]:
    """Probe each axis in its share of the time; those by which nothing can be taken away are left out.

    What is applied last is probed first: it is tried on the network as it is, in less time than what has to
    be fitted first, and what it spares the others have.

    Raises:
        JobError: nothing can be taken away by any.
    """
    refused: dict[str, JobError] = {}
    for left, axis in zip(range(len(axes), 0, -1), reversed(axes), strict=True):
        share = max(0.0, PROBING - deadline.over) / left
        try:
            axis.probe(bench, deadline.until(deadline.over + share))
        except JobError as error:
            refused[axis.name] = error
            progress.note(f"--{axis.name}: {error}")
    able = [axis for axis in axes if axis.name not in refused]
    if not able:
        raise refused[axes[0].name]
    return able


def _what(axes: Sequence[Axis]) -> str:
    return "token schedule" if [axis.name for axis in axes] == ["tokens"] else "plan"
