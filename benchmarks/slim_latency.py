"""Predicted against measured latency of random plans that cut several dimensions at once.

    python benchmarks/slim_latency.py [--models vit_shapes,deit_tiny,minilm] [--plans 20] [--again]

Of each model a latency table is made, then plans are drawn that cut heads, their widths, MLPs and whole
branches of every layer at once, from the levels that the table offers. Each cut network is built and measured
beside the whole one in alternating blocks. Predictions are made before any of the plans is measured; those
under `learning` have seen the plans in front of them. What was measured is kept beside the tables, so an
interrupted run goes on where it stopped; `--again` forgets it.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from tables import markdown, publish

from edgec.compiler import load, to_neutral
from edgec.core.graph import Graph
from edgec.core.progress import Silent
from edgec.core.timing import measure
from edgec.devices import latency_cache
from edgec.devices.latency_tables import LatencyTable
from edgec.passes.infra import MatchLog
from edgec.passes.pipeline import default_pipeline
from edgec.passes.slim.cut import CutUnits
from edgec.passes.slim.find import find_units
from edgec.passes.slim.plan import SlimPlan
from edgec.passes.slim.units import Unit
from edgec.targets.base import Candidate
from edgec.targets.timers import timer_for
from edgec.targets.unit_latency import latency_table
from edgec.targets.x86.forms import EXPORTED
from edgec.targets.x86.target import X86

KINDS = ("heads", "qk_width", "v_width", "mlp", "attention", "mlp_block")
ABREAST = 4
WITHOUT = 0.1
"""How often a whole branch goes."""


class Steps(Silent):
    """What is being done, on standard error."""

    def step(self, what: str) -> None:
        """Print it."""
        print(what, file=sys.stderr)


def drawn(units: list[Unit], table: LatencyTable, rng: np.random.Generator) -> SlimPlan:
    """A plan: each kind of unit at a share of its own, each unit near its kind's."""
    shares = {kind: rng.uniform(0.3, 1.0) for kind in KINDS}
    kept = {}
    for unit in units:
        levels = table.levels(unit.name)
        if unit.branches:
            kept[unit.name] = unit.size if rng.random() > WITHOUT else levels[-1]
            continue
        share = np.clip(shares[unit.kind] + rng.uniform(-0.25, 0.25), 0.0, 1.0)
        kept[unit.name] = min(levels, key=lambda level: abs(level - share * unit.size))
    return SlimPlan({unit.name: kept[unit.name] for unit in units if kept[unit.name] < unit.size})


def cut(graph: Graph, units: list[Unit], plan: SlimPlan) -> Graph:
    """The graph with the first members of each unit; which ones makes no difference to the latency."""
    model = graph.model.clone()
    CutUnits(units, {name: range(count) for name, count in plan.kept.items()}).apply(model, MatchLog())
    return graph.with_model(model)


def measured(
    graph: Graph,
    units: list[Unit],
    plans: list[SlimPlan],
    target: X86,
    candidate: Candidate,
) -> list[float]:
    """The plans' latencies over the whole network's."""
    engines = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for index, network in enumerate([graph, *(cut(graph, units, plan) for plan in plans)]):
                home = Path(folder) / str(index)
                home.mkdir()
                target.build(target.lower(network, candidate), candidate, home)
                engines.append(target.open(home))
            calls = {
                index: functools.partial(engine.run, graph.examples[0])
                for index, engine in enumerate(engines)
            }
            latencies = measure(calls, blocks=7, block_seconds=0.12)
        finally:
            for engine in engines:
                engine.close()
    return [latencies[index + 1].ratio_to(latencies[0]) for index in range(len(plans))]


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's."""
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def row(name: str, count: int, engine: str, *, again: bool) -> list[Any]:
    """One model's figures."""
    graph = to_neutral(load(f"zoo:{name}"), default_pipeline(), Silent()).graph
    units = [unit for unit in find_units(graph.model, MatchLog()) if unit.kind in KINDS]
    target = X86(engine)
    candidate = next(each for each in target.candidates(graph, "fp32") if each.form != EXPORTED)
    started = time.perf_counter()
    table = latency_table(graph, units, timer_for(target, candidate), progress=Steps(), again=again)
    seconds = time.perf_counter() - started
    rng = np.random.default_rng(14)
    plans = [drawn(units, table, rng) for _ in range(count)]
    predicted = np.array([table.predict(plan.kept) / table.base for plan in plans])
    what = {"benchmark": "slim_latency", "model": name}
    known = {} if again else latency_cache.read(table.device, what) or {}
    missing = [plan for plan in plans if plan.name not in known]
    for start in range(0, len(missing), ABREAST):
        group = missing[start : start + ABREAST]
        print(f"{name}: plans {start + 1} to {start + len(group)} of {len(missing)}", file=sys.stderr)
        for plan, share in zip(group, measured(graph, units, group, target, candidate), strict=True):
            known[plan.name] = share
        latency_cache.write(table.device, what, known)
    found = np.array([known[plan.name] for plan in plans])
    learning = []
    for plan, share in zip(plans, found, strict=True):
        learning.append(table.predict(plan.kept) / table.base)
        table.correct(plan.kept, share * table.base)
    errors, learnt = np.abs(predicted / found - 1), np.abs(np.array(learning) / found - 1)
    print(
        json.dumps({"model": name, "predicted": predicted.tolist(), "measured": found.tolist()}),
        file=sys.stderr,
    )
    return [
        name, candidate.name, f"{table.base:.2f}", f"{seconds:.0f}", count,
        f"{found.min():.2f} … {found.max():.2f}", f"{errors.mean():.1%}", f"{errors.max():.1%}",
        f"{rank_correlation(predicted, found):.3f}", f"{learnt.mean():.1%}",
        f"{rank_correlation(np.array(learning), found):.3f}",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", default="vit_shapes,deit_tiny,minilm")
    parser.add_argument("--plans", type=int, default=20, help="of each model")
    parser.add_argument("--engine", default="openvino", choices=("openvino", "ort"))
    parser.add_argument("--again", action="store_true")
    asked = parser.parse_args()
    rows = [row(name, asked.plans, asked.engine, again=asked.again) for name in asked.models.split(",")]
    headers = [
        *("model", "engine", "whole ms", "table s", "plans", "measured / whole"),
        *("mean error", "worst", "rank corr.", "learning: mean error", "rank corr."),
    ]
    publish("slim_latency", "Latency of slimmed networks, predicted and measured", markdown(headers, rows))


if __name__ == "__main__":
    main()
