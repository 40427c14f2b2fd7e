"""The last field: engines and plain peers measured side by side until the fastest is known.

An engine that loses more than another has to be faster than it, by more than the noise: int8 than bf16, and
bf16 than fp32. Where it cannot be told apart, the exact one ships.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from edgec.core.disturbance import Patience
from edgec.core.graph import Graph
from edgec.core.timing import SAME, Interval, Latency, measure
from edgec.runtime.engine import Engine
from edgec.search.peers import Peer, installed_engines, opened
from edgec.search.trials import Trial
from edgec.targets.base import Candidate, Target

CLOSE_CALL = 1.1
"""Candidates within this ratio of the fastest are measured again, in more blocks."""

ROUNDS = ((2, math.inf), (2, 1.4), (4, CLOSE_CALL), (5, 1.05))
"""Blocks of each round, and how much longer than the fastest so far its participants may take: what is far
behind need not be known well."""

BLOCK_SECONDS = 0.12

BLOCKS_AGAIN = 4
"""Further blocks at a time, of what cannot be told apart."""

MOST_BLOCKS = 45
"""Blocks after which what cannot be told apart is called so."""

SECONDS = 5.0
"""What telling apart may take, where nothing is said."""

NEGLIGIBLE = 0.015
"""Two latencies whose ratio is certainly within this of 1 need not be told apart."""


def last_field(passed: Sequence[Trial], pace: Callable[[Trial], float]) -> list[Trial]:
    """Who is measured last: those near the fastest, the fastest of each loss, and who must be heard again.

    Those are the plain ones, which a user would have run, and what was timed while the machine was disturbed.

    Args:
        passed: candidates that keep their gates and the budget, at least one.
        pace: the latency of each, in any unit, as it was known when it was tried.

    Returns:
        some of `passed`, in their order; what is not among them was clearly slower.
    """
    near = CLOSE_CALL * min(pace(trial) for trial in passed)
    first = [min(each, key=pace) for each in _by_loss(passed)]
    return [
        trial
        for trial in passed
        if pace(trial) <= near or trial in first or trial.candidate.plain or _was_disturbed(trial)
    ]


def _was_disturbed(trial: Trial) -> bool:
    return trial.latency is not None and trial.latency.disturbed > 0


def measure_field(
    target: Target,
    neutral: Graph,
    trials: list[Trial],
    precisions: Sequence[str],
    *,
    seconds: float = SECONDS,
    patience: Patience | None = None,
) -> tuple[list[Trial], dict[str, Latency], str | None]:
    """Measure engines and peers in rounds: all in few blocks, those close to the fastest of a kind in more.

    The kinds are the losses (fp32, what rounds, what a budget judges) and the peers: the fastest of each is
    in every round. Last come blocks of these alone, until all are told apart from what would ship, or a
    limit ends it.

    Args:
        target: the target.
        neutral: the neutral graph.
        trials: candidates that passed; their latencies are set.
        precisions: what the peers compute in.
        seconds: how long telling apart may take.
        patience: how long to wait for a quiet machine.

    Returns:
        the candidates of the last round, the peers' latencies by label, and the fastest peer's label.
    """
    feeds = neutral.examples[0]
    patience = Patience() if patience is None else patience
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
        kinds = [[trial.candidate.name for trial in each] for each in _by_loss(trials)]
        plain = [f"plain {peer.label}" for peer in peers]
        latencies, last = _in_rounds(calls, [*kinds, plain], patience)
        _tell_apart(
            calls,
            latencies,
            [[name for name in names if name in last] for names in (*kinds, plain)],
            time.monotonic() + seconds,
            patience,
        )
    for trial in trials:
        trial.latency, trial.beside_peers = latencies[trial.candidate.name], True
    baselines = {peer.label: latencies[f"plain {peer.label}"] for peer in peers}
    finalists = [trial for trial in trials if trial.candidate.name in last]
    contenders = {name: latency for name, latency in baselines.items() if f"plain {name}" in last}
    return finalists, baselines, min(contenders, key=lambda name: contenders[name].p50, default=None)


def loss(candidate: Candidate) -> int:
    """What a candidate loses, as a rank: 0 in fp32, 1 where it only rounds, 2 where a budget judges it."""
    if candidate.is_lossy:
        return 2
    return 0 if candidate.precision == "fp32" else 1


def shipped(finalists: Sequence[Trial]) -> Trial:
    """The fastest finalist by the last measurement that every one that loses less is certainly slower than.

    Args:
        finalists: what `measure_field` gave, at least one; the fastest of each loss ran in every block.
    """
    first, *lossier = (fastest(each) for each in _by_loss(finalists))
    chosen = first
    for trial in lossier:
        assert trial.latency is not None
        assert chosen.latency is not None
        if trial.latency.ratio_interval(chosen.latency).verdict == "faster":
            chosen = trial
    return chosen


def best_first(finalists: Sequence[Trial]) -> Iterator[Trial]:
    """The finalist to ship, then what would ship without it, and so on."""
    left = list(finalists)
    while left:
        best = shipped(left)
        left.remove(best)
        yield best


def fastest(finalists: Sequence[Trial]) -> Trial:
    """The finalist with the smallest latency, compared block by block: the machine's drift cancels."""
    first = finalists[0].latency
    assert first is not None
    return min(finalists, key=lambda trial: trial.latency.ratio_to(first) if trial.latency else float("inf"))


def _by_loss(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Trials by how much they lose, the least first; only what there is."""
    found: dict[int, list[Trial]] = {}
    for trial in trials:
        found.setdefault(loss(trial.candidate), []).append(trial)
    return [found[rank] for rank in sorted(found)]


def explain(
    trials: list[Trial], chosen: Trial, why: str, baselines: Mapping[str, Latency] | None = None
) -> None:
    """Say why the chosen won and how much slower the others that were measured are.

    Args:
        trials: all that were tried; those without a `why` get one.
        chosen: the winner.
        why: why it won.
        baselines: the plain peers' latencies by label; one that is certainly faster is told.
    """
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
    for label, latency in (baselines or {}).items():
        ratio = latency.ratio_interval(chosen.latency)
        if ratio.verdict == "faster":
            chosen.why += f"; plain {label} takes {ratio.low:.2f} to {ratio.high:.2f} of its latency"
    for trial in trials:
        if trial is not chosen and trial.latency is not None and not trial.why:
            if trial.beside_peers and chosen.beside_peers:
                trial.why = _beside_chosen(trial.latency, chosen.latency)
                if loss(trial.candidate) > loss(chosen.candidate) and trial.candidate.name in level:
                    trial.why += "; it loses more, so it had to be faster"
            else:
                trial.why = "slower than the chosen engine when it was tried"


def _beside_chosen(latency: Latency, chosen: Latency) -> str:
    times = f"{latency.ratio_to(chosen):.2f} times the chosen engine's latency"
    ratio = latency.ratio_interval(chosen)
    if not ratio.is_known:
        return f"{times} in the {min(len(latency.blocks), len(chosen.blocks))} blocks that it was given"
    between = f"{times}, between {ratio.low:.2f} and {ratio.high:.2f}"
    return f"{SAME} from the chosen engine: {between}" if ratio.verdict == SAME else between


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
    calls: Mapping[str, Callable[[], object]], fields: Sequence[Sequence[str]], patience: Patience
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
            {name: calls[name] for name in names},
            blocks=blocks,
            block_seconds=BLOCK_SECONDS,
            warmup=warmup,
            patience=patience,
        )
        found = found | {name: found[name].then(again[name]) if found else again[name] for name in names}
    return found, set(names)


def _tell_apart(
    calls: Mapping[str, Callable[[], object]],
    found: dict[str, Latency],
    fields: Sequence[Sequence[str]],
    end: float,
    patience: Patience,
) -> None:
    """Give the fastest of each field more blocks, side by side, until their intervals part.

    Changes `found`. All ran in every block so far, so their blocks stay pairs.

    Args:
        calls: what to run, by name.
        found: the latencies so far.
        fields: names by kind; an empty one has nobody to tell apart.
        end: of `time.monotonic`, when to stop.
        patience: how long to wait for a quiet machine.
    """
    names = [min(field, key=lambda name: found[name].p50) for field in fields if field]
    while (
        _are_level([found[name] for name in names])
        and len(found[names[0]].blocks) + BLOCKS_AGAIN <= MOST_BLOCKS
        and time.monotonic() < end
    ):
        again = measure(
            {name: calls[name] for name in names},
            blocks=BLOCKS_AGAIN,
            block_seconds=BLOCK_SECONDS,
            warmup=1,
            patience=patience,
        )
        found.update({name: found[name].then(latency) for name, latency in again.items()})


def _are_level(latencies: Sequence[Latency]) -> bool:
    """Whether any of the others cannot be told apart from the fastest, and may differ by something."""
    first = min(latencies, key=lambda latency: latency.p50)
    ratios = [latency.ratio_interval(first) for latency in latencies if latency is not first]
    return any(ratio.verdict == SAME and not _is_negligible(ratio) for ratio in ratios)


def _is_negligible(ratio: Interval) -> bool:
    return ratio.low >= 1 - NEGLIGIBLE and ratio.high <= 1 + NEGLIGIBLE


def _near(names: Sequence[str], latencies: Mapping[str, Latency], slower: float) -> list[str]:
    """Those measured in every block so far whose least block is near the least of all.

    The least, since whatever else the machine does only ever adds.
    """
    most = max(len(latency.blocks) for latency in latencies.values())
    least = {name: min(latencies[name].blocks) for name in names if len(latencies[name].blocks) == most}
    return [name for name in least if least[name] <= slower * min(least.values())]
