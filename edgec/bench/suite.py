"""`bench --suite x86`: edgec's engines of the zoo beside everything that a user would otherwise run.

Each model is prepared once: compiled within a budget, and its peers' files made by the peers' own tools.
What that gave is kept in the user's cache, by model, tool versions and processor; measuring it again is a
matter of seconds. Peers in a lower precision count only where they keep the bound that edgec keeps.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgec.bench.suite_data import DESCRIPTION, data_of
from edgec.compiler import compile_graph, load
from edgec.core.bundle import Bundle
from edgec.core.disturbance import Patience
from edgec.core.errors import EdgecError, RequestError
from edgec.core.graph import Arrays, Graph
from edgec.core.progress import Progress
from edgec.core.timing import Latency, measure
from edgec.devices.cpu import read_processor
from edgec.devices.host import cache_folder, host_profile, measured_rates
from edgec.devices.rates import Rates
from edgec.judging import accuracy
from edgec.judging import budget as budgets
from edgec.judging.accuracy import EvaluationData
from edgec.report.assemble import tool_versions
from edgec.request import Request
from edgec.runtime.session import load as load_session
from edgec.search.peers import model_file, open_file
from edgec.targets.x86.cpu import lacking
from edgec.version import __version__

SUITES = ("x86",)

MODELS = (
    "deit_tiny",
    "deit_small",
    "efficientformer_l1",
    "mobilevit_s",
    "swin_tiny",
    "edgenext_small",
    "poolformer_s12",
    "minilm",
)

TOKEN_MODELS = ("deit_tiny", "deit_small", "vit_shapes", "minilm")
"""What is measured where tokens may be reduced too."""

QUICK_MODELS = ("deit_tiny", "minilm")

PEERS = (("ort", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8"), ("ort", "int8"))

BOUND = 0.99
"""The least mean cosine to the source, on held-out inputs, with which a peer counts."""

MAX_DROP = 0.01
"""What edgec may lose: one point of accuracy, or of the mean cosine where there are no labels."""

SHORT_SEARCH = 20.0
"""Seconds of search where `--quick` finds nothing kept."""

QUICK_BLOCKS = 5

WAITING_SECONDS = 30.0
"""What measuring a model may wait for a quiet machine."""

ENTRY = "entry.json"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One prepared model.

    Attributes:
        folder: holds the bundle and the peers' files.
        fields: what was found out when it was prepared.
    """

    folder: Path
    fields: dict[str, Any]

    @property
    def bundle(self) -> Path:
        """The bundle's folder."""
        return self.folder / "model.edgec"


def run_suite(
    names: Sequence[str],
    *,
    tokens: str,
    quick: bool,
    blocks: int,
    progress: Progress,
    on_row: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Prepare what is not in the cache, and measure each model beside its peers.

    Args:
        names: zoo models; all of the suite where empty.
        tokens: `off` or `auto`.
        quick: two models, and a short search for what is not kept.
        blocks: blocks of runs for each engine.
        progress: told each step.
        on_row: told each model's row as soon as it is measured.

    Returns:
        `suite`, `device`, `rates`, `models` (a row each; see `_row`), `geometric_mean` of the ratios to the
        best peer, `bound`, `data`.

    Raises:
        RequestError: a name is not of the zoo.
    """
    all_names = TOKEN_MODELS if tokens != "off" else MODELS
    chosen = tuple(names) or (QUICK_MODELS if quick else all_names)
    # Measured beside the models: rates kept from a busy moment would make the roofline too low.
    rates = measured_rates(again=not quick).rates
    rows = []
    for name in chosen:
        try:
            entry = prepared(name, tokens=tokens, short=quick, progress=progress)
            rows.append(measured(entry, blocks, rates, progress))
        except RequestError:
            raise
        except EdgecError as error:
            rows.append({"name": name, "error": str(error)})
        if on_row is not None:
            on_row(rows[-1])
    ratios = [row["ratio_to_best_peer"] for row in rows if "error" not in row]
    return {
        "suite": "x86",
        "device": host_profile().name,
        "tokens": tokens,
        "blocks": blocks,
        "bound": BOUND,
        "data": DESCRIPTION,
        "rates_gops": {
            precision: best.gflops
            for precision in ("fp32", "bf16", "int8")
            if (best := rates.best(precision)) is not None
        },
        "models": rows,
        "geometric_mean": math.exp(float(np.mean(np.log(ratios)))) if ratios else None,
    }


def prepared(name: str, *, tokens: str, short: bool, progress: Progress) -> Entry:
    """A model's entry in the cache, made now where there is none for these versions and this processor.

    Args:
        name: in the zoo.
        tokens: `off` or `auto`.
        short: whether to search only shortly where nothing is kept; what a short search finds is kept apart.
        progress: told each step; says when nothing was kept.

    Raises:
        EdgecError: the model cannot be compiled.
    """
    whole = _folder(name, tokens, "")
    for folder in (whole, _folder(name, tokens, "short")) if short else (whole,):
        if (folder / ENTRY).is_file():
            return Entry(folder, json.loads((folder / ENTRY).read_text(encoding="utf-8")))
    target = _folder(name, tokens, "short") if short else whole
    if short:
        progress.note(
            f"{name}: no search is kept in {target.parent}; searching for {SHORT_SEARCH:.0f} s "
            "(edgec bench --suite x86 searches in full and keeps what it finds)"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="preparing-", dir=target.parent) as scratch:
        fields = _prepare(name, tokens, short, Path(scratch), progress)
        (Path(scratch) / ENTRY).write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(scratch, target)
    return Entry(target, fields)


def _folder(name: str, tokens: str, kind: str) -> Path:
    """Where an entry is kept: its name and a hash of all that its engines depend on."""
    identity = json.dumps(
        [name, tokens, __version__, tool_versions(), dataclasses.asdict(read_processor())], sort_keys=True
    )
    parts = [name, *([f"tokens-{tokens}"] if tokens != "off" else []), *([kind] if kind else [])]
    return (
        cache_folder() / "x86-suite" / "-".join([*parts, hashlib.sha256(identity.encode()).hexdigest()[:12]])
    )


def _prepare(name: str, tokens: str, short: bool, folder: Path, progress: Progress) -> dict[str, Any]:
    graph = load(f"zoo:{name}", progress=progress)
    seen, held_out = data_of(graph, name, "calibration"), data_of(graph, name, "held out")
    request = Request.checked("x86", folder / "model.edgec", "auto", max_drop=MAX_DROP, tokens=tokens)
    if short:
        request = dataclasses.replace(request, search_seconds=SHORT_SEARCH)
    return {**prepare(name, graph, seen, held_out, request, progress), "short_search": short}


def prepare(
    name: str,
    graph: Graph,
    seen: EvaluationData,
    held_out: EvaluationData,
    request: Request,
    progress: Progress,
) -> dict[str, Any]:
    """Compile a model within a budget, and make its peers' files beside the bundle.

    Args:
        name: what the rows call it.
        graph: the loaded graph.
        seen: what the search and calibration look at.
        held_out: what the result and the peers are judged on.
        request: its output is `model.edgec` in the entry's folder.
        progress: told each step.

    Returns:
        the fields of the entry.

    Raises:
        EdgecError: the model cannot be compiled.
    """
    assert request.output is not None
    folder = request.output.parent
    graph = dataclasses.replace(graph, calibration=budgets.calibration_feeds(graph, seen))
    judge = budgets.Judge(graph, dataclasses.replace(held_out.first(64), labels=None))
    with tempfile.TemporaryDirectory(prefix="edgec-suite-") as scratch:
        calib = _saved(Path(scratch) / "calibration.npz", seen)
        evaluation = _saved(Path(scratch) / "held_out.npz", held_out)
        bundle = compile_graph(graph, request, calib=calib, eval_data=evaluation, progress=progress)
    with load_session(bundle.path, check=False) as session:
        cosine = judge.scores(session.run).engine
    peers = {}
    for engine, precision in PEERS:
        progress.step(f"{name}: {engine} {precision}")
        peers[f"{engine} {precision}"] = _prepare_peer(graph, engine, precision, folder, judge)
    report = bundle.report()
    entry = next(entry for entry in report["latency"]["entries"] if entry["role"] == "chosen")
    return {
        "name": name,
        "model_sha256": graph.source.sha256,
        "weights": graph.source.weights,
        "prepared_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "engine": entry["name"],
        "precision": report["precision"],
        "accuracy": report["accuracy"],
        "cosine": cosine,
        "macs": report["model"]["macs"],
        "parameters": report["model"]["parameters"],
        "tokens": None if report["tokens"] is None else report["tokens"]["name"],
        "work": 1.0 if report["tokens"] is None else report["tokens"]["work"],
        "search_seconds": None if report["search"] is None else report["search"]["seconds"],
        "peers": peers,
    }


def _prepare_peer(
    graph: Graph, engine: str, precision: str, folder: Path, judge: budgets.Judge
) -> dict[str, Any]:
    """A peer's file, relative to the entry, and how near it is to the source; `error` where it cannot run.

    Asked for bf16 on a processor that has none, OpenVINO computes in fp32 and says nothing: no other peer.
    """
    if precision == "bf16" and (why := lacking(engine, precision)):
        return {"error": why}
    kept = folder / "peers" / (f"{engine}-int8" if precision == "int8" else "exported")
    try:
        if not kept.exists():
            kept.mkdir(parents=True)
            path = model_file(graph, engine, precision, kept)
            if precision != "int8":
                # The exporter's own graph; its weights may lie in files beside it.
                for file in path.parent.iterdir():
                    if file.is_file():
                        shutil.copyfile(file, kept / file.name)
            (kept / "name").write_text(path.name, encoding="utf-8")
        path = kept / (kept / "name").read_text(encoding="utf-8")
        peer = open_file(engine, precision, path)
        cosine = judge.scores(peer.run).engine
    except Exception as error:
        # A peer's tool raises whatever it raises: it has no figure then, and the reason is shown.
        return {"error": str(error).splitlines()[0] if str(error) else type(error).__name__}
    return {"path": str(path.relative_to(folder)), "cosine": cosine, "counts": cosine >= BOUND}


def _mask(bundle: Bundle) -> str | None:
    """The name of the input that says which tokens are real; None where there is none."""
    return next((spec.name for spec in bundle.io.inputs if spec.semantics == "mask"), None)


def unpadded(feeds: Arrays, mask: str) -> Arrays:
    """The same inputs with every token real: the real ones over and over.

    An engine that leaves padding out has nothing to leave out then.
    """
    rows, columns = feeds[mask].shape
    real = [np.flatnonzero(feeds[mask][row]) for row in range(rows)]
    places = np.stack([np.resize(each if len(each) else np.arange(columns), columns) for each in real])
    return {
        name: np.take_along_axis(array, places, axis=1) if array.shape == (rows, columns) else array
        for name, array in feeds.items()
    }


def measured(entry: Entry, blocks: int, rates: Rates, progress: Progress) -> dict[str, Any]:
    """Measure an entry: edgec's engine and every peer, in alternating blocks of one process.

    Where a mask says that some tokens are padding, all are measured once more with every token real.
    """
    fields = entry.fields
    progress.step(f"measuring {fields['name']}")
    patience = Patience(WAITING_SECONDS)
    usable = {label: peer for label, peer in fields["peers"].items() if "path" in peer}
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(load_session(entry.bundle, check=False))
        bundle = Bundle.open(entry.bundle, check=False)
        runs: dict[str, Callable[[Arrays], object]] = {"edgec": session.run}
        for label, peer in usable.items():
            engine, precision = label.split()
            runs[label] = open_file(engine, precision, entry.folder / peer["path"]).run

        def latencies(feeds: Arrays) -> dict[str, Latency]:
            calls = {label: functools.partial(run, feeds) for label, run in runs.items()}
            return measure(calls, blocks=blocks, block_seconds=0.2, patience=patience)

        feeds, mask = bundle.samples()[0][0], _mask(bundle)
        # What a mask says is real: an engine that leaves padding out is as fast as this share allows.
        valid = None if mask is None else float(np.mean(feeds[mask] != 0))
        row = _row({**fields, "valid_tokens": valid}, latencies(feeds), rates)
        if mask is not None and valid is not None and valid < 1:
            full = _row({**fields, "valid_tokens": 1.0}, latencies(unpadded(feeds, mask)), rates)
            row["unpadded"] = {
                key: full[key] for key in ("edgec_ms", "peers_ms", "best_peer", "ratio_to_best_peer")
            }
        if patience.said:
            progress.note(f"{fields['name']}: {patience.said}")
        return {**row, "disturbed": patience.rounds + patience.kept}


def _row(fields: Mapping[str, Any], latencies: Mapping[str, Latency], rates: Rates) -> dict[str, Any]:
    """One model's figures: milliseconds, ratios of blocks that ran side by side, shares of the roofline."""
    mine = latencies["edgec"]
    peers = {label: latency for label, latency in latencies.items() if label != "edgec"}
    counted = [label for label in peers if fields["peers"][label]["counts"]]
    best = min(counted, key=lambda label: peers[label].p50)
    limit = {
        label: roofline_ms(fields, label.split()[1], rates) if label != "edgec" else 0.0 for label in peers
    }
    # Padding need not be computed, whether an engine leaves it out or not.
    needed = fields["work"] * (fields.get("valid_tokens") or 1.0)
    own = roofline_ms(fields, fields["precision"], rates) * needed
    return {
        "name": fields["name"],
        "edgec_ms": mine.p50,
        "engine": fields["engine"],
        "tokens": fields["tokens"],
        "spread": mine.spread,
        "peers_ms": {label: latency.p50 for label, latency in peers.items()},
        "peers_spread": {label: latency.spread for label, latency in peers.items()},
        "peers_not_counted": {
            label: peer.get("error") or f"cosine {peer['cosine']:.4f} to the source"
            for label, peer in fields["peers"].items()
            if not peer.get("counts")
        },
        "best_peer": best,
        "ratio_to_best_peer": mine.ratio_to(peers[best]),
        "ratio_interval": mine.ratio_interval(peers[best]).to_json(),
        "verdict": mine.ratio_interval(peers[best]).verdict,
        "roofline_ms": own,
        "roofline_share": own / mine.p50,
        "peers_roofline_share": {label: limit[label] / latency.p50 for label, latency in peers.items()},
        "cosine": fields["cosine"],
        "valid_tokens": fields.get("valid_tokens"),
        "unpadded": None,
        "accuracy": fields["accuracy"],
        "search_seconds": fields["search_seconds"],
        "prepared_at": fields["prepared_at"],
    }


def roofline_ms(fields: Mapping[str, Any], precision: str, rates: Rates) -> float:
    """The least time that this machine's measured rates allow one run, in milliseconds.

    The larger of all multiply-accumulates at the rate of a large product in the precision, and of reading
    every weight once at the rate of a copy (Williams et al., 2009); activations are taken to stay in caches.
    """
    best = rates.best(precision) or rates.best("fp32")
    assert best is not None
    weight_bytes = fields["parameters"] * {"fp32": 4, "bf16": 2, "int8": 1}[precision]
    return max(2 * fields["macs"] / best.gflops / 1e6, weight_bytes / rates.copy_gbps / 1e6)


def _saved(path: Path, data: EvaluationData) -> Path:
    labels = {} if data.labels is None else {accuracy.LABELS: data.labels}
    np.savez(path, **data.inputs, **labels)  # type: ignore[arg-type]
    return path
