"""The search over variant, precision and high-precision layers for one graph, within a budget.

Exact engines come first: they are quick to build, each is the fp32 gate of its variant, and they say which
engine and which variant are worth quantising. Then come lower precisions of the variants that were fast, as
long as what they gained in one variant says that they may win in another (`edgec.search.axes.variant`). Each
candidate is timed beside the fastest that passed so far and dropped if it is slower; only one that is faster
is scored, on the part of the data that the search may look at. When quantising the whole network, or
computing it in bf16, costs more than the budget, the layers that cost most stay in the higher precision
(`edgec.search.axes.high_precision_layers`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from edgec.core.disturbance import Patience
from edgec.core.errors import EdgecError, NumericsError
from edgec.core.graph import Graph
from edgec.core.progress import Progress
from edgec.core.timing import Latency
from edgec.judging.budget import Budget
from edgec.runtime.engine import Engine
from edgec.search.axes.high_precision_layers import Kept, Ranking, nested, ranked
from edgec.search.axes.variant import FAR_BEHIND, Variants
from edgec.search.bench import Bench
from edgec.search.deadline import Deadline
from edgec.search.field import best_first, explain, last_field, measure_field
from edgec.search.held_out import HeldOut
from edgec.search.likely import likely
from edgec.search.trials import Choice, Trial, no_candidate
from edgec.targets.base import Candidate, Offer, Quantising, Target

SLOWER = 1.05
"""A candidate this much slower than the fastest so far is dropped: more than blocks that ran side by side
differ by chance."""

MIXING = 0.5
"""Share of the search's time that is left to keeping layers, once something has broken the budget."""

MOST_RANKING = 0.6
"""Share of the time left that ranking layers may take; the rest is for building with some of them kept."""

WAITING = 0.15
"""Share of the search's time that may be spent on waiting for a quiet machine, and as much in the last field,
which may take this share besides."""

FINE = 8
"""Once the budget holds, fewer layers are kept only where that may spare more than one part of so many."""


def search(
    target: Target,
    neutral: Graph,
    precision: str,
    budget: Budget,
    scratch: Path,
    progress: Progress,
    deadline: Deadline,
    held_out: HeldOut,
    whole: Choice | None = None,
) -> Choice:
    """Search the candidates of a target that quantises.

    An interrupt (Ctrl-C) ends the search with the best so far; where none has passed yet it goes on to the
    caller, and so do a second one and a polite kill.

    Args:
        target: the target; it must be `Quantising`.
        neutral: the neutral graph, with the source's own outputs and calibration feeds.
        precision: `auto`, or `int8` for quantised candidates only.
        budget: what lossy candidates may cost.
        scratch: folder for the candidates' engines; the losers' are removed.
        progress: told each step.
        deadline: when to stop.
        held_out: judges what is to ship.
        whole: of the network that something was taken of, where this is what is left: only what may win here
            too is tried.

    Raises:
        NumericsError: no candidate keeps its gate and the budget.
        JobError: no candidate could be built.
    """
    assert isinstance(target, Quantising)
    offers = likely(target.lossy_candidates(neutral, precision), whole)
    patience = Patience(WAITING * deadline.seconds)
    bench = Bench(target, neutral.examples[0], scratch, progress, budget.search, patience)
    hunt = _EngineSearch(bench, neutral, precision, budget, progress, deadline)
    try:
        hunt.run(offers)
    except KeyboardInterrupt:
        if hunt.best is None:
            raise
        hunt.stopped = "interrupted: the best so far was taken"
        progress.note(f"search interrupted; taking {hunt.best.candidate.name}, the best so far")
    finally:
        bench.close()
    return hunt.choice(held_out)


class _EngineSearch:
    def __init__(
        self,
        bench: Bench,
        neutral: Graph,
        precision: str,
        budget: Budget,
        progress: Progress,
        deadline: Deadline,
    ) -> None:
        self._bench = bench
        self._neutral = neutral
        self._precision = precision
        self._budget = budget
        self._progress = progress
        self._deadline = deadline
        self._variants = Variants()
        self.trials: list[Trial] = []
        self.best: Trial | None = None
        self.stopped: str | None = None
        self.sensitivity: list[dict[str, Any]] = []
        # By precision: the fastest candidate over the budget, which layers are kept of.
        self._over: dict[str, Trial] = {}

    def _new_trial(self, candidate: Candidate) -> Trial:
        trial = Trial(candidate, self._bench.new_folder())
        self.trials.append(trial)
        return trial

    def run(self, offers: Sequence[Offer]) -> None:
        """Try candidates in their order."""
        for offer in offers:
            trial = self._new_trial(offer.candidate)
            if offer.refused:
                trial.why = f"skipped: {offer.refused}"
            elif trial.candidate.plain:
                self._try(trial)
            elif self._deadline.past() and self.best is not None:
                self.stopped = str(self._deadline)
                trial.why = "not tried: the search's time was over"
            elif trial.candidate.is_lossy and self._over and self._deadline.past(1 - MIXING):
                trial.why = "not tried: the time left is for keeping layers of what broke the budget"
            else:
                self._try(trial)
        self._mix()

    def _mix(self) -> None:
        """Keep layers of what broke the budget, the fastest first, until something is within it."""
        for over in sorted(self._over.values(), key=self._variants.latency):
            rest = over.candidate.rest
            holds = any(t.candidate.precision == rest and t.passed and not t.why for t in self.trials)
            if rest in self._over and not holds:
                over.why += f"; to keep layers in {rest} is no help: it breaks the budget too"
            elif self.best is not None and self._variants.latency(over) >= self._variants.latency(self.best):
                over.why += "; a faster engine keeps the budget"
            elif self._deadline.past():
                self.stopped = str(self._deadline)
            elif self._keep_layers(over):
                return

    def _keep_layers(self, over: Trial) -> bool:
        """Keep layers of one candidate in the higher precision, as few as the budget needs.

        The first guess is where the errors that go should be enough, were they independent; then more are
        kept until the budget holds, and fewer until it does not. It ends with the time, too.

        Returns:
            whether the budget holds.
        """
        feeds = self._neutral.examples[0]
        target = cast(Ranking, self._bench.target)
        seconds = MOST_RANKING * self._deadline.left
        try:
            groups = ranked(target, over.folder, self._budget.search, feeds, self._progress, seconds)
        except EdgecError as error:
            over.why += f"; its layers could not be ranked: {error}"
            return False
        self.sensitivity += [
            {"of": over.candidate.name, **dataclasses.asdict(group), "layers": list(group.layers)}
            for group in groups
        ]
        steps = nested(groups)
        # Of so many steps it is known that they are too few; and that they are enough, or too slow.
        few, many = 0, len(steps) + 1
        holds = False
        count = _first_guess(steps, over, self._budget.max_drop)
        while few < count < many:
            if self._deadline.past():
                self.stopped = str(self._deadline)
                break
            trial = self._new_trial(over.candidate.keeping(steps[count - 1].layers))
            self._try(trial)
            holds = holds or not trial.why
            if self._is_over(trial) and self._is_slow(trial):
                break
            if trial.latency is None or self._is_over(trial):
                few = count
            else:
                many = count
            if holds and many - few <= 1 + many // FINE:
                break
            count = (few + many) // 2 if many <= len(steps) else min(2 * count, len(steps))
        return holds

    def choice(self, held_out: HeldOut) -> Choice:
        """The fastest of those that passed, measured once more beside the plain peers, that holds.

        Raises:
            NumericsError: none passed, or held-out data refuses all.
            JobError: none could be built.
        """
        passed = [trial for trial in self.trials if trial.passed and not trial.why]
        if self.best is None or not passed:
            raise self._nothing()
        by_latency = sorted(passed, key=self._variants.latency)
        baselines: dict[str, Latency] = {}
        best_baseline = None
        if self.stopped and self.stopped.startswith("interrupted"):
            in_order = by_latency
        else:
            self._progress.step("measuring the finalists in alternating blocks")
            close = last_field(passed, self._variants.latency)
            precisions = ["fp32"] + (
                ["bf16"] if any("bf16" in trial.candidate.name for trial in close) else []
            )
            share = WAITING * self._deadline.seconds
            patience = self._bench.patience
            patience.seconds = share
            finalists, baselines, best_baseline = measure_field(
                self._bench.target, self._neutral, close, precisions, seconds=share, patience=patience
            )
            finalists = list(best_first(finalists))
            in_order = finalists + [trial for trial in by_latency if trial not in finalists]
            if patience.said:
                self._progress.note(patience.said)
        chosen = held_out.first(in_order)
        self._explain(passed, chosen, baselines)
        return Choice(chosen, self.trials, baselines, best_baseline, self._record())

    def _explain(self, passed: Sequence[Trial], chosen: Trial, baselines: Mapping[str, Latency]) -> None:
        """Say why each of those that passed lost."""
        for trial in passed:
            if trial is not chosen and not trial.why and not trial.beside_peers:
                slower = self._variants.latency(trial) / self._variants.latency(chosen)
                trial.why = f"{slower:.2f} times the latency of the fastest"
        why = f"the fastest that keeps the budget of {self._budget.max_drop:.2%}"
        explain(self.trials, chosen, why, baselines)

    def _record(self) -> dict[str, Any]:
        data = self._budget.search.data
        return {
            "seconds": self._deadline.spent,
            "limit": self._deadline.seconds,
            "stopped": self.stopped,
            "disturbed": self._bench.patience.rounds + self._bench.patience.kept,
            "max_drop": self._budget.max_drop,
            "searched_on": data.name,
            "samples": max((trial.scores.samples for trial in self.trials if trial.scores), default=0),
            "calibrated_on": len(self._neutral.calibration),
            "sensitivity": self.sensitivity,
        }

    def _try(self, trial: Trial) -> None:
        """Build, gate, time and score one candidate; `trial.why` says why it lost, if it did."""
        candidate = trial.candidate
        variant = self._variants.of(candidate)
        if hopeless := self._variants.hopeless(candidate, self.best):
            trial.why = hopeless
            if candidate.exact == candidate:
                variant.skipped = hopeless
            return
        try:
            self._bench.build(self._neutral, trial, exact=variant.exact)
            if trial.gates:
                variant.exact = trial.gates[0]
            if trial.passed or self._is_over(trial):
                with self._bench.opened(trial) as engine:
                    self._judge(trial, engine)
        except BaseException:
            # Half built or half judged: it must not be taken for one that passed.
            trial.why = trial.why or "not finished"
            raise
        if trial.why and trial not in self._over.values():
            self._bench.discard(trial)

    def _judge(self, trial: Trial, engine: Engine) -> None:
        candidate = trial.candidate
        self._progress.step(f"timing {candidate.name}")
        measured = self._bench.time(trial, engine)
        self._variants.learn_latency(trial, 1.0 if measured is None else measured, self.best)
        ratio = 0.0 if measured is None else measured
        eligible = candidate.is_lossy or self._precision == "auto"
        if not eligible:
            trial.why = "not asked for: it is the fp32 gate of what is quantised"
            return
        assert trial.latency is not None
        if ratio > (FAR_BEHIND if candidate.plain or trial.latency.disturbed else SLOWER):
            behind = f"{ratio:.2f} times the latency of the fastest so far"
            trial.why = f"{trial.why}; {behind}" if trial.why else behind
            return
        if not trial.passed:
            self._keep_over(trial)
            return
        if candidate.precision != "fp32":
            self._progress.step(f"scoring {candidate.name}")
            self._bench.score(trial, engine)
            assert trial.scores is not None
            if trial.drop > self._budget.max_drop:
                trial.why = (
                    f"{trial.scores.metric} drops by {trial.drop:.2%}, more than {self._budget.max_drop:.2%}"
                )
                self._variants.learn_drop(candidate, trial.drop)
                self._keep_over(trial)
                return
        if ratio < 1:
            self.best = trial
            self._bench.refer_to(trial)

    def _is_over(self, trial: Trial) -> bool:
        """Whether a candidate means the right thing and loses too much: keeping layers can help."""
        if not trial.candidate.rounds:
            return False
        if trial.passed:
            return trial.scores is not None and trial.drop > self._budget.max_drop
        return len(trial.gates) == 2 and trial.gates[0].passed

    def _is_slow(self, trial: Trial) -> bool:
        latency = self._variants.latency
        return self.best is not None and latency(trial) > SLOWER * latency(self.best)

    def _keep_over(self, trial: Trial) -> None:
        """Remember the fastest whole candidate over the budget in each precision."""
        candidate = trial.candidate
        if not candidate.rounds or candidate.kept:
            return
        known = self._over.get(candidate.precision)
        if known is not None:
            if self._variants.latency(known) <= self._variants.latency(trial):
                return
            self._bench.discard(known)
        self._over[candidate.precision] = trial

    def _nothing(self) -> EdgecError:
        scored = [trial for trial in self.trials if trial.scores is not None]
        if not scored:
            return no_candidate(self.trials)
        reasons = "; ".join(f"{trial.candidate.name}: {trial.why}" for trial in self.trials if trial.why)
        return NumericsError(
            f"no engine keeps the budget of {self._budget.max_drop:.2%}: {reasons}",
            fix="allow a larger --max-drop, give more calibration data, or take a higher --precision",
        )


def _first_guess(steps: Sequence[Kept], over: Trial, max_drop: float) -> int:
    """How many steps to try first: by the drop to be got rid of, where it is known."""
    needed = 1 - max_drop / over.scores.drop if over.scores is not None else 0.0
    enough = (count for count, step in enumerate(steps, start=1) if step.relief >= needed)
    return next(enough, len(steps))
