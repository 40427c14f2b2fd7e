"""What came of a cell: a bundle, a refusal with its reason, or a failure that edgec did not foresee."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from edgec.core.json_file import read_object

Verdict = Literal["verified", "refused", "failed"]
"""`refused`: a sentence says why; `failed`: the process died, or met what edgec did not foresee."""

ROW = "row.json"


@dataclasses.dataclass(frozen=True)
class Row:
    """What came of a cell.

    Attributes:
        model: the cell's, as the plan names it.
        target: likewise.
        row: the name of its options.
        verdict: what came of it.
        reason: why there is no bundle; empty where there is one.
        bundle: the bundle's folder relative to the sweep's; empty where there is none.
        engine: the engine that ships.
        precision: its precision.
        p50: its median latency in milliseconds, measured here; None where nothing was measured.
        low: the lower end of that median's interval.
        high: its upper end.
        ratio: the median over that of the best plain peer.
        off: the largest difference from the source, in spreads of the output.
        drop: what is lost on held-out data.
        seconds: how long the cell took.
        machine: where it ran.
        key: digest of what was asked, of the files it names and of the versions it ran with.
    """

    model: str
    target: str
    row: str
    verdict: Verdict
    reason: str = ""
    bundle: str = ""
    engine: str = ""
    precision: str = ""
    p50: float | None = None
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    off: float | None = None
    drop: float | None = None
    seconds: float = 0.0
    machine: str = ""
    key: str = ""

    @property
    def place(self) -> tuple[str, str, str]:
        """Model, target and options: the same in two sweeps of one plan."""
        return self.model, self.target, self.row

    def with_answer(self, fields: Mapping[str, Any]) -> Row:
        """The row of a compile that ended well, from what `compile --json` printed."""
        latency, accuracy = fields["latency_ms"], fields["accuracy"]
        low, high = latency["interval"] or (None, None)
        return dataclasses.replace(
            self,
            verdict="verified",
            engine=fields["engine"],
            precision=fields["precision"],
            p50=latency["p50"],
            low=low,
            high=high,
            ratio=latency["ratio"],
            off=fields["numerics"]["scaled"],
            drop=None if accuracy is None else accuracy["drop"],
        )


def kept(folder: Path) -> Row | None:
    """The row in a cell's folder; None where there is none, or none that can be read."""
    try:
        return Row(**read_object(folder / ROW))
    except (OSError, ValueError, TypeError):
        return None


def keep(folder: Path, row: Row) -> None:
    """Write a row into a cell's folder, in one step."""
    scratch = folder / f".{ROW}"
    scratch.write_text(json.dumps(dataclasses.asdict(row), indent=1) + "\n", encoding="utf-8")
    scratch.replace(folder / ROW)
