"""One candidate engine: built, gated, measured, and what became of it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgec.core.errors import EdgecError, JobError, NumericsError
from edgec.core.graph import Graph
from edgec.core.timing import SAME, Latency, measure
from edgec.judging.accuracy import Scores
from edgec.judging.bisection import first_bad_engine_layer
from edgec.judging.gates import GateResult, check, observe
from edgec.runtime.engine import Engine
from edgec.search.peers import Peer, installed_engines, opened
from edgec.targets.base import Candidate, Target

_logger = logging.getLogger("edgec.search.trials")

CLOSE_CALL = 1.1
"""Candidates within this ratio of the fastest are measured again, in more blocks."""

ROUNDS = ((2, math.inf), (2, 1.4), (4, CLOSE_CALL), (5, 1.05))
"""Blocks of each round, and how much longer than the fastest so far its participants may take: what is far
behind need not be known well."""

BLOCK_SECONDS = 0.12

BLOCKS_AGAIN = 8
"""Further blocks of the fastest engine and the fastest peer alone, where they cannot be told apart."""


@dataclasses.dataclass
class Trial:
    """One candidate and what became of it.

    Attributes:
        candidate: what was built.
        folder: where its engine is.
        gates: its numerics, fp32 first where it ships in less.
        latency: None if it was not measured.
        why: why it was chosen or lost.
        scores: of a lossy candidate on the data that the search looks at; None where it was not scored.
        beside_peers: whether `latency` was measured beside the plain peers, in the same blocks.
    """

    candidate: Candidate
    folder: Path
    gates: list[GateResult] = dataclasses.field(default_factory=list)
    latency: Latency | None = None
    why: str = ""
    scores: Scores | None = None
    beside_peers: bool = False

    @property
    def passed(self) -> bool:
        """Whether it was built and kept every gate."""
        return bool(self.gates) and all(gate.passed for gate in self.gates)

    @property
    def broken_gate(self) -> GateResult | None:
        """The gate that it broke; None where it kept all, or was never built."""
        return next((gate for gate in self.gates if not gate.passed), None)

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
        beside = dict.fromkeys(("interval", "ratio_to_best_baseline", "ratio_interval", "verdict"))
        return {"p50": None, "p90": None, "spread": None, "blocks": [], **beside}
    ratio = None if best is None or best is latency else latency.ratio_interval(best)
    return {
        "p50": latency.p50,
        "p90": latency.p90,
        "spread": latency.spread,
        "blocks": list(latency.blocks),
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


def discard(trials: Sequence[Trial], chosen: Trial) -> None:
    """Remove the folders of all but the chosen."""
    for trial in trials:
        if trial is not chosen:
            shutil.rmtree(trial.folder, ignore_errors=True)


def measure_field(
    target: Target, neutral: Graph, trials: list[Trial], precisions: Sequence[str]
) -> tuple[list[Trial], dict[str, Latency], str | None]:
    """Measure engines and peers in rounds: all in few blocks, those close to the fastest of either in more.

    Args:
        target: the target.
        neutral: the neutral graph.
        trials: candidates that passed; their latencies are set.
        precisions: what the peers compute in.

    Returns:
        the candidates of the last round, the peers' latencies by label, and the fastest peer's label.
    """
    feeds = neutral.examples[0]
    with contextlib.ExitStack() as stack:
        peers = stack.enter_context(_working_peers(neutral, precisions))
        engines: dict[str, Engine] = {}
        for trial in trials:
            engine = target.open(trial.folder)
            stack.callback(engine.close)
            engines[trial.candidate.name] = engine
        calls: dict[str, Callable[[], object]] = {
            name: functools.partial(engine.run, feeds) for name, engine in engines.items()
        }
        calls |= {f"plain {peer.label}": functools.partial(peer.run, feeds) for peer in peers}
        latencies, last = _in_rounds(calls, [list(engines), [f"plain {peer.label}" for peer in peers]])
        _tell_apart(calls, latencies, [list(last & set(engines)), list(last - set(engines))])
    for trial in trials:
        trial.latency, trial.beside_peers = latencies[trial.candidate.name], True
    baselines = {peer.label: latencies[f"plain {peer.label}"] for peer in peers}
    finalists = [trial for trial in trials if trial.candidate.name in last]
    contenders = {name: latency for name, latency in baselines.items() if f"plain {name}" in last}
    return finalists, baselines, min(contenders, key=lambda name: contenders[name].p50, default=None)


def fastest(finalists: list[Trial]) -> Trial:
    """The finalist with the smallest latency, compared block by block: the machine's drift cancels."""
    first = finalists[0].latency
    assert first is not None
    return min(finalists, key=lambda trial: trial.latency.ratio_to(first) if trial.latency else float("inf"))


def explain(trials: list[Trial], chosen: Trial, why: str) -> None:
    """Say why the chosen won and how much slower the others that were measured are."""
    assert chosen.latency is not None
    level = [
        trial.candidate.name
        for trial in trials
        if trial is not chosen
        and trial.latency is not None
        and trial.beside_peers
        and chosen.beside_peers
        and (ratio := trial.latency.ratio_interval(chosen.latency)).is_known
        and ratio.verdict == SAME
    ]
    chosen.why = f"{why}; {', '.join(level)} {SAME} from it" if level else why
    for trial in trials:
        if trial is not chosen and trial.latency is not None and not trial.why:
            if trial.beside_peers and chosen.beside_peers:
                trial.why = _beside_chosen(trial.latency, chosen.latency)
            else:
                trial.why = "slower than the chosen engine when it was tried"


def _beside_chosen(latency: Latency, chosen: Latency) -> str:
    times = f"{latency.ratio_to(chosen):.2f} times the chosen engine's latency"
    ratio = latency.ratio_interval(chosen)
    if not ratio.is_known:
        return f"{times} in the {min(len(latency.blocks), len(chosen.blocks))} blocks that it was given"
    between = f"{times}, between {ratio.low:.2f} and {ratio.high:.2f}"
    return f"{SAME} from the chosen engine: {between}" if ratio.verdict == SAME else between


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


@contextlib.contextmanager
def _working_peers(graph: Graph, precisions: Sequence[str]) -> Iterator[list[Peer]]:
    """The plain engines that take the exporter's graph; one that refuses it is no baseline.

    Each runs in fp32 and, where another precision is asked for, in that one if it has it: a lower
    precision is not to be counted as the compiler's own gain.
    """
    with contextlib.ExitStack() as stack:
        peers: list[Peer] = []
        for name, asked in itertools.product(installed_engines() if graph.exported else (), precisions):
            try:
                [peer] = stack.enter_context(opened(graph, [name], precision=asked))
                peer.run(graph.examples[0])
            except Exception:
                # A peer's refusal is the peer's: it has nothing to compare with here.
                continue
            peers.append(peer)
        yield peers


def _in_rounds(
    calls: Mapping[str, Callable[[], object]], fields: Sequence[Sequence[str]]
) -> tuple[dict[str, Latency], set[str]]:
    """Measure in rounds, and leave out what is far behind the fastest of its field after each.

    All latencies begin with the same blocks, which ran side by side: those tell any two apart.

    Returns:
        the latencies by name, and the names that were in the last round.
    """
    found: dict[str, Latency] = {}
    for blocks, slower in ROUNDS:
        names = [name for field in fields for name in (_near(field, found, slower) if found else field)]
        warmup = 1 if found else 3
        again = measure(
            {name: calls[name] for name in names}, blocks=blocks, block_seconds=BLOCK_SECONDS, warmup=warmup
        )
        found = found | {name: found[name].then(again[name]) if found else again[name] for name in names}
    return found, set(names)


def _tell_apart(
    calls: Mapping[str, Callable[[], object]], found: dict[str, Latency], fields: Sequence[Sequence[str]]
) -> None:
    """Give the fastest of each field more blocks, side by side, where they cannot be told apart.

    Changes `found`. Both ran in every block so far, so their blocks stay pairs.
    """
    if not all(fields):
        return
    first, second = (min(names, key=lambda name: found[name].p50) for names in fields)
    if found[first].ratio_interval(found[second]).verdict == SAME:
        pair = {name: calls[name] for name in (first, second)}
        again = measure(pair, blocks=BLOCKS_AGAIN, block_seconds=BLOCK_SECONDS, warmup=1)
        found.update({name: found[name].then(latency) for name, latency in again.items()})


def _near(names: Sequence[str], latencies: Mapping[str, Latency], slower: float) -> list[str]:
    """Those measured in every block so far whose least block is near the least of all.

    The least, since whatever else the machine does only ever adds.
    """
    most = max(len(latency.blocks) for latency in latencies.values())
    least = {name: min(latencies[name].blocks) for name in names if len(latencies[name].blocks) == most}
    return [name for name in least if least[name] <= slower * min(least.values())]
