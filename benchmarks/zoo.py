"""Every zoo model, compiled for x86 in fp32: numerics, fusion, and latency beside the plain engines.

    python benchmarks/zoo.py [NAME …]

With names, only those are measured again and the table keeps the others. Each model runs in a process of its
own; its bundle is measured again, apart from the measurements that chose it, in alternating blocks with plain
ONNX Runtime and plain OpenVINO on the exporter's graph.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tables import RESULTS, markdown, publish

from edgec import zoo

BLOCKS = 11
ROWS = RESULTS / "zoo.json"


def measure_one(name: str) -> dict[str, Any]:
    """Compile one model and measure it beside the plain engines."""
    from edgec.compiler import compile_graph, load
    from edgec.core.timing import measure
    from edgec.report.assemble import summary
    from edgec.request import Request
    from edgec.runtime.session import load as load_session
    from edgec.search.peers import opened

    graph = load(f"zoo:{name}")
    with tempfile.TemporaryDirectory() as folder:
        bundle = compile_graph(graph, Request.checked("x86", Path(folder) / "m.x86.edgec", "fp32"))
        fields = summary(bundle)
        feeds = graph.examples[0]
        with load_session(bundle.path) as session, opened(graph, ["ort", "openvino"]) as peers:
            calls = {"edgec": lambda: session.run(feeds)}
            calls |= {peer.name: (lambda peer=peer: peer.run(feeds)) for peer in peers}
            found = measure(calls, blocks=BLOCKS, block_seconds=0.3)
    best = min((found["ort"], found["openvino"]), key=lambda latency: latency.p50)
    attention = fields["fusions"]["fuse.attention"]
    channel = fields["fusions"]["fuse.channel_attention"]
    return {
        "name": name,
        "exporter": fields["exporter"],
        "attention": attention["matched"],
        "channel": channel["matched"],
        "missed": [miss["reason"] for miss in attention["missed"] + channel["missed"]],
        "engine": f"{fields['engine']} ({fields['form']})",
        "scaled": fields["numerics"]["scaled"],
        "edgec": found["edgec"].p50,
        "ort": found["ort"].p50,
        "openvino": found["openvino"].p50,
        "ratio": found["edgec"].ratio_to(best),
    }


def _grouped(reasons: list[str]) -> str:
    return "; ".join(f"{reasons.count(reason)} × {reason}" for reason in dict.fromkeys(reasons)) or "none"


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure_one(sys.argv[2])))
        return
    rows: dict[str, dict[str, Any]] = json.loads(ROWS.read_text()) if ROWS.exists() else {}
    failed = []
    for name in sys.argv[1:] or zoo.names():
        done = subprocess.run(
            [sys.executable, __file__, "--one", name],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1"},
        )
        if done.returncode:
            failed.append(f"{name}: {done.stderr.strip().splitlines()[-1]}")
            print(failed[-1], file=sys.stderr)
            continue
        rows[name] = json.loads(done.stdout.strip().splitlines()[-1])
        print(f"{name}: {rows[name]['ratio']:.3f}", file=sys.stderr)
        ROWS.write_text(json.dumps(rows, indent=1) + "\n")
    publish_table([rows[name] for name in zoo.names() if name in rows], failed)


def publish_table(rows: list[dict[str, Any]], failed: list[str]) -> None:
    """Print and keep the table of all models measured so far."""
    table = markdown(
        [
            "model", "exporter", "attention", "channel", "left alone", "engine",
            "off by (scaled)", "edgec ms", "plain ORT ms", "plain OpenVINO ms", "ratio to the better",
        ],
        [
            [
                row["name"], row["exporter"], row["attention"], row["channel"],
                _grouped(row["missed"]),
                row["engine"], row["scaled"], row["edgec"], row["ort"], row["openvino"], row["ratio"],
            ]
            for row in rows
        ],
    )  # fmt: skip
    ratios = [row["ratio"] for row in rows]
    body = (
        f"{table}\n\nRatio to the better plain engine: median {statistics.median(ratios):.3f}, "
        f"worst {max(ratios):.3f}, best {min(ratios):.3f}. "
        f"Numerics: worst {max(row['scaled'] for row in rows):.1e} of the output's spread (allowed 1e-4)."
    )
    if failed:
        body += "\n\nFailed: " + "; ".join(failed)
    publish("zoo", "The zoo on x86, fp32", body)


if __name__ == "__main__":
    main()
