"""The one shipping rule: what held-out data refuses is followed by the next best."""

from __future__ import annotations

from collections.abc import Iterable

from edgec.core.errors import NumericsError
from edgec.core.progress import Progress
from edgec.judging.accuracy import Scores
from edgec.judging.budget import Budget
from edgec.search.trials import Trial
from edgec.targets.base import Target


class RefusedError(NumericsError):
    """Held-out data refused every engine.

    Attributes:
        trials: those engines, with their scores.
    """

    def __init__(self, message: str, *, trials: list[Trial], fix: str) -> None:
        super().__init__(message, fix=fix)
        self.trials = trials


class HeldOut:
    """Judges engines on the samples that no search has seen.

    Args:
        budget: its held-out data; None where there is nothing to judge on, and everything holds.
        is_gated: whether a larger drop than the budget's refuses an engine; else it is only told.
        target: opens the engines.
        progress: told each step.
    """

    def __init__(self, budget: Budget | None, target: Target, progress: Progress, *, is_gated: bool) -> None:
        self._budget = budget
        self._is_gated = is_gated
        self._target = target
        self._progress = progress

    def holds(self, trial: Trial) -> bool:
        """Judge a trial; `held_out` is set, and `why` where it is refused."""
        if self._budget is None:
            return True
        if trial.held_out is None:
            self._progress.step(f"judging {trial.candidate.name} on held-out data")
            engine = self._target.open(trial.folder)
            try:
                trial.held_out = self._budget.held_out.scores(engine.run)
            finally:
                engine.close()
            if trial.held_out.unsteady:
                self._progress.note(_unsteady(trial.held_out))
        scores = trial.held_out
        if not self._is_gated or scores.drop <= self._budget.max_drop:
            return True
        trial.why = f"refused by held-out data: {_told(trial)}"
        self._progress.note(f"{trial.candidate.name} is {trial.why}; the next best is tried")
        return False

    def first(self, best_first: Iterable[Trial]) -> Trial:
        """The first that holds.

        Raises:
            RefusedError: none does; says what each loses.
        """
        refused = []
        for trial in best_first:
            if self.holds(trial):
                return trial
            refused.append(trial)
            if trial.candidate.exact == trial.candidate:
                break  # nothing computes the graph better than in fp32: it is the graph that is refused
        assert self._budget is not None
        said = "; ".join(f"{trial.candidate.name}: {_told(trial)}" for trial in refused)
        raise RefusedError(
            f"held-out data refuses every engine: {said}; {self._budget.max_drop:.2%} is allowed",
            trials=refused,
            fix="allow a larger --max-drop, take a higher --precision, or take less away",
        )


def _unsteady(scores: Scores) -> str:
    return (
        f"on {scores.unsteady} of {scores.samples} held-out samples the source's own fp32 is off from its "
        "float64: there only what the engine loses beyond that counts"
    )


def _told(trial: Trial) -> str:
    scores = trial.held_out
    assert scores is not None
    return (
        f"{scores.metric} drops by {scores.drop:.2%} ({scores.source:.2%} to {scores.engine:.2%}) on "
        f"{scores.samples} samples"
    )
