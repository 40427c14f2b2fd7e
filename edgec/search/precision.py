"""The search over engine, precision and lowering form within a budget.

Exact engines come first: they are quick to build, each is the fp32 gate of its form, and they say which
engine and which form are worth quantising. Then come lower precisions of the forms that were fast, as long
as what they gained in one form says that they may win in another. Each candidate is timed beside the fastest
that passed so far and dropped if it is slower; only one that is faster is scored, on the part of the data
that the search may look at. When quantising the whole network, or computing it in bf16, costs more than the
budget, the layers that cost most stay in the higher precision (`edgec.search.sensitivity`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from edgec.core.disturbance import Patience
from edgec.core.errors import EdgecError, NumericsError
from edgec.core.graph import Graph
from edgec.core.progress import Progress
from edgec.core.timing import Latency, measure
from edgec.judging.budget import Budget
from edgec.judging.gates import GateResult
from edgec.runtime.engine import Engine
from edgec.search.field import BLOCK_SECONDS, explain, last_field, measure_field, shipped
from edgec.search.sensitivity import Kept, Ranking, nested, ranked
from edgec.search.trials import Choice, Trial, build, discard, no_candidate
from edgec.targets.base import Candidate, Quantising, Target

SECONDS = 150.0
"""What a search may take; the candidate that is being tried then is still finished."""

QUICK_BLOCKS = 3

SLOWER = 1.05
"""A candidate this much slower than the fastest so far is dropped: more than blocks that ran side by side
differ by chance."""


SAME_SLOWER = 1.03
"""Likewise in another scheme of the same precision."""

MIXING = 0.5
"""Share of the search's time that is left to keeping layers, once something has broken the budget."""

MOST_RANKING = 0.6
"""Share of the time left that ranking layers may take; the rest is for building with some of them kept."""

FINE = 8
"""Once the budget holds, fewer layers are kept only where that may spare more than one part of so many."""

FORM_SLOWER = 1.15
"""A form this much slower than another of its engine is not tried in the next lower precision."""

FAR_BEHIND = 1.3
"""An engine this much slower in fp32 than the fastest so far gets no second form, and a quantisation that is
expected to be this much slower is not tried. So far behind have to be a plain candidate and what was timed
on a busy machine, to be dropped."""

WAITING = 0.15
"""Share of the search's time that may be spent on waiting for a quiet machine, and as much in the last field,
which may take this share besides."""

_FP32 = ("fp32", "")


def search(
    target: Target,
    neutral: Graph,
    precision: str,
    budget: Budget,
    scratch: Path,
    progress: Progress,
    seconds: float = SECONDS,
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
        seconds: how long to search.

    Raises:
        NumericsError: no candidate keeps its gate and the budget.
        JobError: no candidate could be built.
    """
    hunt = _Search(target, neutral, precision, budget, scratch, progress, seconds)
    try:
        hunt.run()
    except KeyboardInterrupt:
        if hunt.best is None:
            raise
        hunt.stopped = "interrupted: the best so far was taken"
        progress.note(f"search interrupted; taking {hunt.best.candidate.name}, the best so far")
    finally:
        hunt.close()
    return hunt.choice()


@dataclasses.dataclass
class _Form:
    """One engine's lowering form: the gate of its fp32 engine, why that was not built, and its latencies.

    Latencies are by precision and scheme: only like ones tell forms apart.
    """

    exact: GateResult | None = None
    skipped: str = ""
    pace: dict[tuple[str, str], float] = dataclasses.field(default_factory=dict)


class _Search:
    def __init__(
        self,
        target: Target,
        neutral: Graph,
        precision: str,
        budget: Budget,
        scratch: Path,
        progress: Progress,
        seconds: float,
    ) -> None:
        self._target = target
        self._neutral = neutral
        self._precision = precision
        self._budget = budget
        self._scratch = scratch
        self._progress = progress
        self._seconds = seconds
        self._patience = Patience(WAITING * seconds)
        self._started = time.monotonic()
        self._forms: dict[tuple[str, str], _Form] = {}
        self._incumbent: Engine | None = None
        self.trials: list[Trial] = []
        self.best: Trial | None = None
        self.stopped: str | None = None
        self.sensitivity: list[dict[str, Any]] = []
        # By precision: the fastest candidate over the budget, which layers are kept of.
        self._over: dict[str, Trial] = {}
        # By what was quantised how, in whatever form: the drop that broke the budget.
        self._broken: dict[Candidate, float] = {}
        # By engine, precision and scheme: the least latency over that of fp32 in the same form.
        self._gain: dict[tuple[str, str, str], float] = {}
        # Latency of each candidate over that of the first one timed: a chain of ratios of neighbours.
        self._pace: dict[str, float] = {}
        self._first: float | None = None

    @property
    def _left(self) -> float:
        return self._seconds - (time.monotonic() - self._started)

    @property
    def _time_over(self) -> str:
        return f"the search's {self._seconds:.0f} s were over"

    def _new_folder(self) -> Path:
        return self._scratch / f"candidate-{len(self.trials)}"

    def run(self) -> None:
        """Try the candidates in the target's order."""
        assert isinstance(self._target, Quantising)
        for offer in self._target.lossy_candidates(self._neutral, self._precision):
            trial = Trial(offer.candidate, self._new_folder())
            self.trials.append(trial)
            if offer.refused:
                trial.why = f"skipped: {offer.refused}"
            elif trial.candidate.plain:
                self._try(trial)
            elif self._left <= 0 and self.best is not None:
                self.stopped = self._time_over
                trial.why = "not tried: the search's time was over"
            elif trial.candidate.is_lossy and self._over and self._left < MIXING * self._seconds:
                trial.why = "not tried: the time left is for keeping layers of what broke the budget"
            else:
                self._try(trial)
        self._mix()

    def _mix(self) -> None:
        """Keep layers of what broke the budget, the fastest first, until something is within it."""
        for over in sorted(self._over.values(), key=self._pace_of):
            rest = over.candidate.rest
            holds = any(t.candidate.precision == rest and t.passed and not t.why for t in self.trials)
            if rest in self._over and not holds:
                over.why += f"; to keep layers in {rest} is no help: it breaks the budget too"
            elif self.best is not None and self._pace_of(over) >= self._pace_of(self.best):
                over.why += "; a faster engine keeps the budget"
            elif self._left <= 0:
                self.stopped = self._time_over
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
        target = cast(Ranking, self._target)
        seconds = MOST_RANKING * self._left
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
            if self._left <= 0:
                self.stopped = self._time_over
                break
            trial = Trial(over.candidate.keeping(steps[count - 1].layers), self._new_folder())
            self.trials.append(trial)
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

    def close(self) -> None:
        """Close the engine that is kept open to compare with."""
        if self._incumbent is not None:
            self._incumbent.close()
            self._incumbent = None

    def choice(self) -> Choice:
        """The fastest of those that passed, measured once more beside the plain peers."""
        passed = [trial for trial in self.trials if trial.passed and not trial.why]
        if self.best is None or not passed:
            raise self._nothing()
        if self.stopped and self.stopped.startswith("interrupted"):
            chosen = self.best
            baselines: dict[str, Latency] = {}
            best_baseline = None
        else:
            self._progress.step("measuring the finalists in alternating blocks")
            close = last_field(passed, self._pace_of)
            precisions = ["fp32"] + (
                ["bf16"] if any("bf16" in trial.candidate.name for trial in close) else []
            )
            for trial in passed:
                if trial not in close:
                    slower = self._pace_of(trial) / self._pace_of(self.best)
                    trial.why = f"{slower:.2f} times the latency of the fastest"
            share = WAITING * self._seconds
            self._patience.seconds = share
            finalists, baselines, best_baseline = measure_field(
                self._target, self._neutral, close, precisions, seconds=share, patience=self._patience
            )
            chosen = shipped(finalists)
        if self._patience.said:
            self._progress.note(self._patience.said)
        why = f"the fastest that keeps the budget of {self._budget.max_drop:.2%}"
        explain(self.trials, chosen, why, baselines)
        discard(self.trials, chosen)
        return Choice(chosen, self.trials, baselines, best_baseline, self._record())

    def _record(self) -> dict[str, Any]:
        data = self._budget.search.data
        return {
            "seconds": time.monotonic() - self._started,
            "limit": self._seconds,
            "stopped": self.stopped,
            "disturbed": self._patience.rounds + self._patience.kept,
            "max_drop": self._budget.max_drop,
            "searched_on": data.name,
            "samples": data.samples,
            "calibrated_on": len(self._neutral.calibration),
            "sensitivity": self.sensitivity,
        }

    def _try(self, trial: Trial) -> None:
        """Build, gate, time and score one candidate; `trial.why` says why it lost, if it did."""
        candidate = trial.candidate
        form = self._forms.setdefault((candidate.engine, candidate.form), _Form())
        if hopeless := self._hopeless(candidate):
            trial.why = hopeless
            if candidate.exact == candidate:
                form.skipped = hopeless
            return
        self._progress.step(f"building {candidate.name}")
        try:
            build(self._target, self._neutral, trial, exact=form.exact)
            if trial.gates:
                form.exact = trial.gates[0]
            if trial.passed or self._is_over(trial):
                with self._opened(trial) as engine:
                    self._judge(trial, engine, form)
        except BaseException:
            # Half built or half judged: it must not be taken for one that passed.
            trial.why = trial.why or "not finished"
            raise
        if trial.why and trial not in self._over.values():
            shutil.rmtree(trial.folder, ignore_errors=True)

    def _judge(self, trial: Trial, engine: Engine, form: _Form) -> None:
        candidate = trial.candidate
        self._progress.step(f"timing {candidate.name}")
        ratio = self._time(trial, engine)
        if not candidate.kept:
            form.pace[candidate.precision, candidate.scheme] = self._pace_of(trial)
            if _FP32 in form.pace:
                gain = self._pace_of(trial) / form.pace[_FP32]
                self._gain[_how(candidate)] = min(gain, self._gain.get(_how(candidate), gain))
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
            trial.scores = self._budget.search.scores(engine.run)
            if trial.scores.drop > self._budget.max_drop:
                trial.why = (
                    f"{trial.scores.metric} drops by {trial.scores.drop:.2%}, more than "
                    f"{self._budget.max_drop:.2%}"
                )
                if candidate.is_lossy and not candidate.kept:
                    self._broken[dataclasses.replace(candidate, form="")] = trial.scores.drop
                self._keep_over(trial)
                return
        if ratio < 1:
            self._take(trial)

    def _is_over(self, trial: Trial) -> bool:
        """Whether a candidate means the right thing and loses too much: keeping layers can help."""
        if not trial.candidate.rounds:
            return False
        if trial.passed:
            return trial.scores is not None and trial.scores.drop > self._budget.max_drop
        return len(trial.gates) == 2 and trial.gates[0].passed

    def _is_slow(self, trial: Trial) -> bool:
        return self.best is not None and self._pace_of(trial) > SLOWER * self._pace_of(self.best)

    def _keep_over(self, trial: Trial) -> None:
        """Remember the fastest whole candidate over the budget in each precision."""
        candidate = trial.candidate
        if not candidate.rounds or candidate.kept:
            return
        known = self._over.get(candidate.precision)
        if known is not None:
            if self._pace_of(known) <= self._pace_of(trial):
                return
            shutil.rmtree(known.folder, ignore_errors=True)
        self._over[candidate.precision] = trial

    def _take(self, trial: Trial) -> None:
        self.best = trial
        if self._incumbent is not None:
            self._incumbent.close()
        self._incumbent = self._target.open(trial.folder)

    def _time(self, trial: Trial, engine: Engine) -> float:
        """Latency over the fastest so far's, which runs beside it; below 1 where there is none yet."""
        feeds = self._neutral.examples[0]
        name = trial.candidate.name
        calls = {"it": functools.partial(engine.run, feeds)}
        if self._incumbent is not None:
            calls["best"] = functools.partial(self._incumbent.run, feeds)
        found = measure(calls, blocks=QUICK_BLOCKS, block_seconds=BLOCK_SECONDS, patience=self._patience)
        trial.latency = found["it"]
        mine = _undisturbed(found["it"])
        if self._first is None:
            self._first = mine
        if self._incumbent is None or self.best is None:
            self._pace[name] = mine / self._first
            return 0.0
        ratio = mine / _undisturbed(found["best"])
        self._pace[name] = ratio * self._pace_of(self.best)
        return ratio

    def _pace_of(self, trial: Trial) -> float:
        return self._pace[trial.candidate.name]

    def _hopeless(self, candidate: Candidate) -> str:
        """Why a candidate need not be built; empty where it should be."""
        form = self._forms[candidate.engine, candidate.form]
        if form.exact is not None and not form.exact.passed:
            return f"its form fails the fp32 gate: {form.exact}"
        same = [other for (engine, _), other in self._forms.items() if engine == candidate.engine]
        if candidate.plain or candidate.kept:
            return ""
        if candidate.exact == candidate:
            return self._far_behind(same)
        if form.skipped:
            return f"its form was not tried in fp32: {form.skipped}"
        if broken := self._broken.get(dataclasses.replace(candidate, form="")):
            return f"the same quantisation loses {broken:.2%} in another form"
        # What a quantisation gains in one form, it about gains in another; some forms are for bf16's sake.
        gain = self._gain.get(_how(candidate))
        if candidate.is_lossy and self.best is not None and gain is not None and _FP32 in form.pace:
            expected = gain * form.pace[_FP32] / self._pace_of(self.best)
            if expected > FAR_BEHIND:
                return (
                    f"it takes {gain:.2f} times what fp32 takes in another form, so here about "
                    f"{expected:.2f} times the latency of the fastest so far"
                )
        # What a form is slower by in one precision, it is about slower by in the next one of the same engine.
        for how, pace in reversed(form.pace.items()):
            best = min(other.pace[how] for other in same if how in other.pace)
            precision = how[0]
            allowed = SAME_SLOWER if precision == candidate.precision else FORM_SLOWER
            if pace > allowed * best:
                return (
                    f"in {precision} its form takes {pace / best:.2f} times what another of the engine takes"
                )
        return ""

    def _far_behind(self, forms: list[_Form]) -> str:
        """Why no further form of an engine is tried, by its forms so far; empty where one should be."""
        known = [form.pace[_FP32] for form in forms if _FP32 in form.pace]
        if self.best is None or not known or min(known) <= FAR_BEHIND * self._pace_of(self.best):
            return ""
        behind = min(known) / self._pace_of(self.best)
        return f"another form of the engine takes {behind:.2f} times the latency of the fastest so far"

    @contextlib.contextmanager
    def _opened(self, trial: Trial) -> Iterator[Engine]:
        engine = self._target.open(trial.folder)
        try:
            yield engine
        finally:
            engine.close()

    def _nothing(self) -> EdgecError:
        scored = [trial for trial in self.trials if trial.scores is not None]
        if not scored:
            return no_candidate(self.trials)
        reasons = "; ".join(f"{trial.candidate.name}: {trial.why}" for trial in self.trials if trial.why)
        return NumericsError(
            f"no engine keeps the budget of {self._budget.max_drop:.2%}: {reasons}",
            fix="allow a larger --max-drop, give more calibration data, or take a higher --precision",
        )


def _how(candidate: Candidate) -> tuple[str, str, str]:
    """What a candidate computes in, whatever its form."""
    return candidate.engine, candidate.precision, candidate.scheme


def _first_guess(steps: Sequence[Kept], over: Trial, max_drop: float) -> int:
    """How many steps to try first: by the drop to be got rid of, where it is known."""
    needed = 1 - max_drop / over.scores.drop if over.scores is not None else 0.0
    enough = (count for count, step in enumerate(steps, start=1) if step.relief >= needed)
    return next(enough, len(steps))


def _undisturbed(latency: Latency) -> float:
    """The lower fifth of the calls: whatever else the machine does only ever adds to the others."""
    return float(np.percentile(latency.samples, 20))
