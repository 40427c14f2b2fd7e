"""Several bundles in one table: accuracy, latency and size over all targets, each figure as what it is.

A latency that a device measured and one that is predicted stand in columns of their own, and every row says
where it was measured: rows of one device may be compared, others only looked at.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgec.core.bundle import ENGINE, PLUGINS, Bundle
from edgec.report.render import environment, page_parts, report_data
from edgec.report.schema import Report
from edgec.report.summary import chosen


@dataclasses.dataclass(frozen=True)
class Row:
    """One bundle.

    Attributes:
        name: its folder's name.
        model: the model's name.
        target: what it is for.
        engine: the engine and its precision.
        device: where its latency was measured; empty where it was not.
        p50: median latency that was measured, in milliseconds.
        p90: the 90th percentile.
        predicted: a latency that nothing measured, in milliseconds; the best that is told.
        metric: what the accuracy is; empty where there is none.
        source: the source's score.
        score: the engine's.
        drop: what the engine lost.
        score_kind: whether the engine itself was scored.
        off: the largest difference to the source, of the output's spread, at the gate that ships.
        passed: whether all gates were kept.
        size: bytes of the engine and its plugins.
        fallbacks: how many parts do not run as they were meant to.
        known_wrong: what its runtime is known to get wrong.
    """

    name: str
    model: str
    target: str
    engine: str
    device: str
    p50: float | None
    p90: float | None
    predicted: float | None
    metric: str
    source: float | None
    score: float | None
    drop: float | None
    score_kind: str
    off: float | None
    passed: bool
    size: int
    fallbacks: int
    known_wrong: tuple[str, ...]


def row_of(bundle: Bundle) -> Row:
    """A bundle's row.

    Raises:
        RequestError: its report is none, or one of a newer edgec.
    """
    report = report_data(bundle.report())
    p50, p90, device = _measured(report)
    gates, accuracy = report["numerics"]["gates"], report["accuracy"]
    return Row(
        bundle.path.name,
        report["model"]["name"],
        report["target"],
        f"{report['engine']} {report['precision']}".strip(),
        device,
        p50,
        p90,
        _predicted(report),
        accuracy["metric"] if accuracy else "",
        accuracy["source"] if accuracy else None,
        accuracy["engine"] if accuracy else None,
        accuracy["drop"] if accuracy else None,
        accuracy["kind"] if accuracy else "",
        gates[-1]["scaled"] if gates else None,
        all(gate["passed"] for gate in gates),
        _size(bundle.path),
        len(report["fallbacks"]),
        tuple(finding["text"] for finding in report["known_wrong"]),
    )


def _measured(report: Report) -> tuple[float | None, float | None, str]:
    """Median, 90th percentile and device of what was measured: on the device itself where that was done."""
    for measurement in reversed(_measurements(report)):
        if latency := measurement.get("latency"):
            return latency["p50"], latency.get("p90"), str(measurement["device"]["name"])
    entry = chosen(report)
    if entry is None or entry["p50"] is None or not report["latency"]["measured"]:
        return None, None, ""
    return entry["p50"], entry["p90"], report["latency"]["device"]


def _measurements(report: Report) -> Sequence[dict[str, Any]]:
    found = report.get("measurements", [])
    return found if isinstance(found, list) else []


def _predicted(report: Report) -> float | None:
    figures = [each["p50"] for each in report["latency"]["predicted"] if math.isfinite(each["p50"])]
    entry = chosen(report)
    if not report["latency"]["measured"] and entry is not None and entry["p50"] is not None:
        figures.append(entry["p50"])
    return min(figures, default=None)


def _size(path: Path) -> int:
    files = (file for room in (ENGINE, PLUGINS) for file in (path / room).rglob("*"))
    return sum(file.stat().st_size for file in files if file.is_file())


def render(rows: Sequence[Row], edgec: str) -> str:
    """One HTML file of all bundles."""
    return (
        environment()
        .get_template("compare.html.j2")
        .render(
            rows=rows,
            edgec=edgec,
            devices=sorted({row.device for row in rows if row.device}),
            longest=1.1 * max((row.p50 or 0.0 for row in rows), default=0.0),
            **page_parts(),
        )
    )
