"""The zoo through TVM: numerics, sizes, build times, and on x86 the latency beside plain ONNX Runtime.

    python benchmarks/tvm_zoo.py x86:tvm|arm [NAME …]

Each model runs in a process of its own. An ARM library runs under QEMU, which says what it computes and
nothing of how long it takes. With names, only those are measured again and the table keeps the others.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tables import RESULTS, markdown, publish

from edgec import zoo

BLOCKS = 11


def measure_one(target_name: str, name: str) -> dict[str, Any]:
    """Lower, build, compare and, where the library runs here, measure one model."""
    from edgec.compiler import load, to_neutral
    from edgec.core.numerics import compare
    from edgec.core.progress import Silent
    from edgec.core.timing import measure
    from edgec.passes.pipeline import default_pipeline
    from edgec.search.peers import opened
    from edgec.targets import target_named

    target = target_named(target_name)
    graph = load(f"zoo:{name}")
    neutral = to_neutral(graph, default_pipeline(), Silent()).graph
    [candidate] = target.candidates(neutral, "fp32")
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        target.build(target.lower(neutral, candidate), candidate, Path(folder))
        built = time.perf_counter() - begun
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        engine = target.open(Path(folder))
        try:
            feeds = neutral.examples[0]
            outputs = [engine.run(each) for each in neutral.examples]
            row = {
                "name": name,
                "scaled": compare(neutral.references, outputs).scaled,
                "seconds": built,
                "megabytes": size / 1e6,
                "over_weights": (size - _weights(neutral)) / 1e6,
            }
            if target.runs_here:
                with opened(graph, ["ort"]) as [peer]:
                    calls = {"tvm": lambda: engine.run(feeds), "ort": lambda: peer.run(feeds)}
                    found = measure(calls, blocks=BLOCKS, block_seconds=0.3)
                row |= {
                    "tvm": found["tvm"].p50,
                    "ort": found["ort"].p50,
                    "ratio": found["tvm"].ratio_to(found["ort"]),
                }
        finally:
            engine.close()
    return row


def _weights(graph: Any) -> int:
    values = graph.model.graph.initializers.values()
    return sum(value.const_value.nbytes for value in values if value.const_value is not None)


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure_one(sys.argv[2], sys.argv[3])))
        return
    target = sys.argv[1]
    kept = RESULTS / f"tvm_zoo_{target.partition(':')[0]}.json"
    rows: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}
    failed = []
    for name in sys.argv[2:] or zoo.names():
        done = subprocess.run(
            [sys.executable, __file__, "--one", target, name],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1"},
        )
        if done.returncode:
            failed.append(f"{name}: {(done.stderr.strip().splitlines() or ['it ended'])[-1]}")
            print(failed[-1], file=sys.stderr)
            continue
        rows[name] = json.loads(done.stdout.strip().splitlines()[-1])
        print(f"{name}: {rows[name]['scaled']:.1e} {rows[name].get('ratio', '')}", file=sys.stderr)
        kept.write_text(json.dumps(rows, indent=1) + "\n")
    publish_table(target, [rows[name] for name in zoo.names() if name in rows], failed)


def publish_table(target: str, rows: list[dict[str, Any]], failed: list[str]) -> None:
    """Print and keep the table of all models measured so far."""
    measured = all("ratio" in row for row in rows)
    headers = ["model", "off by (scaled)", "build s", "engine MB", "MB over its weights"]
    keys = ["name", "scaled", "seconds", "megabytes", "over_weights"]
    if measured:
        headers += ["TVM ms", "plain ORT fp32 ms", "ratio"]
        keys += ["tvm", "ort", "ratio"]
    body = markdown(headers, [[row[key] for key in keys] for row in rows])
    body += (
        f"\n\nNumerics: worst {max(row['scaled'] for row in rows):.1e} of the output's spread (allowed 1e-4)."
    )
    if measured:
        ratios = [row["ratio"] for row in rows]
        body += (
            f" Ratio to plain ONNX Runtime: median {statistics.median(ratios):.3f}, worst {max(ratios):.3f}."
        )
    else:
        body += " The libraries ran under QEMU: emulated, and no latency is known."
    if failed:
        body += "\n\nFailed: " + "; ".join(failed)
    publish(f"tvm_zoo_{target.partition(':')[0]}", f"The zoo through TVM, --target {target}, fp32", body)


if __name__ == "__main__":
    main()
