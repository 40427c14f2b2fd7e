"""Models that nobody tuned edgec for, through every target.

    python benchmarks/coverage.py                  # goes on where the committed rows end, writes the table
    python benchmarks/coverage.py --minutes 30     # begins no cell after half an hour
    python benchmarks/coverage.py --only silero    # runs what a model's name has this in, again

`coverage.toml` is the plan, `coverage_models.py` what no package brings by name. Numerics matter here, not
latency. The extra `trained` brings the trained files. Every cell is kept in `results/coverage.json` as soon
as it has run, so that a run goes on from there on any machine; its bundle is not kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

from coverage_models import FAMILIES, FOLDER, prepare
from tables import markdown, publish

from edgec.sweep.cells import CELLS, Runner
from edgec.sweep.plan import Cell, Plan, read
from edgec.sweep.rows import Row

PLAN = Path(__file__).parent / "coverage.toml"
ROWS = Path(__file__).parent / "results" / "coverage.json"
OUT = FOLDER / "sweep"
_LETTERS = 300
_KEPT = ("model", "target", "row", "verdict", "reason", "engine", "precision", "off", "seconds")


def kind_of(model: str) -> str:
    """What a model of the plan is one of."""
    if "/trained/" in model:
        return "trained files"
    return {"hf": "transformers families", "timm": "timm families", "zoo": "the zoo"}[model.split(":")[0]]


def kept() -> dict[tuple[str, str, str], Row]:
    """The committed rows by model, target and options."""
    if not ROWS.is_file():
        return {}
    rows = [Row(**fields) for fields in json.loads(ROWS.read_text(encoding="utf-8"))]
    return {row.place: row for row in rows}


def keep(row: Row) -> None:
    """Put a row among the committed ones, in place of an older one of the cell."""
    rows = {**kept(), row.place: dataclasses.replace(row, reason=_short(row.reason))}
    fields = [dataclasses.asdict(one) for _, one in sorted(rows.items())]
    lines = [json.dumps({name: one[name] for name in _KEPT}) for one in fields]
    scratch = ROWS.with_suffix(".part")
    scratch.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    scratch.replace(ROWS)


def place_of(cell: Cell) -> tuple[str, str, str]:
    """A cell's place among the rows."""
    return cell.name, cell.target, cell.row


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
        [row.model.removeprefix("../build/coverage/"), row.target, row.verdict, row.reason]
        for row in rows
        if row.verdict != "verified"
    ]
    said = f"{len(rows)} of {len(plan.cells)} cells have run: verified / refused / failed."
    body = f"{said}\n\n{markdown(['kind', 'models', *targets], lines)}"
    return f"{body}\n\n{markdown(['model', 'target', 'verdict', 'reason'], without)}"


def _short(reason: str) -> str:
    reason = reason.replace(str(FOLDER), "").replace(str(Path.home()), "~").replace("\n", " ")
    return reason if len(reason) <= _LETTERS else reason[: _LETTERS - 1] + "…"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no cell after so many")
    parser.add_argument("--only", default="", help="run the cells whose name has this in it, again")
    parser.add_argument("what", nargs="?", choices=["table"], help="write the table of what has run")
    asked = parser.parse_args()
    plan, begun = read(PLAN), time.monotonic()
    if asked.what != "table":
        for name, why in prepare(set(FAMILIES)).items():
            print(f"{name}: {why}", file=sys.stderr)
        runner, done = Runner(OUT), kept()
        for cell in plan.cells:
            wanted = asked.only in str(cell) if asked.only else place_of(cell) not in done
            if wanted and time.monotonic() - begun < 60 * asked.minutes:
                row = runner.run(cell)
                shutil.rmtree(OUT / CELLS / cell.folder, ignore_errors=True)
                if row is not None:
                    keep(row)
                    print(f"{row.seconds:.0f} s  {cell}: {row.verdict} {row.reason[:200]}", file=sys.stderr)
    done = kept()
    rows = [done[place_of(cell)] for cell in plan.cells if place_of(cell) in done]
    publish("coverage", "Coverage", table(plan, rows))


if __name__ == "__main__":
    main()
