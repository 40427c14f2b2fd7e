"""Choosing the engine by measuring: candidates against each other and against the plain peers."""

from __future__ import annotations

from pathlib import Path

from edgec.core.disturbance import Patience
from edgec.core.errors import NumericsError
from edgec.core.graph import Graph
from edgec.core.progress import Progress
from edgec.judging.budget import Budget
from edgec.search.field import explain, measure_field, shipped
from edgec.search.precision import SECONDS, search
from edgec.search.trials import Choice, Trial, blame_gates, build, discard, no_candidate
from edgec.search.weight_bits import smallest
from edgec.targets.base import Compressing, Quantising, Target

__all__ = ["Choice", "Trial", "choose"]


def choose(
    target: Target,
    neutral: Graph,
    precision: str,
    scratch: Path,
    progress: Progress,
    budget: Budget | None = None,
    seconds: float = SECONDS,
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
        seconds: how long a search within a budget may take.

    Raises:
        NumericsError: every candidate failed its gate or the budget.
        JobError: no candidate could be built.
    """
    if budget is not None and precision in ("auto", "int8", "int4") and isinstance(target, Compressing):
        return smallest(target, neutral, precision, budget, scratch, progress)
    if budget is not None and precision in ("auto", "int8") and isinstance(target, Quantising):
        return search(target, neutral, precision, budget, scratch, progress, seconds)
    trials = []
    for index, candidate in enumerate(target.candidates(neutral, precision)):
        trial = Trial(candidate, scratch / f"candidate-{index}")
        progress.step(f"building {candidate.name}")
        build(target, neutral, trial)
        trials.append(trial)
        if not target.runs_here and trial.passed and _keeps(budget, target, trial):
            blame_gates(target, neutral, trials)
            return _unmeasured(trials, trial)
    blame_gates(target, neutral, trials)
    runnable = [trial for trial in trials if trial.passed]
    if not runnable:
        raise no_candidate(trials)
    if not target.runs_here:
        reasons = "; ".join(f"{trial.candidate.name}: {trial.why}" for trial in trials)
        raise NumericsError(
            f"no engine keeps the budget: {reasons}",
            fix="allow a larger --max-drop, give more calibration data, or take a higher --precision",
        )
    progress.step("measuring engines in alternating blocks")
    asked = "fp32" if precision == "auto" else precision
    patience = Patience()
    finalists, baselines, best = measure_field(
        target, neutral, runnable, list(dict.fromkeys(["fp32", asked])), patience=patience
    )
    if patience.said:
        progress.note(patience.said)
    chosen = shipped(finalists)
    explain(trials, chosen, "the fastest that keeps its gate", baselines)
    discard(trials, chosen)
    return Choice(chosen, trials, baselines, best)


def _keeps(budget: Budget | None, target: Target, trial: Trial) -> bool:
    """Whether a candidate keeps the budget on the data that a search may look at; exact ones always do."""
    if budget is None or not trial.candidate.is_lossy:
        return True
    engine = target.open(trial.folder)
    try:
        trial.scores = budget.search.scores(engine.run)
    finally:
        engine.close()
    if trial.scores.drop <= budget.max_drop:
        return True
    trial.why = f"{trial.scores.metric} drops by {trial.scores.drop:.2%}, more than {budget.max_drop:.2%}"
    return False


def _unmeasured(trials: list[Trial], chosen: Trial) -> Choice:
    """The target's first choice that keeps its gate: what cannot run here cannot be measured here."""
    for trial in trials:
        if trial is chosen:
            trial.why = "the target's first choice; it runs on other machines, so nothing is measured here"
        else:
            trial.why = trial.why or "the target prefers another"
    discard(trials, chosen)
    return Choice(chosen, trials, {}, None)
