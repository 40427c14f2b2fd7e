"""One candidate engine: built, gated, measured, and what became of it."""

from __future__ import annotations

import dataclasses
import logging
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgec.core.errors import EdgecError, JobError, NumericsError
from edgec.core.graph import Graph
from edgec.core.timing import Latency
from edgec.judging.accuracy import Scores
from edgec.judging.bisection import first_bad_engine_layer
from edgec.judging.gates import GateResult, check, observe
from edgec.search.plan import Plan
from edgec.targets.base import Candidate, Target

_logger = logging.getLogger("edgec.search.trials")


@dataclasses.dataclass(eq=False)
class Trial:
    """One engine and what became of it: the only record of what a search tries.

    Attributes:
        candidate: what was built.
        folder: where its engine is.
        plan: what was taken away of the network.
        gates: its numerics, fp32 first where it ships in less.
        latency: None if it was not measured.
        ratio: its latency over that of the engine it was measured beside.
        milliseconds: its latency as `ratio` tells it, on the scale of the engine that nothing was taken of:
            ratios are steadier than times.
        work: multiply-accumulates over those of the network that nothing was taken of.
        degradation: how far its outputs are from the source's, one minus the mean cosine.
        why: why it was chosen or lost.
        scores: on the data that the search looks at; None where it was not scored.
        held_out: on the data that is held out; None where it was not looked at.
        beside_peers: whether `latency` was measured beside the plain peers, in the same blocks.
    """

    candidate: Candidate
    folder: Path
    plan: Plan = dataclasses.field(default_factory=Plan)
    gates: list[GateResult] = dataclasses.field(default_factory=list)
    latency: Latency | None = None
    ratio: float = math.nan
    milliseconds: float = math.nan
    work: float = math.nan
    degradation: float = math.nan
    why: str = ""
    scores: Scores | None = None
    held_out: Scores | None = None
    beside_peers: bool = False

    @property
    def passed(self) -> bool:
        """Whether it was built and kept every gate."""
        return bool(self.gates) and all(gate.passed for gate in self.gates)

    @property
    def broken_gate(self) -> GateResult | None:
        """The gate that it broke; None where it kept all, or was never built."""
        return next((gate for gate in self.gates if not gate.passed), None)

    @property
    def score(self) -> float:
        """The score of one that was scored."""
        assert self.scores is not None
        return self.scores.engine

    @property
    def drop(self) -> float:
        """The drop of one that was scored."""
        assert self.scores is not None
        return self.scores.drop

    def beats(self, other: Trial) -> bool:
        """Whether it is at least as good in latency, score and degradation, and better in one."""
        mine = (self.milliseconds, -self.score, self.degradation)
        its = (other.milliseconds, -other.score, other.degradation)
        return all(one <= two for one, two in zip(mine, its, strict=True)) and mine != its

    def explain_gate(self) -> None:
        """Say in `why` which gate it broke."""
        if self.broken_gate is not None:
            self.why = f"failed its gate: {self.broken_gate}"


@dataclasses.dataclass
class Choice:
    """The chosen engine and the whole field it won against.

    Attributes:
        chosen: the winner; its folder holds the engine.
        trials: every candidate, in the order they were tried.
        baselines: latency of each plain peer on the exporter's graph, by its label (`ort fp32`).
        best_baseline: label of the fastest plain peer; None where none could run.
        search: how the search within a budget went; None where there was none.
    """

    chosen: Trial
    trials: list[Trial]
    baselines: dict[str, Latency]
    best_baseline: str | None
    search: dict[str, Any] | None = None

    @property
    def ratio(self) -> float | None:
        """The chosen engine's latency over the best plain peer's."""
        if self.best_baseline is None or self.chosen.latency is None:
            return None
        return self.chosen.latency.ratio_to(self.baselines[self.best_baseline])

    def entries(self) -> list[dict[str, Any]]:
        """Every measured line of the report's latency table."""
        best = self.baselines.get(self.best_baseline or "")
        lines = []
        for trial in self.trials:
            lines.append(
                {
                    "name": trial.candidate.name,
                    "role": "chosen" if trial is self.chosen else "candidate",
                    "engine": trial.candidate.engine,
                    "precision": trial.candidate.precision,
                    "form": trial.candidate.form,
                    "passed": trial.passed,
                    "why": trial.why,
                    "drop": None if trial.scores is None else trial.scores.drop,
                    **_figures(trial.latency, best if trial.beside_peers else None),
                }
            )
        for label, latency in self.baselines.items():
            engine, precision = label.split()
            lines.append(
                {
                    "name": f"plain {label}",
                    "role": "baseline",
                    "engine": engine,
                    "precision": precision,
                    "form": "exporter's graph",
                    "passed": True,
                    "why": "what a user would otherwise run",
                    "drop": None,
                    **_figures(latency, best),
                }
            )
        return lines


def _figures(latency: Latency | None, best: Latency | None) -> dict[str, Any]:
    if latency is None:
        figures = ("p50", "p90", "p99", "histogram", "spread")
        beside = ("interval", "ratio_to_best_baseline", "ratio_interval", "verdict")
        return {**dict.fromkeys((*figures, *beside)), "blocks": [], "disturbed": 0}
    ratio = None if best is None or best is latency else latency.ratio_interval(best)
    return {
        "p50": latency.p50,
        "p90": latency.p90,
        "p99": latency.p99,
        "histogram": latency.histogram(),
        "spread": latency.spread,
        "blocks": list(latency.blocks),
        "disturbed": latency.disturbed,
        "interval": latency.interval.to_json(),
        "ratio_to_best_baseline": None if best is None else latency.ratio_to(best),
        "ratio_interval": None if ratio is None else ratio.to_json(),
        "verdict": None if ratio is None else ratio.verdict,
    }


def build(target: Target, neutral: Graph, trial: Trial, *, exact: GateResult | None = None) -> None:
    """Build a candidate into its folder and gate it, the same form in fp32 first.

    Failures are told in `trial.why`; the folder then holds nothing of use.

    Args:
        target: the target.
        neutral: the neutral graph, with the source's own outputs.
        trial: the candidate; its gates and `why` are set.
        exact: the gate of the same engine and form in fp32, where it was passed before.
    """
    candidate = trial.candidate
    try:
        if candidate.exact != candidate:
            trial.gates.append(exact or _gate(target, neutral, candidate.exact, trial.folder))
            if exact is None:
                shutil.rmtree(trial.folder)
        if all(gate.passed for gate in trial.gates):
            trial.gates.append(_gate(target, neutral, candidate, trial.folder))
        trial.explain_gate()
    except EdgecError as error:
        trial.gates.clear()
        trial.why = f"could not be built: {error}"


def _gate(target: Target, neutral: Graph, candidate: Candidate, folder: Path) -> GateResult:
    folder.mkdir()
    target.build(target.lower(neutral, candidate), candidate, folder)
    engine = target.open(folder)
    try:
        if candidate.is_lossy:
            return observe(neutral, engine.run, stage=candidate.name)
        return check(neutral, engine.run, stage=candidate.name, precision=candidate.precision)
    finally:
        engine.close()


def blame_gates(target: Target, neutral: Graph, trials: Sequence[Trial]) -> None:
    """Say of the first gate broken in each precision which layer goes wrong first, and what helps.

    Others of the precision break it for the same reason more often than not, and looking takes two builds.
    """
    looked: set[str] = set()
    for trial in trials:
        broken = trial.broken_gate
        if broken is None or trial.candidate.is_lossy or trial.candidate.precision in looked:
            continue
        looked.add(trial.candidate.precision)
        failed = trial.candidate.exact if trial.gates.index(broken) == 0 else trial.candidate
        try:
            blame = first_bad_engine_layer(target, neutral, failed, broken.gate)
        except Exception as error:  # builders raise whatever they trip over; the gate's verdict stands
            _logger.debug("no layer could be blamed", exc_info=error)
            continue
        trial.gates[trial.gates.index(broken)] = dataclasses.replace(broken, blame=blame)
        trial.explain_gate()


def no_candidate(trials: list[Trial]) -> EdgecError:
    """What to say where no candidate passed."""
    reasons = "; ".join(f"{trial.candidate.name} {trial.why}" for trial in trials)
    if any(trial.gates for trial in trials):
        blames = [trial.broken_gate.blame for trial in trials if trial.broken_gate is not None]
        fix = next((blame.fix for blame in blames if blame is not None and blame.fix), None)
        gates = [trial.broken_gate.to_json() for trial in trials if trial.broken_gate is not None]
        return NumericsError(
            f"no engine computes what the source computes: {reasons}", fix=fix, details=gates
        )
    return JobError(f"no engine could be built: {reasons}")
