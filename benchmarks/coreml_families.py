"""Every small family of timm, and models of sequences, through the Core ML target and its checker.

    python benchmarks/coreml_families.py [NAME …]
    python benchmarks/coreml_families.py --table

Each model is traced, brought to the neutral dialect, lowered for iOS 18, saved, read back from disk and
interpreted, in fp32 and in fp16, each in a process of its own. A run goes on where the last one stopped:
results that are kept are not computed again unless their names are given, and traced graphs are reused
from `build/coreml_families`. Differences are the largest absolute one over the standard deviation of the
source's own output, the worst over samples and outputs.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from tables import RESULTS, markdown, publish
from timm_families import FAMILIES

from edgec.core.graph import Graph, Source

ROWS = RESULTS / "coreml_families.json"
WORK = Path(__file__).parent.parent / "build" / "coreml_families"
SAMPLES = 2
SEQUENCES = ("minilm", "gpt2_like", "conformer", "itransformer")
NAMES = (*FAMILIES, *SEQUENCES)


def load(name: str) -> Graph:
    """The traced graph of a family's member, from the work folder where it was traced before."""
    from edgec import zoo
    from edgec.frontends.timm import from_timm

    folder = WORK / name
    if (folder / "graph.json").exists():
        return _kept(folder)
    if name in FAMILIES:
        graph = from_timm(FAMILIES[name], pretrained=False, samples=SAMPLES)
    elif name == "minilm":
        graph = zoo.load("minilm", samples=SAMPLES)
    else:
        graph = _written(name)
    _keep(graph, folder)
    return graph


def _written(name: str) -> Graph:
    import torch
    from sequence_models import EXAMPLES

    from edgec.frontends.draw_weights import draw_weights
    from edgec.frontends.torch import from_module

    torch.manual_seed(0)
    module, inputs = EXAMPLES[name]()
    draw_weights(module, 0, lambda: module(**inputs))
    return from_module(module, inputs, spec=name, name=name, samples=SAMPLES)


def _keep(graph: Graph, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ir.save(graph.model, folder / "model.onnx")
    for index, (feeds, references) in enumerate(zip(graph.examples, graph.references, strict=True)):
        np.savez(folder / f"feeds_{index}.npz", **feeds)
        np.savez(folder / f"references_{index}.npz", **references)
    (folder / "graph.json").write_text(json.dumps(dataclasses.asdict(graph.source)))


def _kept(folder: Path) -> Graph:
    source = Source(**{**json.loads((folder / "graph.json").read_text()), "notes": ()})
    feeds, references = (
        [dict(np.load(path)) for path in sorted(folder.glob(f"{what}_*.npz"))]
        for what in ("feeds", "references")
    )
    return Graph(ir.load(folder / "model.onnx"), source, (), feeds, references)


def measure(name: str) -> dict[str, Any]:
    """One model through everything; a failure is kept with the stage that it happened in."""
    from edgec.core.errors import EdgecError

    row: dict[str, Any] = {"name": name, "model": FAMILIES.get(name, name), "stage": "frontend"}
    try:
        _measure(name, row)
        row["stage"] = "done"
    except EdgecError as error:
        row["error"] = str(error)
    return row


def _measure(name: str, row: dict[str, Any]) -> None:
    from edgec.compiler import to_neutral
    from edgec.core.progress import Silent
    from edgec.passes.pipeline import default_pipeline

    graph = load(name)
    row |= {"exporter": graph.source.exporter, "stage": "passes"}
    neutral = to_neutral(graph, default_pipeline(), Silent())
    fused = next(report for report in neutral.reports if report.name == "fuse.attention")
    row["sites"] = fused.matched + len(fused.missed)
    row["missed"] = dict(collections.Counter(miss.reason for miss in fused.missed))
    for precision in ("fp32", "fp16"):
        row["stage"] = f"lowering in {precision}"
        _build(neutral.graph, precision, row)


def _build(graph: Graph, precision: str, row: dict[str, Any]) -> None:
    """Lower, save, read back and interpret in one precision; the last sizes are those of fp16."""
    from edgec.targets import target_named
    from edgec.targets.base import Candidate
    from edgec.targets.coreml.engine import CheckedPackage

    # As a tensor: a picture's samples would be rounded to whole pixels first.
    target = target_named("coreml:ios18:tensor")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        candidate = Candidate("coreml", precision, "")
        target.build(target.lower(graph, candidate), candidate, Path(folder))
        row[f"{precision}_convert_s"] = round(time.perf_counter() - start, 2)
        row["stage"] = f"checking in {precision}"
        engine = CheckedPackage(Path(folder))
        ops = collections.Counter(engine.interpreter.op_types)
        row |= {
            "ops": ops.total(),
            "sdpa": ops["scaled_dot_product_attention"],
            "transposes": ops["transpose"],
        }
        start = time.perf_counter()
        worst = 0.0
        # One sample is enough for fp16, whose semantics fp32 has proved.
        for feeds, references in list(zip(graph.examples, graph.references, strict=True))[
            : SAMPLES if precision == "fp32" else 1
        ]:
            found = engine.run(feeds)
            worst = max([worst, *(_difference(found[key], wanted) for key, wanted in references.items())])
        row[f"{precision}_check_s"] = round(time.perf_counter() - start, 2)
        row[precision] = worst


def _difference(found: np.ndarray, wanted: np.ndarray) -> float:
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    if not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - wanted).max() / max(wanted.std(), 1e-12))


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[:1] == ["--one"]:
        print(json.dumps(measure(arguments[1])))
        return
    rows: dict[str, dict[str, Any]] = json.loads(ROWS.read_text()) if ROWS.exists() else {}
    if arguments != ["--table"]:
        for name in arguments or [name for name in NAMES if "error" in rows.get(name, {"error": ""})]:
            rows[name] = _in_process(name)
            words = rows[name].get("error") or f"fp32 {rows[name]['fp32']:.1e}, fp16 {rows[name]['fp16']:.1e}"
            print(f"{name}: {words[:300]}", file=sys.stderr, flush=True)
            kept = json.loads(ROWS.read_text()) if ROWS.exists() else {}
            rows = {**kept, name: rows[name]}
            ROWS.write_text(json.dumps({key: rows[key] for key in NAMES if key in rows}, indent=1) + "\n")
    publish_table([rows[name] for name in NAMES if name in rows])


def _in_process(name: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--one", name],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1"},
    )
    if done.returncode:
        words = (done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"])[-1]
        return {"name": name, "model": FAMILIES.get(name, name), "stage": "crash", "error": words}
    return json.loads(done.stdout.strip().splitlines()[-1])


def publish_table(rows: list[dict[str, Any]]) -> None:
    """Print and keep the table of all models so far."""
    done = [row for row in rows if "error" not in row]
    table = markdown(
        [
            "family", "model", "exporter", "ops", "sdpa / sites", "transposes", "fp32", "fp16",
            "convert s", "check s",
        ],
        [
            [
                row["name"], row["model"], row["exporter"], row["ops"], f"{row['sdpa']} / {row['sites']}",
                row["transposes"], f"{row['fp32']:.1e}", f"{row['fp16']:.1e}", row["fp16_convert_s"],
                row["fp32_check_s"],
            ]
            for row in done
        ],
    )  # fmt: skip
    within = [row for row in done if row["fp32"] <= 1e-4]
    summary = (
        f"{len(rows)} of {len(NAMES)} were run. Of these {len(done)} convert and can be checked; "
        f"{len(within)} are within 1e-4 in fp32 "
        f"(worst {max((row['fp32'] for row in done), default=0):.1e}); fp16 median "
        f"{statistics.median([row['fp16'] for row in done] or [0]):.1e}, worst "
        f"{max((row['fp16'] for row in done), default=0):.1e}. Seconds are of one run, beside other work."
    )
    failures = "\n".join(
        f"- {row['name']} ({row['stage']}): {row['error']}" for row in rows if "error" in row
    )
    misses = "\n".join(
        f"- {row['name']}: {count} × {reason}" for row in done for reason, count in row["missed"].items()
    )
    body = f"{summary}\n\n{table}"
    if misses:
        body += f"\n\nSoftmaxes that are no attention, or were left alone:\n\n{misses}"
    if failures:
        body += f"\n\nFailures:\n\n{failures}"
    publish("coreml_families", "Families through the Core ML target and its checker", body)


if __name__ == "__main__":
    main()
