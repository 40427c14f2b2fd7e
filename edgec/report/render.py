"""`report.json` as one HTML file that needs nothing else: no network, no font, no script from elsewhere."""

from __future__ import annotations

import base64
import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jinja2

from edgec.core.bundle import Bundle
from edgec.core.errors import RequestError
from edgec.report import charts, formats, gates, layers, summary
from edgec.report.advice import advice_by_cause
from edgec.report.schema import SCHEMA, LatencyEntry, Report
from edgec.runtime.engines import kind_of, what_runs

_TEMPLATES = Path(__file__).parent / "templates"

_ROLES = {"chosen": "chosen", "candidate": "candidate", "baseline": "peer"}

_EMPTY: dict[str, Any] = {
    "edgec": "",
    "command": "",
    "created": "",
    "target": "",
    "device": {},
    "engine": "",
    "precision": "",
    "form": "",
    "seed": 0,
    "inputs_drawn": [],
    "ranges_from": "",
    "branches": None,
    "accuracy": None,
    "layers": [],
    "passes": [],
    "attention": [],
    "fallbacks": [],
    "known_wrong": [],
    "tokens": None,
    "slim": None,
    "tools": {},
    "files": {},
}
_EMPTY_MODEL: dict[str, Any] = {
    "spec": "",
    "kind": "",
    "name": "",
    "sha256": "",
    "exporter": "none",
    "exporter_reason": "",
    "weights": "",
    "notes": [],
    "parameters": None,
    "macs": None,
    "inputs": [],
    "outputs": [],
}
_EMPTY_LATENCY: dict[str, Any] = {"measured": True, "device": "", "blocks": 0, "entries": [], "predicted": []}

_EMPTY_ENTRY: dict[str, Any] = dict.fromkeys(("interval", "ratio_interval", "verdict", "p99", "histogram"))


def report_data(source: str | Path | Mapping[str, Any]) -> Report:
    """A report, from a bundle or as a dict, with every section it leaves out present and empty.

    Args:
        source: a bundle's folder or zip, or what its `report.json` holds.

    Raises:
        RequestError: it is no report, or one of a newer edgec.
        IntegrityError: the bundle's files are not what was recorded.
    """
    fields = dict(source) if isinstance(source, Mapping) else Bundle.open(source).report()
    schema = fields.get("schema")
    if not isinstance(schema, int) or "model" not in fields:
        raise RequestError("this is not a report", fix="give a bundle's report.json")
    if schema > SCHEMA:
        raise RequestError(
            f"the report has schema {schema}, this edgec reads up to {SCHEMA}", fix="upgrade edgec"
        )
    whole = {**_EMPTY, **fields}
    engine = whole["engine"]
    kind = kind_of(engine)
    whole["model"] = {**_EMPTY_MODEL, **fields["model"]}
    whole["numerics"] = {
        "gates": [],
        "kind": kind,
        "ran": what_runs(engine),
        **(fields.get("numerics") or {}),
    }
    if whole["accuracy"]:
        whole["accuracy"] = {"kind": kind, **whole["accuracy"]}
    whole["latency"] = {**_EMPTY_LATENCY, **(fields.get("latency") or {})}
    whole["latency"]["entries"] = [{**_EMPTY_ENTRY, **entry} for entry in whole["latency"]["entries"]]
    return cast(Report, whole)


def render(report: Mapping[str, Any]) -> str:
    """One HTML file of a report. The same report gives the same bytes.

    Every text of the report is escaped: layer names and notes come from other people's models. The page
    forbids itself to load anything (a content security policy), and runs one script, its own.

    Raises:
        RequestError: it is no report, or one of a newer edgec.
    """
    data = report_data(report)
    entries = data["latency"]["entries"]
    slowest = sorted(data["layers"], key=lambda layer: -layer["microseconds"])[: layers.TOP_LAYERS]
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            report=data,
            **page_parts(),
            verdicts=summary.verdicts(data),
            chosen=summary.chosen(data),
            frontier=_frontier,
            longest=_scale(entries),
            warnings=summary.warnings(data),
            total=sum(layer["microseconds"] for layer in data["layers"]),
            slowest=slowest,
            ranked=sorted(entries, key=lambda entry: math.inf if entry["p50"] is None else entry["p50"]),
            role_names=_ROLES,
            fusions=[step for step in data["passes"] if step["name"].startswith("fuse.") and step["matched"]],
            modules=layers.by_module(data["layers"]),
            kinds=layers.by_kind(data["layers"]),
            advice=advice_by_cause(cast(Mapping[str, Any], data).get("neural_engine")),
        )
    )


def page_parts() -> dict[str, str]:
    """What every page carries: its style, its one script, and the script's digest for the security policy."""
    script = (_TEMPLATES / "sort.js").read_text(encoding="utf-8")
    return {
        "style": (_TEMPLATES / "style.css").read_text(encoding="utf-8"),
        "script": script,
        "script_digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }


def _frontier(section: Mapping[str, Any]) -> list[tuple[float, float, str, str]]:
    """The points of a lossy step's chart: latency, score, class, title."""
    return [
        (
            point["p50"],
            point["score"],
            "chosen" if point["chosen"] else "",
            f"{point['name']}: {formats.milliseconds(point['p50'])} ms",
        )
        for point in section["frontier"]
    ]


def _scale(entries: Sequence[LatencyEntry]) -> float:
    """The right edge of the latency chart: a little over the longest median, of a run or of a block."""
    return 1.1 * max((max([entry["p50"] or 0.0, *entry["blocks"]]) for entry in entries), default=0.0)


@functools.cache
def environment() -> jinja2.Environment:
    """The templates, with the charts and the numbers' formats."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = (
        "milliseconds",
        "microseconds",
        "ratio",
        "between",
        "share",
        "score",
        "drop",
        "small",
        "cosine",
        "count",
        "shape",
    )
    made.filters.update({name: getattr(formats, name) for name in names})
    made.globals.update(charts=charts, gates=gates, kind=layers.kind, plural=formats.plural)
    return made
