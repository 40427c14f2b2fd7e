"""The gate on models that it must let through, and on errors that it must not.

    python benchmarks/gates.py                  # planted errors, then every family of timm and the zoo
    python benchmarks/gates.py planted          # the errors alone, in a second
    python benchmarks/gates.py timm:deit_tiny_patch16_224 …

A model counts as refused where its exported file, its neutral graph or a plain fp32 engine of x86 is beyond
the fp32 gate. Rows are kept in results/gates.json as they are found, so that a run goes on where it stopped.

Planted errors: outputs of all spreads and means that fp32 can hold, off by a twentieth of the spread; and
outputs of which every 37th number is ten thousand times the others, off by a twentieth of the others' spread.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from tables import RESULTS, markdown, publish
from timm_families import FAMILIES

from edgec import compiler, zoo
from edgec.core.errors import EdgecError, NumericsError
from edgec.core.numerics import GATES, Expected
from edgec.core.progress import Silent
from edgec.request import Request
from edgec.search.trials import Trial, build
from edgec.targets import target_named

ROWS = RESULTS / "gates.json"
SHAPES = ((1, 1), (1, 4), (1, 1000), (1, 84, 500), (1, 3, 64, 64))
FAULTS = ("scale", "offset", "noise", "row")


def planted() -> list[list[object]]:
    """Errors of a twentieth of the spread: how many were caught, and how many right outputs passed."""
    rows: list[list[object]] = []
    for exponent in range(-6, 7):
        caught = passed = tried = 0
        for mean in (0.0, 1.0, 1000.0):
            spread = 10.0**exponent
            if mean * 6e-8 > 0.05 * spread:
                continue  # fp32 itself cannot hold the spread
            for seed, shape in enumerate(SHAPES):
                for fault, tail in itertools.product(FAULTS, (1.0, 1e4)):
                    if tail > 1 and np.prod(shape) < 1000:
                        continue
                    expected, right, wrong = _outputs(shape, spread, mean, fault, seed, tail)
                    gate = GATES["fp32"]
                    caught += not gate.accepts(expected.difference(wrong, gate))
                    passed += gate.accepts(expected.difference(right, gate))
                    tried += 1
        rows.append([f"1e{exponent}", tried, caught, passed])
    return rows


def _outputs(
    shape: tuple[int, ...], spread: float, mean: float, fault: str, seed: int, tail: float
) -> tuple[Expected, list[dict[str, np.ndarray]], list[dict[str, np.ndarray]]]:
    random = np.random.default_rng(seed)
    exact, right, wrong = [], [], []
    for _ in range(3):
        drawn, noise = random.standard_normal(shape), random.standard_normal(shape)
        drawn.reshape(-1)[18::37] *= tail
        exact.append(mean + spread * drawn)
        right.append(mean + spread * drawn * (1 + 2e-7 * noise))
        off = {
            "scale": 1.05 * drawn,
            "offset": drawn + 0.05,
            "noise": drawn + 0.05 * noise,
            "row": np.where(np.arange(shape[-1]) < max(1, shape[-1] // 100), drawn + 0.5, drawn),
        }[fault]
        wrong.append(mean + spread * off)
    references = [{"y": array.astype(np.float32)} for array in exact]
    return (
        Expected(references, [{"y": array} for array in exact]),
        [{"y": array.astype(np.float32)} for array in right],
        [{"y": array.astype(np.float32)} for array in wrong],
    )


def judged(spec: str) -> dict[str, Any]:
    """A model's export, its neutral graph and its plain engines at the fp32 gate."""
    start = time.perf_counter()
    try:
        request = Request.checked("x86", None, "fp32")
        graph = compiler.load(spec)
        neutral = compiler.to_neutral(graph, request.pipeline, Silent())
        target = target_named("x86")
        stages = {"neutral": neutral.gate.to_json()}
        refused = []
        with tempfile.TemporaryDirectory() as folder:
            for index, candidate in enumerate(target.candidates(neutral.graph, "fp32")):
                trial = Trial(candidate, Path(folder) / str(index))
                build(target, neutral.graph, trial)
                if trial.gates:
                    stages[candidate.name] = trial.gates[-1].to_json()
                if trial.broken_gate is not None:
                    refused.append(trial.why)
    except NumericsError as error:
        return {"refused": [str(error)], "seconds": time.perf_counter() - start}
    except EdgecError as error:
        return {"failed": str(error), "seconds": time.perf_counter() - start}
    worst = max(stages, key=lambda name: stages[name]["scaled"])
    return {
        "refused": refused,
        "stages": len(stages),
        "worst": worst,
        **{key: stages[worst][key] for key in ("scaled", "beyond", "rounding", "slice_rms")},
        "float64": graph.run_exact is not None,
        "seconds": time.perf_counter() - start,
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The kept rows, and how many were refused."""
    lines = [
        [
            spec,
            "failed" if "failed" in row else "refused" if row["refused"] else "passed",
            *(row.get(key) for key in ("stages", "scaled", "beyond", "rounding", "slice_rms", "worst")),
            row.get("failed") or "; ".join(row.get("refused", [])),
        ]
        for spec, row in sorted(rows.items())
    ]
    refused = sum(line[1] == "refused" for line in lines)
    failed = sum(line[1] == "failed" for line in lines)
    headers = ["model", "verdict", "stages", "off, of the spread", "beyond the source's rounding"]
    headers += ["the source's own rounding", "worst slice", "worst stage", "why"]
    said = f"{len(lines)} models: {refused} refused by the fp32 gate, {failed} failed otherwise."
    return f"{said}\n\n{markdown(headers, lines)}"


def main() -> None:
    asked = sys.argv[1:]
    found = planted()
    columns = ["spread", "planted errors", "caught", "right outputs that passed"]
    if asked == ["planted"]:
        print(markdown(columns, found))
        return
    rows = json.loads(ROWS.read_text()) if ROWS.is_file() else {}
    specs = asked or [
        *(f"timm:{name}" for name in FAMILIES.values()),
        *(f"zoo:{name}" for name in zoo.names()),
    ]
    for spec in specs:
        if spec in rows and not asked:
            continue
        rows[spec] = judged(spec)
        print(spec, rows[spec], file=sys.stderr, flush=True)
        ROWS.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")
    publish("gates", "The fp32 gate", f"{markdown(columns, found)}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
