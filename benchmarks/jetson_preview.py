"""How long a preview takes: DeiT-T as each TensorRT gets it, parsed and built by TensorRT-RTX for SM86.

    python benchmarks/jetson_preview.py [NAME]

A preview is a process of its own, so its start is counted. Beside it, what the compile does for fp16 before:
deciding and writing it. Each is taken three times, the versions in turns; medians.
"""

from __future__ import annotations

import statistics
import sys
import time

from tables import markdown, publish

from edgec.compiler import load, to_neutral
from edgec.core.progress import Silent
from edgec.passes.pipeline import default_pipeline
from edgec.targets.jetson.lowering import lower
from edgec.targets.jetson.precise import decision_feeds, write_half
from edgec.targets.jetson.preview import preview
from edgec.targets.jetson.versions import dialects

VERSIONS = ("8.5", "10.3", "10.13", "11.0")
CAPABILITY, PREVIEWED = 87, 86
ROUNDS = 3
ALLOWED = 15.0


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "deit_tiny"
    neutral = to_neutral(load(f"zoo:{name}"), default_pipeline(), Silent()).graph
    decided: dict[str, list[float]] = {version: [] for version in VERSIONS}
    built: dict[str, list[float]] = {version: [] for version in VERSIONS}
    for _ in range(ROUNDS):
        for version in VERSIONS:
            model = lower(neutral.model, dialects()[version], native_attention=True)
            start = time.perf_counter()
            write_half(model, decision_feeds(neutral), CAPABILITY)
            decided[version].append(time.perf_counter() - start)
            model.graph.sort()
            built[version].append(preview(model, [PREVIEWED], target=f"TensorRT {version}").seconds)
    rows = [
        [
            version, statistics.median(built[version]), max(built[version]),
            statistics.median(decided[version]),
        ]
        for version in VERSIONS
    ]  # fmt: skip
    table = markdown(["TensorRT", "preview s", "slowest s", "fp16 decided in s"], rows)
    worst = max(max(seconds) for seconds in built.values())
    body = (
        f"{table}\n\n{name}, fp16, {ROUNDS} rounds. Slowest preview {worst:.1f} s (allowed {ALLOWED:.0f} s)."
    )
    publish("jetson_preview", "How long a preview takes", body)


if __name__ == "__main__":
    main()
