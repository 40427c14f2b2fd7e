"""Choosing the engine by measuring: candidates against each other and against the plain peers."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgec.core.disturbance import Patience
from edgec.core.errors import NumericsError
from edgec.core.graph import Graph
from edgec.core.progress import Progress
from edgec.judging.budget import Budget
from edgec.search import engines
from edgec.search.axes.weight_bits import smallest
from edgec.search.bench import Bench
from edgec.search.deadline import Deadline
from edgec.search.field import best_first, explain, measure_field
from edgec.search.held_out import HeldOut
from edgec.search.likely import likely
from edgec.search.trials import Choice, Trial, blame_gates, no_candidate
from edgec.targets.base import Compressing, Offer, Quantising, Target

__all__ = ["Choice", "Trial", "choose"]


def choose(
    target: Target,
    neutral: Graph,
    precision: str,
    scratch: Path,
    progress: Progress,
    budget: Budget | None = None,
    held_out: HeldOut | None = None,
    deadline: Deadline | None = None,
    whole: Choice | None = None,
) -> Choice:
    """Build every candidate, gate it, and take the fastest that passes.

    With a budget, and a target that quantises, the candidates are searched instead: those that lose more
    than rounding does are judged by the budget.

    Args:
        target: the target.
        neutral: the neutral graph, with the source's own outputs.
        precision: as asked on the command line.
        scratch: folder for the candidates' engines; the losers' are removed.
        progress: told each step.
        budget: what lossy steps may cost; None where nothing may be lost.
        held_out: judges what is to ship; what it refuses is followed by the next best. None where nothing is
            held out.
        deadline: when a search within a budget stops.
        whole: of the network that something was taken of, where this is what is left: only what may win here
            too is built.

    Returns:
        the chosen engine; the folders of all others are gone.

    Raises:
        NumericsError: every candidate failed its gate or the budget.
        JobError: no candidate could be built.
    """
    held_out = held_out or HeldOut(None, target, progress, is_gated=False)
    deadline = deadline or Deadline()
    if budget is not None and precision in ("auto", "int8", "int4") and isinstance(target, Compressing):
        choice = smallest(target, neutral, precision, budget, scratch, progress, held_out)
    elif budget is not None and precision in ("auto", "int8") and isinstance(target, Quantising):
        choice = engines.search(
            target, neutral, precision, budget, scratch, progress, deadline, held_out, whole
        )
    elif target.runs_here:
        choice = _fastest(target, neutral, precision, scratch, progress, held_out, whole)
    else:
        choice = _first(target, neutral, precision, scratch, progress, budget, held_out)
    for trial in choice.trials:
        if trial is not choice.chosen:
            shutil.rmtree(trial.folder, ignore_errors=True)
    return choice


def _fastest(
    target: Target,
    neutral: Graph,
    precision: str,
    scratch: Path,
    progress: Progress,
    held_out: HeldOut,
    whole: Choice | None,
) -> Choice:
    """Every candidate, measured beside the plain peers."""
    bench = Bench(target, neutral.examples[0], scratch, progress, None)
    trials = []
    offers = [Offer(candidate) for candidate in target.candidates(neutral, precision)]
    for offer in likely(offers, whole):
        trials.append(Trial(offer.candidate, bench.new_folder()))
        bench.build(neutral, trials[-1])
    blame_gates(target, neutral, trials)
    runnable = [trial for trial in trials if trial.passed]
    if not runnable:
        raise no_candidate(trials)
    progress.step("measuring engines in alternating blocks")
    asked = "fp32" if precision == "auto" else precision
    patience = Patience()
    finalists, baselines, best = measure_field(
        target, neutral, runnable, list(dict.fromkeys(["fp32", asked])), patience=patience
    )
    if patience.said:
        progress.note(patience.said)
    finalists = list(best_first(finalists))
    chosen = held_out.first([*finalists, *(trial for trial in runnable if trial not in finalists)])
    explain(trials, chosen, "the fastest that keeps its gate", baselines)
    return Choice(chosen, trials, baselines, best)


def _first(
    target: Target,
    neutral: Graph,
    precision: str,
    scratch: Path,
    progress: Progress,
    budget: Budget | None,
    held_out: HeldOut,
) -> Choice:
    """The target's first choice that keeps its gate: what cannot run here cannot be measured here.

    Raises:
        NumericsError: none keeps its gate and the budget.
        JobError: none could be built.
    """
    bench = Bench(target, neutral.examples[0], scratch, progress, None if budget is None else budget.search)
    trials: list[Trial] = []
    for candidate in target.candidates(neutral, precision):
        trial = Trial(candidate, bench.new_folder())
        trials.append(trial)
        bench.build(neutral, trial)
        if trial.passed and _keeps(budget, bench, trial) and held_out.holds(trial):
            blame_gates(target, neutral, trials)
            for other in trials:
                other.why = other.why or "the target prefers another"
            trial.why = "the target's first choice; it runs on other machines, so nothing is measured here"
            return Choice(trial, trials, {}, None)
    blame_gates(target, neutral, trials)
    if not any(trial.passed for trial in trials):
        raise no_candidate(trials)
    reasons = "; ".join(f"{trial.candidate.name}: {trial.why}" for trial in trials)
    raise NumericsError(
        f"no engine keeps the budget: {reasons}",
        fix="allow a larger --max-drop, give more calibration data, or take a higher --precision",
    )


def _keeps(budget: Budget | None, bench: Bench, trial: Trial) -> bool:
    """Whether a candidate keeps the budget on the data that a search may look at; exact ones always do."""
    if budget is None or not trial.candidate.is_lossy:
        return True
    with bench.opened(trial) as engine:
        bench.score(trial, engine)
    assert trial.scores is not None
    if trial.scores.drop <= budget.max_drop:
        return True
    trial.why = f"{trial.scores.metric} drops by {trial.scores.drop:.2%}, more than {budget.max_drop:.2%}"
    return False
