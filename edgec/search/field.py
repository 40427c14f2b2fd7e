"""The last field: engines and plain peers measured side by side until the fastest is known."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from edgec.core.graph import Graph
from edgec.core.timing import SAME, Latency, measure
from edgec.runtime.engine import Engine
from edgec.search.peers import Peer, installed_engines, opened
from edgec.search.trials import Trial
from edgec.targets.base import Target

CLOSE_CALL = 1.1
"""Candidates within this ratio of the fastest are measured again, in more blocks."""

ROUNDS = ((2, math.inf), (2, 1.4), (4, CLOSE_CALL), (5, 1.05))
"""Blocks of each round, and how much longer than the fastest so far its participants may take: what is far
behind need not be known well."""

BLOCK_SECONDS = 0.12

BLOCKS_AGAIN = 8
"""Further blocks of the fastest engine and the fastest peer alone, where they cannot be told apart."""


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


def ranked_finalists(finalists: list[Trial]) -> list[Trial]:
    """Finalists by latency, the fastest first, compared block by block: the machine's drift cancels."""
    first = finalists[0].latency
    assert first is not None
    return sorted(
        finalists, key=lambda trial: trial.latency.ratio_to(first) if trial.latency else float("inf")
    )


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
