"""DeiT with merged tokens against itself without, in OpenVINO, in alternating blocks.

    python benchmarks/token_merging_x86.py [--precision bf16] [--models deit_small_patch16_224,…] [SCHEDULE …]

Each schedule is r=N or SITE:R+SITE:R; `work` is its share of the multiply-accumulates. `body` runs the same
graph with the ops written out instead of the compiled kernels. `none, whole rows` is the unreduced network
with its 197 rows padded to 200, which is what edgec ships of it: the second ratio is to that.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tables import markdown, publish

from edgec.compiler import load, to_neutral
from edgec.core.graph import Graph
from edgec.core.progress import Silent
from edgec.core.timing import measure
from edgec.passes.decompose.plugins import DecomposePlugins
from edgec.passes.inspection import inspect_model
from edgec.passes.pipeline import default_pipeline
from edgec.passes.tokens.merge import MergeTokens
from edgec.passes.tokens.schedule import Schedule
from edgec.passes.tokens.sites import find_sites
from edgec.targets.base import Candidate
from edgec.targets.x86.forms import DECOMPOSED, WHOLE_ROWS
from edgec.targets.x86.target import X86

MODELS = ("deit_small_patch16_224", "deit_tiny_patch16_224")
SCHEDULES = ("r=13", "2:65+6:40", "1:46+4:36+7:28", "3:98", "2:90")


def reduced(neutral: Graph, schedule: Schedule, *, kernels: bool) -> Graph:
    graph = neutral.clone()
    MergeTokens(schedule)(graph.model)
    if not kernels:
        DecomposePlugins()(graph.model)
    return graph


def rows_of(name: str, precision: str, schedules: list[str], blocks: int) -> list[list[object]]:
    neutral = to_neutral(load(f"timm:{name}"), default_pipeline(), Silent()).graph
    sites = find_sites(neutral.model)
    variants = {"none": neutral}
    for text in schedules:
        schedule = Schedule.parse(text, sites)
        variants[text] = reduced(neutral, schedule, kernels=True)
    variants[f"{schedules[0]} body"] = reduced(neutral, Schedule.parse(schedules[0], sites), kernels=False)
    target = X86("openvino")
    whole = "none, whole rows"
    variants[whole] = neutral
    calls, engines, work = {}, [], {}
    with tempfile.TemporaryDirectory() as folder:
        for place, (label, graph) in enumerate(variants.items()):
            home = Path(folder) / str(place)
            home.mkdir()
            candidate = Candidate("openvino", precision, WHOLE_ROWS if label == whole else DECOMPOSED)
            target.build(target.lower(graph, candidate), candidate, home)
            engine = target.open(home)
            engines.append(engine)
            calls[label] = lambda engine=engine: engine.run(neutral.examples[0])
            work[label] = inspect_model(graph.model).macs
        latencies = measure(calls, blocks=blocks)
        for engine in engines:
            engine.close()
    base, best = latencies["none"], latencies[whole]
    return [
        [
            name,
            precision,
            label,
            f"{work[label] / work['none']:.3f}" if "body" not in label and label != whole else "",
            f"{latency.p50:.2f}",
            f"{latency.ratio_to(base):.3f}",
            f"{latency.ratio_to(best):.3f}",
            f"{latency.spread:.0%}",
        ]
        for label, latency in latencies.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("schedules", nargs="*", default=list(SCHEDULES))
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--blocks", type=int, default=9)
    options = parser.parse_args()
    rows = []
    for name in options.models.split(","):
        rows += rows_of(name, options.precision, options.schedules, options.blocks)
    headers = ["model", "precision", "schedule", "work", "ms", "to none", "to whole rows", "spread"]
    title = "Merged tokens against the same engine without, OpenVINO"
    publish("token_merging_x86", title, markdown(headers, rows))


if __name__ == "__main__":
    main()
