"""How fast the engine is here: blocks of runs, and each layer under the source's own names."""

from __future__ import annotations

import re
import statistics
import time
from typing import Any, Mapping

import numpy as np
from edgec_engine import machine
from edgec_engine.plan import Plan
from edgec_engine.runner import Runner

SCHEMA = 1


def bench(plan: Plan, runner: Runner, blocks: int = 7, seconds: float = 0.5) -> dict[str, Any]:
    """Measure on the bundle's first sample.

    Args:
        plan: the plan.
        runner: the engine, open.
        blocks: blocks of runs.
        seconds: length of a block; three runs at least.

    Returns:
        `schema`, `model_sha256`, `device`, `engine`, `latency` (milliseconds of a whole run with its copies:
        `p50`, the median of the blocks' medians, `p90` over all runs, `blocks`, `runs`), `gpu` (`p50` and
        `p90` of the GPU alone) and `layers` (`layer`, `source`, `op`, `microseconds`).
    """
    feeds = plan.samples(1)[0][0]
    before = machine.describe(plan.state)
    for _ in range(10):
        runner.run(feeds)
    medians: list[float] = []
    whole: list[float] = []
    for _ in range(blocks):
        times = _block(lambda: runner.run(feeds), seconds)
        medians.append(statistics.median(times))
        whole.extend(times)
    alone = gpu_block(runner, feeds, seconds)
    layers = _layers(plan, runner, feeds)
    after = machine.describe(plan.state)
    return {
        "schema": SCHEMA,
        "model_sha256": plan.fields["model_sha256"],
        "device": dict(before, name=plan.fields["device"], clocks_after=after["clocks"]),
        "engine": {key: runner.sidecar[key] for key in ("engine_sha256", "tensorrt", "built", "seconds")},
        "latency": {
            "p50": statistics.median(medians),
            "p90": float(np.percentile(whole, 90)),
            "blocks": medians,
            "runs": len(whole),
        },
        "gpu": {"p50": statistics.median(alone), "p90": float(np.percentile(alone, 90))},
        "layers": layers,
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _block(call: Any, seconds: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def gpu_block(runner: Runner, feeds: Mapping[str, np.ndarray], seconds: float) -> list[float]:
    """Milliseconds of the GPU alone, one a run, for so many seconds; three runs at least."""
    runner.upload(feeds)
    timer = runner.timer()
    times: list[float] = []
    end = time.perf_counter() + seconds
    try:
        while len(times) < 3 or time.perf_counter() < end:
            timer.start()
            runner.enqueue()
            timer.stop()
            times.append(timer.milliseconds())
    finally:
        timer.close()
    return times


def _layers(
    plan: Plan, runner: Runner, feeds: Mapping[str, np.ndarray], runs: int = 20
) -> list[dict[str, Any]]:
    described = runner.layers()
    return [
        {
            "layer": name,
            "source": source_of(name, str(described.get(name, {}).get("Metadata", "")), plan.sources),
            "op": str(described.get(name, {}).get("LayerType", "")),
            "microseconds": statistics.median(times) * 1e3,
        }
        for name, times in runner.profile(feeds, runs)
    ]


def source_of(layer: str, metadata: str, sources: Mapping[str, str]) -> str:
    """The layers of the source that an engine's layer computes; its own name where none is known.

    Its metadata name every ONNX node in it; without them its name is taken apart: `a + b` for fused nodes,
    `PWN(a, b)` for pointwise ones, `{ForeignNode[a...b]}` for a region from one node to another, and a note
    in brackets for what TensorRT put in itself.
    """
    nodes = re.findall(r"\[ONNX Layer: (.*?)\]", metadata)
    if not nodes:
        text = re.sub(
            r"\{?ForeignNode\[(.*?)\]\}?", lambda match: match.group(1).replace("...", " + "), layer
        )
        text = text.replace("PWN(", "").replace(")", "")
        nodes = [
            re.sub(r"_\d+$|\s*\[.*\]$", "", part) if part not in sources else part for part in _parts(text)
        ]
    found: list[str] = []
    for node in nodes:
        source = sources.get(node)
        if source and source not in found:
            found.append(source)
    if not found:
        return layer
    return found[0] if len(found) == 1 else _joined(found)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\s\+\s|,\s|\|\|", text) if part.strip()]


def _joined(found: list[str]) -> str:
    """The part that all names share, else the first and the last."""
    split = [name.split(".") for name in found]
    shared: list[str] = []
    for pieces in zip(*split):
        if len(set(pieces)) > 1:
            break
        shared.append(pieces[0])
    return ".".join(shared) if shared else f"{found[0]} … {found[-1]}"
