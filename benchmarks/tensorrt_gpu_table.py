"""The table of `tensorrt_gpu.py`: verdicts and times by release of TensorRT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tables import RESULTS, markdown

EXPLAINED = (
    "Off: the largest difference and the whole (rms), over the output's spread, less what the source's own "
    "rounding explains. Emulated is the compile's own check on its graph, TensorRT's is the built engine's, "
    "both against the source's outputs on the bundle's three samples; allowed is what the plan tells the "
    "device. The plain export is held against ONNX Runtime on its own file, on the first sample; it takes no "
    "tokens away. Ratio: edgec's median time over the plain export's, of alternating blocks."
)


def table(rows: list[dict[str, Any]]) -> str:
    """The results in Markdown."""
    listed = []
    for row in rows:
        emulated, verified = row.get("emulated"), row.get("verified")
        edgec, plain = (
            np.array(row[kind]["graph"]) if kind in row else None for kind in ("edgec_time", "plain_time")
        )
        said = row.get("failed") or row.get("untimed") or (verified or {}).get("broken") or ""
        listed.append(
            [
                row["tensorrt"],
                row["model"],
                row["precision"],
                row["batch"],
                "" if row["tokens"] == "off" else row["tokens"],
                _off(emulated),
                _off(verified),
                "" if verified is None else "{scaled:.0e}, {rms:.0e}".format(**verified["gate"]),
                row["edgec"],
                _verdict(row),
                "" if edgec is None else f"{np.median(edgec):.1f}",
                "" if plain is None else f"{np.median(plain):.1f}",
                "" if edgec is None or plain is None else f"{np.median(edgec / plain):.3f}",
                f"{row['plain_off']:.1e}" if row.get("plain_off") is not None else "",
                said.splitlines()[0][:80] if said else "",
            ]
        )
    headers = ["TensorRT", "model", "precision", "batch", "tokens", "off, emulated", "off, TensorRT"]
    headers += ["allowed", "edgec's verdict", "TensorRT's", "edgec, µs", "plain, µs", "ratio", "plain, off"]
    return markdown([*headers, ""], listed)


def _off(judged: dict[str, Any] | None) -> str:
    return "" if judged is None else "{beyond:.1e}, {beyond_rms:.1e}".format(**judged)


def _verdict(row: dict[str, Any]) -> str:
    if row["edgec"] == "refused":
        return "–"
    if "verified" not in row:
        return "failed"
    return "passed" if row["verified"]["passed"] else "REFUSED"


def summary(rows: list[dict[str, Any]]) -> str:
    """How many rows agree, and how edgec's fp16 engines compare with the plain ones, by release."""
    lines = []
    for release in sorted({row["tensorrt"] for row in rows}):
        of = [row for row in rows if row["tensorrt"] == release]
        verdicts = [_verdict(row) for row in of]
        counts = {word: verdicts.count(word) for word in ("passed", "REFUSED", "failed", "–")}
        text = (
            "- TensorRT {0}: {1} rows; {passed} passed here and there, {REFUSED} passed here and were "
            "refused there, {failed} were not built or run there, {–} were refused here"
        ).format(release, len(of), **counts)
        for kind, reduced in (("as they are", False), ("reduced", True)):
            ratios = [
                np.median(np.array(row["edgec_time"]["graph"]) / np.array(row["plain_time"]["graph"]))
                for row in of
                if "plain_time" in row and (row["tokens"] != "off") == reduced
            ]
            if ratios:
                mean = np.exp(np.mean(np.log(ratios)))
                text += f"; geometric mean of the ratio, {kind}: {mean:.3f} ({len(ratios)} rows)"
        lines.append(text + ".")
    return "\n".join(lines)


def publish(works: list[Path], rows: list[str]) -> None:
    """Write the table with its machine, and `WORK/notes.md` under it where that is there.

    Args:
        works: the folders of `tensorrt_gpu.py`, one a release.
        rows: the rows' names, in order.
    """
    found, missing, machines = [], [], []
    for work in works:
        on = json.loads((work / "machine.json").read_text(encoding="utf-8"))
        machines.append(f"{on['gpu']}, driver {on['driver']}")
        for row in rows:
            paths = [work / step / f"{row}.json" for step in ("verified", "timed")]
            kept = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
            if not kept:
                missing.append(f"{row} ({on['tensorrt']})")
                continue
            found.append({"tensorrt": on["tensorrt"], **kept[0], **kept[-1]})
    notes = works[0] / "notes.md"
    parts = [
        "# Jetson bundles in TensorRT on a GPU",
        "Command: `python benchmarks/tensorrt_gpu.py table WORK`, after its other steps on the machine",
        f"Machine: {'; '.join(dict.fromkeys(machines))}",
        EXPLAINED,
        summary(found),
        table(found),
        *([notes.read_text(encoding="utf-8").strip()] if notes.exists() else []),
        *([f"Not measured: {', '.join(missing)}."] if missing else []),
    ]
    text = "\n\n".join(parts) + "\n"
    print(text)
    (RESULTS / "tensorrt_gpu.md").write_text(text, encoding="utf-8")
