"""What a device measured of a bundle, merged into the bundle's report as measured, with the device's name.

The shape, whatever kind of device it comes from; latencies are milliseconds, layer times microseconds:

    {"schema": 1, "model_sha256": …, "measured": "2026-11-22T21:00:00Z",
     "device": {"name": …, …}, "latency": {"p50": …, "p90": …, "blocks": […]},
     "layers": [{"layer", "source", "op", "microseconds"}], "verified": {"max_abs", "scaled", "rms", …}}

`model_sha256` is that of the file in the bundle that was measured. Further keys are kept as they are.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgec.core import bundle as bundles
from edgec.core.bundle import Bundle
from edgec.core.errors import RequestError
from edgec.core.json_file import read_object, to_bytes
from edgec.core.timing import median_interval
from edgec.report.schema import LATENCY_FIGURES

SCHEMA = 1


def read(path: Path) -> dict[str, Any]:
    """Read what a device measured.

    Raises:
        RequestError: there is no such file, or it is not of this shape.
    """
    try:
        fields = read_object(path)
    except (OSError, ValueError) as error:
        raise RequestError(
            f"cannot be read ({error})", where=str(path), fix="give the JSON file that the device wrote"
        ) from error
    return checked(fields, str(path))


def checked(fields: Any, where: str) -> dict[str, Any]:
    """The fields, once they are seen to be of the shape.

    Raises:
        RequestError: says what is missing.
    """
    fix = "give the JSON file that the device wrote"
    if not isinstance(fields, dict) or not isinstance(fields.get("schema"), int):
        raise RequestError("this is not a device's report", where=where, fix=fix)
    if fields["schema"] > SCHEMA:
        raise RequestError(
            f"the device's report has schema {fields['schema']}, this edgec reads up to {SCHEMA}",
            where=where,
            fix="update edgec",
        )
    device, latency = fields.get("device"), fields.get("latency")
    missing = [key for key in ("model_sha256", "layers") if key not in fields]
    if not isinstance(device, dict) or not device.get("name"):
        missing.append("device.name")
    if not isinstance(latency, dict):
        missing.append("latency")
    else:
        missing += [f"latency.{key}" for key in ("p50", "p90", "blocks") if latency.get(key) is None]
    if missing:
        raise RequestError(f"it lacks {', '.join(missing)}", where=where, fix=fix)
    return fields


def check_model(bundle: Bundle, measured: Mapping[str, Any]) -> None:
    """See that the figures are of a file in the bundle.

    Raises:
        RequestError: they are of another model.
    """
    if measured["model_sha256"] not in bundle.manifest["files"].values():
        raise RequestError(
            "these figures are of another model",
            where=str(bundle.path),
            fix="merge them into the bundle that was measured",
        )


def merge(bundle: Bundle, measured: Mapping[str, Any]) -> Bundle:
    """Merge a device's figures into a bundle, and seal it again.

    The chosen engine's latency, the layers and the report's page become those of the device; the machine
    that compiled moves to `compiled_on`. All that the device said is kept under `measurements` of the
    report, one entry a device. What was measured of other engines elsewhere is no peer and leaves the
    latencies.

    Args:
        bundle: a bundle's folder, opened.
        measured: of the shape above.

    Returns:
        the bundle, opened again.

    Raises:
        RequestError: the figures are of another model, or the bundle is a zip file.
        JobError: the bundle cannot be written; it is left as it was.
    """
    from edgec.report.render import render

    fields = checked(measured, "the device's report")
    check_model(bundle, fields)
    if bundle.is_unpacked:
        raise RequestError("a zip file is not written to", where=str(bundle.path), fix="unpack it first")
    report = merged(bundle.report(), fields)
    manifest = {key: value for key, value in bundle.manifest.items() if key not in ("files", "sha256")}
    manifest["latency"] = {**report["latency"], "entries": _short(report["latency"]["entries"])}
    manifest["device"] = report["device"]
    with bundles.writing(bundle.path) as scratch:
        _link_files(bundle.path, scratch)
        bundles.write_json(scratch / bundles.REPORT_JSON, report)
        (scratch / bundles.REPORT_HTML).write_bytes(to_bytes(render(report)))
        bundles.seal(scratch, manifest)
    return Bundle.open(bundle.path, check=False)


def merged(report: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """A report with a device's figures in it; the given one is left as it is."""
    latency, name = measured["latency"], str(measured["device"]["name"])
    blocks = list(latency["blocks"])
    before = dict(report.get("latency") or {})
    entries = [dict(entry) for entry in before.get("entries", []) if entry["role"] == "chosen"] or [
        {
            "name": str(report.get("engine", "")),
            "role": "chosen",
            "engine": report.get("engine", ""),
            "precision": report.get("precision", ""),
            "form": report.get("form", ""),
            "passed": True,
        }
    ]
    entries[0].update(
        p50=latency["p50"],
        p90=latency["p90"],
        spread=(max(blocks) - min(blocks)) / latency["p50"] if blocks and latency["p50"] else None,
        blocks=blocks,
        interval=median_interval(blocks).to_json(),
        ratio_to_best_baseline=None,
        ratio_interval=None,
        verdict=None,
        why="",
    )
    # Not measured beside this engine: only what no device ran may stay, without figures.
    others = [
        entry for entry in before.get("entries", []) if entry["role"] != "chosen" and entry.get("p50") is None
    ]
    kept = [entry for entry in report.get("measurements", []) if entry["device"]["name"] != name]
    return {
        **report,
        "device": dict(measured["device"]),
        "compiled_on": report.get("compiled_on", report.get("device") or {}),
        "latency": {
            "predicted": before.get("predicted", []),
            "measured": True,
            "device": name,
            "blocks": len(blocks),
            "entries": entries + others,
        },
        "layers": list(measured["layers"]),
        "measurements": [*kept, dict(measured)],
    }


def _short(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: entry.get(key) for key in LATENCY_FIGURES} for entry in entries]


def _link_files(source: Path, target: Path) -> None:
    """Every file but those that are written anew; as a link, because engines are large."""
    anew = {bundles.MANIFEST, bundles.REPORT_JSON, bundles.REPORT_HTML}
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if path.is_dir():
            (target / name).mkdir(parents=True, exist_ok=True)
        elif name.as_posix() not in anew:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, target / name)
            except OSError:
                shutil.copy2(path, target / name)
