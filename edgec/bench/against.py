"""Measuring a bundle against its peers: alternating blocks, one process, ratios of neighbours."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgec.compiler import compile_graph, load
from edgec.core.bundle import MANIFEST, Bundle
from edgec.core.disturbance import Patience
from edgec.core.errors import JobError, RequestError
from edgec.core.graph import Graph
from edgec.core.progress import Progress
from edgec.core.timing import Latency, measure
from edgec.request import Request
from edgec.runtime.session import load as load_session
from edgec.search.peers import opened

BLOCK_SECONDS = 0.3


def bench(
    model: str,
    *,
    against: Sequence[str],
    device: str,
    blocks: int,
    precision: str,
    example: str | Path | None = None,
    inputs: Sequence[str],
    batch: int | None,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Measure a bundle, or a model compiled for the purpose, beside peers on the exporter's graph.

    Args:
        model: a bundle's path, or a model as `compile` takes it.
        against: names of `peers.PEERS`.
        device: only `local`, this machine, can be measured for an x86 bundle.
        blocks: blocks of runs for each engine.
        precision: of the engine to compile; a bundle keeps its own.
        example: an npz file of real inputs of a model.
        inputs: shapes of inputs that a model leaves open.
        batch: batch size of a model.
        seed: seed of everything that is drawn.
        progress: told each step.

    Returns:
        `model`, `device`, `kind` (`measured`), `blocks`, and `entries`, each with `name`, `p50`, `p90` and
        the median's `interval` in milliseconds, `spread` as a share, `edgec_over_it`, the ratio of edgec's
        latency to it, with its `ratio_interval` and the `verdict` on edgec: `faster`, `slower` or `cannot
        be told apart`; the last two are null for edgec itself.

    Raises:
        EdgecError: as `compile`; and where a bundle's source cannot be loaded again for the peers.
    """
    from edgec.devices.host import host_profile

    if device != "local":
        raise RequestError(
            f"an x86 bundle is measured on this machine, not on {device!r}", fix="leave out --device"
        )
    with contextlib.ExitStack() as stack:
        if (Path(model) / MANIFEST).is_file() or model.endswith(".zip"):
            bundle = Bundle.open(model)
            graph = _source_of(bundle, progress) if against else None
        else:
            graph = load(model, example=example, inputs=inputs, batch=batch, seed=seed, progress=progress)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgec-bench-")))
            request = Request.checked("x86", folder / "model.x86.edgec", precision, seed=seed)
            bundle = compile_graph(graph, request, progress=progress)
        session = stack.enter_context(load_session(bundle.path, check=False))
        feeds = bundle.samples()[0][0]
        mine = f"edgec ({bundle.manifest['engine']} {bundle.manifest['precision']})"
        calls: dict[str, Callable[[], object]] = {mine: functools.partial(session.run, feeds)}
        if graph is not None:
            for peer in stack.enter_context(opened(graph, against)):
                calls[peer.label] = functools.partial(peer.run, feeds)
        progress.step("measuring in alternating blocks")
        patience = Patience()
        latencies = measure(calls, blocks=blocks, block_seconds=BLOCK_SECONDS, patience=patience)
        if patience.said:
            progress.note(patience.said)
        return {
            "model": bundle.manifest["model"]["spec"],
            "device": host_profile().name,
            "kind": "measured",
            "blocks": blocks,
            "entries": [
                _entry(name, latency, latencies[mine] if name != mine else None)
                for name, latency in latencies.items()
            ],
        }


def _entry(name: str, latency: Latency, beside: Latency | None) -> dict[str, Any]:
    """One line of the table; `beside` is edgec's latency, None for edgec's own line."""
    ratio = None if beside is None else beside.ratio_interval(latency)
    return {
        "name": name,
        "p50": latency.p50,
        "p90": latency.p90,
        "interval": latency.interval.to_json(),
        "spread": latency.spread,
        "edgec_over_it": 1.0 if beside is None else beside.ratio_to(latency),
        "ratio_interval": None if ratio is None else ratio.to_json(),
        "verdict": None if ratio is None else ratio.verdict,
    }


def _source_of(bundle: Bundle, progress: Progress) -> Graph:
    recorded = bundle.manifest["model"]
    graph = load(
        recorded["spec"],
        batch=bundle.io.inputs[0].shape[0] if isinstance(bundle.io.inputs[0].shape[0], int) else None,
        seed=bundle.manifest["seed"],
        progress=progress,
    )
    if graph.source.sha256 != recorded["sha256"]:
        raise JobError(
            f"{recorded['spec']} is no longer the model that this bundle was made from",
            where=str(bundle.path),
            fix="compile it again, or leave out --against",
        )
    return graph
