"""The report, the manifest and the summary of a compile, from what its steps found."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.core import bundle as bundles
from edgec.core.bundle import Bundle
from edgec.core.graph import Graph
from edgec.core.greedy import Greedy
from edgec.core.json_file import to_bytes
from edgec.devices.known_wrong import Finding
from edgec.judging.accuracy import Scores
from edgec.judging.runtime_warnings import to_json
from edgec.passes.inspection import Inspection, inspect_model
from edgec.passes.manager import PassReport
from edgec.report.schema import LATENCY_FIGURES
from edgec.request import Request
from edgec.runtime.engines import kind_of, what_runs
from edgec.search.axes.table import AXES
from edgec.search.shipping import Reduction
from edgec.search.trials import Choice
from edgec.targets.base import FallsBack
from edgec.version import __version__

if TYPE_CHECKING:
    from edgec.compiler import Neutral

_TOOLS = (
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "coremltools",
    "numpy",
    "torch",
    "timm",
    "transformers",
)


def report_of(
    graph: Graph,
    neutral: Neutral,
    choice: Choice,
    request: Request,
    *,
    findings: list[Finding],
    scores: Scores | None,
    layers: list[dict[str, Any]],
    reduction: Reduction | None,
    branches: dict[str, Any] | None,
    greedy: Greedy | None = None,
) -> dict[str, Any]:
    """`report.json` of a compile (`edgec.report.schema.Report`).

    Args:
        graph: the loaded graph.
        neutral: its neutral graph and how it came about.
        choice: the chosen engine and the field it won against.
        request: what was asked.
        findings: what is known to be wrong of the engine's runtime.
        scores: of the engine on held-out data; None where there is none.
        layers: the engine's times by layer.
        reduction: what was taken away; None where nothing was asked.
        branches: latency by branch; None for a network without.
        greedy: whose tokens a decoder's engine chooses; None for what is no decoder.
    """
    from edgec.devices.host import host_profile

    inspection: Inspection = inspect_model(neutral.graph.model)
    candidate = choice.chosen.candidate
    steps = [*neutral.reports, *(() if reduction is None else reduction.reduced.reports)]
    device = host_profile().to_dict()
    return {
        "schema": bundles.SCHEMA,
        "edgec": __version__,
        "command": _command(graph, request),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": {
            **dataclasses.asdict(graph.source),
            "parameters": inspection.parameters,
            "macs": inspection.macs,
            "inputs": [dataclasses.asdict(spec) for spec in graph.inputs],
            "outputs": [dataclasses.asdict(spec) for spec in graph.outputs],
        },
        "target": request.target.name,
        "device": device,
        "engine": candidate.engine,
        "precision": candidate.precision,
        "form": candidate.form,
        "seed": request.seed,
        "inputs_drawn": [dataclasses.asdict(item) for item in graph.drawn],
        "ranges_from": graph.ranges_from,
        "branches": branches,
        "numerics": {
            "kind": kind_of(candidate.engine),
            "ran": what_runs(candidate.engine),
            "gates": [gate.to_json() for gate in (neutral.gate, *choice.chosen.gates)],
        },
        **({} if greedy is None else {"greedy": greedy.to_json()}),
        "latency": {
            "measured": choice.chosen.latency is not None,
            "device": device["name"] if choice.chosen.latency else "",
            "blocks": len(choice.chosen.latency.blocks) if choice.chosen.latency else 0,
            "entries": choice.entries(),
            "predicted": [],
        },
        "accuracy": None if scores is None else {**scores.to_json(), "kind": kind_of(candidate.engine)},
        "layers": layers,
        "passes": [_pass_json(report) for report in steps],
        "attention": [dataclasses.asdict(site) for site in inspection.attention],
        "search": choice.search,
        "fallbacks": _fallbacks(neutral, choice, request, reduction),
        "known_wrong": to_json(findings),
        **{axis: None if reduction is None else reduction.sections.get(axis) for axis in AXES},
        "tools": tool_versions(),
        "files": {},
    }


def _fallbacks(
    neutral: Neutral, choice: Choice, request: Request, reduction: Reduction | None
) -> list[dict[str, str]]:
    """What the target had to do without."""
    if not isinstance(request.target, FallsBack):
        return []
    graph = neutral.graph if reduction is None else reduction.reduced.graph
    sections = {} if reduction is None else reduction.sections
    beside = next((section["baseline"] for section in sections.values()), None)
    measured = f"measured: {beside['ratio']:.2f} times the same engine with all tokens" if beside else ""
    found = request.target.fallbacks(graph, choice.chosen.candidate, measured)
    return [dataclasses.asdict(fallback) for fallback in found]


def _pass_json(report: PassReport) -> dict[str, Any]:
    fields = dataclasses.asdict(report)
    del fields["seconds"]
    return fields


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write `report.json` and `report.html` into a bundle, with the hash of every other file of it."""
    from edgec.report.render import render

    names = (file for file in folder.rglob("*") if file.is_file())
    report["files"] = {
        file.relative_to(folder).as_posix(): bundles.file_sha256(file) for file in sorted(names)
    }
    bundles.write_json(folder / bundles.REPORT_JSON, report)
    (folder / bundles.REPORT_HTML).write_bytes(to_bytes(render(report)))


def manifest_of(report: Mapping[str, Any], graph: Graph) -> dict[str, Any]:
    """`manifest.json`: what the report says, less the long tables."""
    kept = ("edgec", "model", "target", "device", "engine", "precision", "form", "seed", "accuracy")
    return {
        **{key: report[key] for key in kept},
        "tools": report["tools"],
        "passes": [{"name": step["name"], "matched": step["matched"]} for step in report["passes"]],
        "numerics": report["numerics"],
        "latency": {
            "measured": report["latency"]["measured"],
            "device": report["latency"]["device"],
            "entries": [
                {key: entry[key] for key in LATENCY_FIGURES} for entry in report["latency"]["entries"]
            ],
            "predicted": [],
        },
        "fallbacks": report["fallbacks"],
        **{axis: report[axis] for axis in AXES},
        "samples": len(graph.examples),
    }


def summary(bundle: Bundle) -> dict[str, Any]:
    """What `compile --json` prints of a bundle."""
    report = bundle.report()
    entries = report["latency"]["entries"]
    chosen = next(entry for entry in entries if entry["role"] == "chosen")
    baseline = min(
        (entry for entry in entries if entry["role"] == "baseline"),
        key=lambda entry: entry["p50"],
        default=None,
    )
    shipped = report["numerics"]["gates"][-1]
    return {
        "bundle": str(bundle.path),
        "target": report["target"],
        "engine": report["engine"],
        "precision": report["precision"],
        "form": report["form"],
        "latency_ms": {
            "kind": "measured" if report["latency"]["measured"] else None,
            "p50": chosen["p50"],
            "p90": chosen["p90"],
            "interval": chosen["interval"],
            "baseline": None if baseline is None else baseline["name"],
            "baseline_p50": None if baseline is None else baseline["p50"],
            "ratio": chosen["ratio_to_best_baseline"],
            "ratio_interval": chosen["ratio_interval"],
            "verdict": chosen["verdict"],
        },
        "numerics": {
            "kind": report["numerics"]["kind"],
            "ran": report["numerics"]["ran"],
            "max_abs": shipped["max_abs"],
            "scaled": shipped["scaled"],
            "rms": shipped["rms"],
            "cosine": shipped["cosine"],
            "rounding": shipped["rounding"],
            "near_ties": shipped["near_ties"],
            "gate": {key: shipped["gate"][key] for key in ("scaled", "rms", "unequal")},
        },
        "inputs_drawn": report["inputs_drawn"],
        "ranges_from": report["ranges_from"],
        "branches": report["branches"],
        "greedy": report.get("greedy"),
        "accuracy": report["accuracy"],
        "fusions": {
            step["name"]: {"matched": step["matched"], "missed": step["missed"]} for step in report["passes"]
        },
        "tokens": report["tokens"],
        "fallbacks": report["fallbacks"],
        "slim": report["slim"],
        "exporter": report["model"]["exporter"],
        "exporter_reason": report["model"]["exporter_reason"],
        "weights": report["model"]["weights"],
        "notes": report["model"]["notes"],
        "known_wrong": report["known_wrong"],
        "neural_engine": _neural_engine(report.get("neural_engine")),
        "report": str(bundle.path / bundles.REPORT_HTML),
    }


def _neural_engine(section: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What is predicted of a Core ML package, without its lists; None for other targets."""
    if section is None:
        return None
    kept = ("predicted", "form", "operations", "transposes", "fused_attention", "placement", "counts")
    return {key: section[key] for key in kept}


def tool_versions() -> dict[str, str]:
    """Versions of the packages that a bundle depends on, those that are installed."""
    versions = {}
    for name in _TOOLS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _command(graph: Graph, request: Request) -> str:
    words = ["edgec", "compile", graph.source.spec, "--target", request.target_spec]
    if request.precision != "auto":
        words += ["--precision", request.precision]
    for axis, text in request.takes_away.items():
        words += [f"--{axis}", text]
    if request.max_drop is not None:
        words += ["--max-drop", f"{request.max_drop:g}"]
    if request.pass_edits:
        words += ["--passes", ",".join(request.pass_edits)]
    return shlex.join(words)
