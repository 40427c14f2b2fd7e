"""Models that nobody tuned edgec for, through every target.

    python benchmarks/coverage.py            # prepares, goes on with the sweep and writes the table
    python benchmarks/coverage.py table      # writes the table of what has run

`coverage.toml` is the plan, `coverage_models.py` what no package brings by name. Numerics matter here, not
latency. The extra `trained` brings the trained files. A run goes on where it stopped, in `build/coverage`.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

from coverage_models import FAMILIES, FOLDER, prepare
from tables import markdown, publish

from edgec.sweep.cells import Runner
from edgec.sweep.plan import Plan, read
from edgec.sweep.rows import Row
from edgec.sweep.sweep import Sweep

PLAN = Path(__file__).parent / "coverage.toml"
OUT = FOLDER / "sweep"
_LETTERS = 300


def kind_of(model: str) -> str:
    """What a model of the plan is one of."""
    if "/trained/" in model:
        return "trained files"
    return {"hf": "transformers families", "timm": "timm families", "zoo": "the zoo"}[model.split(":")[0]]


def table(plan: Plan, rows: list[Row]) -> str:
    """How far it went, by kind and target, and every cell that has no bundle."""
    targets = list(dict.fromkeys(cell.target for cell in plan.cells))
    kinds = list(dict.fromkeys(kind_of(cell.name) for cell in plan.cells))
    lines = []
    for kind in kinds:
        line: list[object] = [kind, sum(kind_of(cell.name) == kind for cell in plan.cells) // len(targets)]
        for target in targets:
            counts = Counter(
                row.verdict for row in rows if (kind_of(row.model), row.target) == (kind, target)
            )
            line.append(" / ".join(str(counts[name]) for name in ("verified", "refused", "failed")))
        lines.append(line)
    without = [
        [row.model.removeprefix("../build/coverage/"), row.target, row.verdict, _short(row.reason)]
        for row in rows
        if row.verdict != "verified"
    ]
    said = f"{len(rows)} of {len(plan.cells)} cells have run: verified / refused / failed."
    body = f"{said}\n\n{markdown(['kind', 'models', *targets], lines)}"
    return f"{body}\n\n{markdown(['model', 'target', 'verdict', 'reason'], without)}"


def _short(reason: str) -> str:
    reason = reason.replace(str(FOLDER), "").replace("\n", " ")
    return reason if len(reason) <= _LETTERS else reason[: _LETTERS - 1] + "…"


def main() -> None:
    missing = prepare(set(FAMILIES))
    for name, why in missing.items():
        print(f"{name}: {why}", file=sys.stderr)
    if sys.argv[1:] != ["table"]:
        command = [sys.executable, "-m", "edgec.cli.main", "sweep", str(PLAN), "-o", str(OUT), "--jobs", "2"]
        subprocess.run(command, check=False)
    plan = read(PLAN)
    publish("coverage", "Coverage", table(plan, Sweep(plan, Runner(OUT)).rows()))


if __name__ == "__main__":
    main()
