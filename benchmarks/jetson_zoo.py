"""Every zoo model lowered for each TensorRT, checked in ONNX Runtime, and previewed in fp16 for SM86.

    python benchmarks/jetson_zoo.py [NAME …]

With names, only those run again and the table keeps the others; what is in the results already is not run
twice without being named. Each model runs in a process of its own. fp32 is the lowered graph, fp16 the same
with precision written in, both against what the source computed; `plain` has every primitive op in fp16. The
ratio is of their root mean square errors on inputs that the decision has not seen, against the fp32 graph:
other samples where the zoo brings data, else the drawn inputs' numbers in another order, and nudged copies of
them until the outputs have some hundreds of numbers. `fp32 moves by` is how far the fp32 graph's own answers
move when nothing but its inputs is rounded as fp16 rounds.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tables import RESULTS, markdown, publish

from edgec import zoo

VERSIONS = ("8.5", "10.3", "10.13", "11.0")
CAPABILITY = 87
ALLOWED, WANTED = 2e-2, 0.5
UNSEEN = 8
"""Samples of the zoo's data that the errors are measured on."""

DRAWS = 8
STEP = 2.0**-11
"""Half a step of fp16, relative."""

NUMBERS = 600
"""Outputs to measure on, at least."""
ROWS = RESULTS / "jetson_zoo.json"


def measure_one(name: str) -> dict[str, Any]:
    """Lower, check and preview one model for every version."""
    from edgec.compiler import load, to_neutral
    from edgec.core.dialect import is_op
    from edgec.core.progress import Silent
    from edgec.judging.budget import calibration_data, calibration_feeds
    from edgec.passes.pipeline import default_pipeline
    from edgec.targets.jetson.precise import FEEDS

    source = load(f"zoo:{name}")
    data = calibration_data(source, None, most=FEEDS + UNSEEN)
    neutral = to_neutral(source, default_pipeline(), Silent()).graph
    if data is not None:
        neutral = dataclasses.replace(neutral, calibration=calibration_feeds(neutral, data))
    attention = sum(is_op(node, "Attention") for node in neutral.model.graph)
    return {
        "name": name,
        "attention": attention,
        "moves": moved_by_rounded_inputs(neutral),
        "versions": _versions(neutral),
    }


def _versions(neutral: Any) -> dict[str, dict[str, Any]]:
    """A row for each version; versions that get the same graph share one."""
    import onnx_ir as ir

    from edgec.targets.jetson.lowering import lower
    from edgec.targets.jetson.versions import dialects

    rows: dict[str, dict[str, Any]] = {}
    known: dict[bytes, dict[str, Any]] = {}
    for version in VERSIONS:
        model = lower(neutral.model, dialects()[version], native_attention=True)
        written = ir.to_proto(model).SerializeToString(deterministic=True)
        if written not in known:
            known[written] = _version(neutral, version)
        rows[version] = known[written]
    return rows


def _version(neutral: Any, version: str) -> dict[str, Any]:
    from edgec.core.evaluation import Evaluator
    from edgec.core.numerics import compare
    from edgec.passes.precision.errors import mean_error
    from edgec.passes.precision.half import clamp_masks
    from edgec.passes.precision.judge import evaluable, spelled_out
    from edgec.passes.precision.plain import plain_half
    from edgec.targets.jetson.lowering import lower
    from edgec.targets.jetson.precise import decision_feeds, write_half
    from edgec.targets.jetson.preview import preview
    from edgec.targets.jetson.sites import attention_sites
    from edgec.targets.jetson.versions import dialects

    def run(model: Any, inputs: list[Any]) -> list[Any]:
        with Evaluator(model) as evaluator:
            return [evaluator.run(feeds) for feeds in inputs]

    dialect = dialects()[version]
    exact = lower(neutral.model, dialect, native_attention=False)
    fp32 = compare(neutral.references, run(evaluable(exact), neutral.examples))
    half = lower(neutral.model, dialect, native_attention=True)
    plain_source = exact.clone()
    clamp_masks(plain_source)
    fresh = unseen(neutral)
    expected = run(evaluable(exact), fresh)
    plain_error = mean_error(expected, run(spelled_out(plain_half(plain_source)), fresh))
    kept = write_half(half, decision_feeds(neutral), CAPABILITY)
    judge = spelled_out(half)
    found = run(judge, neutral.examples)
    sites = attention_sites(half, CAPABILITY)
    half.graph.sort()
    built = preview(half, [86], target=f"TensorRT {version}")
    return {
        "nodes": half.graph.num_nodes(),
        "fp32": fp32.scaled,
        "fp16": _over_spread(neutral.references, found),
        "kept": len(kept.keep),
        "error": mean_error(expected, run(judge, fresh)),
        "plain": plain_error if np.isfinite(plain_error) else None,
        "sites": len(sites),
        "native": sum(site.kind == "native" for site in sites),
        "in_parts": [site.obstacle for site in sites if site.obstacle],
        "layers": built.layers,
        "engine_mb": len(built.engine) / 1e6,
        "seconds": built.seconds,
    }


def moved_by_rounded_inputs(neutral: Any) -> float:
    """How far fp32's own answers move, at most, when nothing but the inputs is rounded as fp16 rounds.

    Largest difference over the spread, of `DRAWS` directions of rounding an example. No choice of layers
    does better than this where it is large: the network itself jumps there.
    """
    from edgec.core.evaluation import Evaluator
    from edgec.passes.precision.judge import evaluable
    from edgec.targets.jetson.bodies import with_bodies

    found = []
    with Evaluator(evaluable(with_bodies(neutral.model))) as evaluator:
        for feeds, references in zip(neutral.examples, neutral.references, strict=True):
            for seed in range(DRAWS):
                random = np.random.default_rng(seed)
                rounded = {
                    name: (array * (1 + random.uniform(-STEP, STEP, array.shape))).astype(array.dtype)
                    if array.dtype.kind == "f"
                    else array
                    for name, array in feeds.items()
                }
                found.append(_over_spread([references], [evaluator.run(rounded)]))
    return max(found)


def unseen(neutral: Any) -> list[Any]:
    """Inputs that the decision has not looked at, with enough outputs to tell an error by."""
    from edgec.passes.precision.errors import nudged
    from edgec.targets.jetson.precise import FEEDS

    found = list(neutral.calibration[FEEDS:]) or [
        shuffled(feeds, seed) for seed, feeds in enumerate(neutral.examples)
    ]
    numbers = sum(np.size(array) for array in neutral.references[0].values())
    return [*found, *nudged(found, NUMBERS // numbers - len(found))]


def shuffled(feeds: Any, seed: int) -> dict[str, np.ndarray]:
    """Other inputs with the same values: each array's elements in another order."""
    random = np.random.default_rng(seed)
    return {name: random.permutation(array.reshape(-1)).reshape(array.shape) for name, array in feeds.items()}


def _over_spread(references: list[Any], found: list[Any]) -> float:
    """Largest absolute difference over the reference output's standard deviation, the worst of all."""
    return max(
        float(np.abs(expected - actual[key]).max() / np.std(expected))
        for reference, actual in zip(references, found, strict=True)
        for key, expected in reference.items()
        if expected.dtype.kind == "f"
    )


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure_one(sys.argv[2])))
        return
    rows: dict[str, dict[str, Any]] = json.loads(ROWS.read_text()) if ROWS.exists() else {}
    failed = []
    for name in sys.argv[1:] or [name for name in zoo.names() if name not in rows]:
        done = subprocess.run(
            [sys.executable, str(Path(__file__)), "--one", name],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1"},
        )
        if done.returncode:
            failed.append(f"{name}: {(done.stderr.strip().splitlines() or ['crashed'])[-1]}")
            print(failed[-1], file=sys.stderr)
            continue
        rows[name] = json.loads(done.stdout.strip().splitlines()[-1])
        worst = max(row["fp16"] for row in rows[name]["versions"].values())
        print(f"{name}: fp16 off by {worst:.1e}", file=sys.stderr)
        ROWS.write_text(json.dumps(rows, indent=1) + "\n")
    publish_table([rows[name] for name in zoo.names() if name in rows], failed)


def publish_table(rows: list[dict[str, Any]], failed: list[str]) -> None:
    """Print and keep the table of all models done so far."""
    table = markdown(
        [
            "model", "TensorRT", "attentions", "left to fusion", "native", "in parts", "fp32 off by",
            "fp16 off by", "fp32 moves by", "kept in fp32", "fp16 rms", "plain fp16 rms", "ratio",
            "layers", "engine MB", "preview s",
        ],
        [
            [
                row["name"], version, row["attention"],
                found["sites"] - found["native"] - len(found["in_parts"]), found["native"],
                len(found["in_parts"]), found["fp32"], found["fp16"], row.get("moves"),
                f"{found['kept']} of {found['nodes']}", found["error"], found["plain"], _ratio(found),
                found["layers"], found["engine_mb"], found["seconds"],
            ]
            for row in rows
            for version, found in row["versions"].items()
        ],
    )  # fmt: skip
    every = [found for row in rows for found in row["versions"].values()]
    ratios = [ratio for found in every if (ratio := _ratio(found)) is not None]
    lost = [
        f"{row['name']} {version}"
        for row in rows
        for version, found in row["versions"].items()
        if found["sites"] < row["attention"]
    ]
    reasons = [reason for found in every for reason in found["in_parts"]]
    grouped = "; ".join(f"{reasons.count(one)} × {one}" for one in dict.fromkeys(reasons)) or "none"
    worst32 = max(found["fp32"] for found in every)
    worst16 = max(found["fp16"] for found in every)
    over = [row["name"] for row in rows if any(one["fp16"] > ALLOWED for one in row["versions"].values())]
    high = [
        row["name"] for row in rows if any((_ratio(one) or 0) > WANTED for one in row["versions"].values())
    ]
    body = (
        f"{table}\n\n{len(rows)} models, {len(every)} graphs, all built for SM86 by TensorRT-RTX. "
        f"fp32: worst {worst32:.1e} (allowed 1e-4). fp16, largest difference over the output's standard "
        f"deviation: worst {worst16:.1e} (allowed {ALLOWED:g}), beyond it: {', '.join(over) or 'none'}. "
        f"fp16 with kept layers over plain fp16, on other inputs than decided: median "
        f"{statistics.median(ratios):.2f}, worst {max(ratios):.2f} (wanted {WANTED}), beyond it in "
        f"some version: {', '.join(high) or 'none'}. "
        f"Attentions of the neutral graph without a site in the lowered one: {', '.join(lost) or 'none'}. "
        f"In parts for TensorRT's own limits: {grouped}."
    )
    if failed:
        body += "\n\nFailed: " + "; ".join(failed)
    publish("jetson_zoo", "The zoo for TensorRT 8.5 to 11, checked and previewed", body)


def _ratio(found: dict[str, Any]) -> float | None:
    return None if not found["plain"] else found["error"] / found["plain"]


if __name__ == "__main__":
    main()
