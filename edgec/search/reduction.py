"""What is taken away in a compile: the plan, the engine that ships, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgec.core.graph import Graph
from edgec.core.progress import Progress
from edgec.judging import accuracy
from edgec.judging.budget import Budget
from edgec.runtime.engine import Engine
from edgec.search.axes.axis import Axis
from edgec.search.bench import Bench
from edgec.search.deadline import Deadline
from edgec.search.goal import Goal
from edgec.search.loop import search
from edgec.search.plan import Plan
from edgec.search.plans import PlanTrials, apply, with_references
from edgec.search.shipping import (
    Choose,
    Holds,
    Lossy,
    Reduction,
    Shipping,
    beside_unreduced,
    sections_of,
)
from edgec.search.trials import Choice, Trial
from edgec.targets.base import Target

CHOOSING = 0.3
"""Share of the time after which the whole network's engine is chosen."""

SEARCHING = 0.75
"""Share of the time after which no plan is searched any more; the rest is for compiling the best."""


def reduce_as_named(
    neutral: Graph,
    axes: Sequence[Axis],
    asked: Mapping[str, str],
    target: Target,
    choose: Choose,
    scratch: Path,
    progress: Progress,
    deadline: Deadline,
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
        deadline: when choosing the engine stops.

    Raises:
        RequestError: a text names no setting of this graph.
        NumericsError: no engine computes what the reduced graph computes, or held-out data refuses it.
    """
    plan = Plan.of(**{axis.name: axis.read(asked[axis.name]) for axis in axes})
    progress.step(f"taking away: {plan.name}")
    reduced = with_references(neutral, apply(neutral, axes, plan))
    choice = choose(reduced.graph, scratch, deadline, None)
    sections = sections_of(neutral, axes, reduced, asked)
    beside = beside_unreduced(neutral, choice, Bench(target, neutral.examples[0], scratch, progress, None))
    for section in sections.values():
        section["baseline"] = beside
    return Reduction(reduced, choice, sections)


def reduce_by_search(
    neutral: Graph,
    axes: Sequence[Axis],
    asked: Mapping[str, str],
    goal: Goal,
    target: Target,
    choose: Choose,
    choose_whole: Choose,
    holds: Holds,
    budget: Budget,
    scratch: Path,
    progress: Progress,
    deadline: Deadline,
) -> Reduction:
    """Search a plan, compile the best, judge it on the held-out data, and measure it beside the unreduced.

    Plans are tried in the fastest engine that is not quantised: it is quick to build, and what is seen is
    the plan's. Where the engine that ships may lose something of its own, that is measured on the whole
    network first, and plans that leave room for it are looked for too. Where held-out data refuses the best,
    the next that moves the outputs less is compiled; where the last measurement does, because the engine is
    no faster than without reduction, the next best, or the unreduced engine once the search's time is over.
    Every such look is in the report.

    Args:
        neutral: the neutral graph, gated against the source.
        axes: what is searched, in the order in which it is applied.
        asked: by axis, what its option says.
        goal: what is wanted.
        target: the target; it must run here.
        choose: chooses the engine that ships.
        choose_whole: the same for the whole network, which held-out data does not judge.
        holds: judges an engine on the held-out data.
        budget: the data to search on and the data held out.
        scratch: an existing folder.
        progress: told each step.
        deadline: when to stop.

    Raises:
        JobError: nothing can be taken away, or no plan reaches the goal; says how near the nearest came.
        NumericsError: none of those that reach it in the search does so on the held-out data.
    """
    folder = scratch / "attempt-whole"
    folder.mkdir()
    whole = choose_whole(neutral, folder, deadline.until(CHOOSING), None)
    plain = _unquantised(whole, goal)
    lossy = _lossy(plain, whole.chosen)
    scale = lossy.gain if goal.milliseconds is not None else 1.0
    bench = Bench(target, neutral.examples[0], scratch, progress, budget.search)
    trials = PlanTrials(bench, neutral, axes, plain.candidate, progress, scale)
    found = search(axes, trials, _goals(goal, lossy), deadline=deadline.until(SEARCHING), progress=progress)
    return Shipping(
        neutral, found, goal, lossy, whole, target, choose, holds, budget, scratch, progress, deadline
    ).first_that_holds(asked, plain.candidate)


def _goals(goal: Goal, lossy: Lossy) -> list[Goal]:
    """The goal, and what leaves room for what the engine loses of its own."""
    if goal.max_drop is None or not 0.0 < lossy.drop < goal.max_drop or lossy.gain >= 1.0:
        return [goal]
    return [goal, Goal(goal.max_drop - lossy.drop, goal.milliseconds)]


def _unquantised(whole: Choice, goal: Goal) -> Trial:
    """The fastest engine that only rounds and keeps the goal's drop; the chosen one where there is none."""
    measured = [
        trial
        for trial in whole.trials
        if trial.passed and trial.latency is not None and not trial.candidate.is_lossy
        # Which layers are kept of bf16 is known of the whole network only.
        if not trial.candidate.kept
        if goal.max_drop is None or trial.scores is None or trial.drop <= goal.max_drop
    ]
    last = [trial for trial in measured if trial.beside_peers] or measured
    return min(last, key=lambda trial: trial.latency.p50, default=whole.chosen)  # type: ignore[union-attr]


def _lossy(plain: Trial, ships: Trial) -> Lossy:
    if ships.candidate == plain.candidate or plain.latency is None or ships.latency is None:
        return Lossy()
    own, its = (0.0 if each.scores is None else max(0.0, each.scores.drop) for each in (plain, ships))
    return Lossy(ships.latency.p50 / plain.latency.p50, max(0.0, its - own))


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
