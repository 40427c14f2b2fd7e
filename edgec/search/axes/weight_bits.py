"""The smallest engine within a budget, for targets whose engines do not run here.

Such a target is not measured, so that what a budget can buy is size: every form of its weights is built
from the one exact engine, and from the smallest up they are scored on a few samples of the data that a
search may look at, until one keeps the budget.
"""

from __future__ import annotations

import time
from pathlib import Path

from edgec.core.errors import EdgecError, NumericsError
from edgec.core.graph import Graph
from edgec.core.progress import Progress
from edgec.judging.budget import Budget
from edgec.judging.gates import observe
from edgec.search.bench import Bench
from edgec.search.held_out import HeldOut
from edgec.search.trials import Choice, Trial, no_candidate
from edgec.targets.base import Compressing

SCORED = 32
"""Most samples that a form is scored on: an interpreter takes about a second for each."""


def smallest(
    target: Compressing,
    neutral: Graph,
    precision: str,
    budget: Budget,
    scratch: Path,
    progress: Progress,
    held_out: HeldOut | None = None,
) -> Choice:
    """Build the exact engine, then its compressed forms, and take the smallest that keeps the budget.

    Args:
        target: the target.
        neutral: the neutral graph, with the source's own outputs.
        precision: `auto`, or one of the target's compressed precisions.
        budget: what compression may cost.
        scratch: folder for the engines; the losers' are removed.
        progress: told each step.
        held_out: judges what is to ship; None where nothing is held out.

    Raises:
        NumericsError: the exact engine failed its gate, or the precision asked for costs more than allowed.
        JobError: nothing could be built.
    """
    started = time.monotonic()
    held_out = held_out or HeldOut(None, target, progress, is_gated=False)
    [candidate] = target.candidates(neutral, "auto")
    judge = budget.search.first(SCORED)
    bench = Bench(target, neutral.examples[0], scratch, progress, judge)
    exact = Trial(candidate, bench.new_folder())
    bench.build(neutral, exact)
    if not exact.passed:
        raise no_candidate([exact])
    trials, sizes = [exact], {candidate.name: target.size(exact.folder)}
    for form in target.compressed_candidates(neutral, precision):
        trial = Trial(form, bench.new_folder())
        progress.step(f"compressing to {form.name}")
        try:
            trial.folder.mkdir()
            target.compress(exact.folder, form, trial.folder)
            sizes[form.name] = target.size(trial.folder)
        except EdgecError as error:
            trial.why = f"could not be built: {error}"
        trials.append(trial)
    built = sorted((trial for trial in trials[1:] if not trial.why), key=lambda t: sizes[t.candidate.name])
    chosen = None
    for trial in built:
        said = f"{_megabytes(sizes[trial.candidate.name])}"
        if sizes[trial.candidate.name] >= sizes[candidate.name] and precision == "auto":
            trial.why = f"{said}: not smaller than the exact engine"
        elif chosen is not None:
            trial.why = f"{said}: larger than the chosen one"
        else:
            progress.step(f"scoring {trial.candidate.name}")
            keeps = _keeps(bench, neutral, trial, budget.max_drop, said)
            chosen = trial if keeps and held_out.holds(trial) else None
    if chosen is None and precision != "auto":
        raise NumericsError(
            f"no {precision} engine keeps the budget: " + "; ".join(trial.why for trial in trials[1:]),
            fix="allow a larger --max-drop or a higher --precision",
        )
    if chosen is None:
        chosen = held_out.first([exact])
        exact.why = f"{_megabytes(sizes[candidate.name])}: no smaller form keeps {budget.max_drop:.2%}"
    else:
        chosen.gates.insert(0, exact.gates[0])
        exact.why = f"{_megabytes(sizes[candidate.name])}: exact, and larger than the chosen one"
    entries = [
        {
            "name": trial.candidate.name,
            "bytes": sizes.get(trial.candidate.name),
            "score": None if trial.scores is None else trial.scores.engine,
            "drop": None if trial.scores is None else trial.scores.drop,
            "chosen": trial is chosen,
            "why": trial.why,
        }
        for trial in trials
    ]
    record = {
        "seconds": time.monotonic() - started,
        "max_drop": budget.max_drop,
        "searched_on": judge.data.name,
        "samples": judge.data.samples,
        "sizes": entries,
    }
    return Choice(chosen, trials, {}, None, record)


def _keeps(bench: Bench, neutral: Graph, trial: Trial, max_drop: float, said: str) -> bool:
    """Score a form and say whether it keeps the budget."""
    with bench.opened(trial) as engine:
        trial.gates.append(observe(neutral, engine.run, stage=trial.candidate.name))
        bench.score(trial, engine)
    assert trial.scores is not None
    scores = trial.scores
    told = f"{said}, {scores.metric} {scores.engine:.2%} of {scores.source:.2%} on {scores.samples} samples"
    if not trial.gates[-1].passed or scores.drop > max_drop:
        trial.why = f"{told}: drops by {scores.drop:.2%}, {max_drop:.2%} is allowed"
        return False
    trial.why = f"{told}: the smallest that keeps {max_drop:.2%}"
    return True


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB"
