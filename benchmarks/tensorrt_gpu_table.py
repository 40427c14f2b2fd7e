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

EXPORT = "export"
"""The plain export among the names of a row's variants."""

VARIANTS = (
    "Every variant that was built: TensorRT's verdict, and its median time over the plain export's. The "
    "first that passes is taken; one after it takes its place where it passes and wins 8 of 9 blocks by 1 %."
)


def table(rows: list[dict[str, Any]]) -> str:
    """The results in Markdown."""
    listed = []
    for row in rows:
        emulated, chosen = row.get("emulated"), choice(row)
        verified = row.get("variants", {}).get(chosen)
        edgec, plain = _times(row, chosen), _times(row, EXPORT)
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
                chosen or "",
                "" if edgec is None else f"{np.median(edgec):.1f}",
                "" if plain is None else f"{np.median(plain):.1f}",
                "" if edgec is None or plain is None else f"{np.median(edgec / plain):.3f}",
                f"{row['plain_off']:.1e}" if row.get("plain_off") is not None else "",
                said.splitlines()[0][:80] if said else "",
            ]
        )
    headers = ["TensorRT", "model", "precision", "batch", "tokens", "off, emulated", "off, TensorRT"]
    headers += ["allowed", "edgec's verdict", "TensorRT's", "chosen", "edgec, µs", "plain, µs", "ratio"]
    return markdown([*headers, "plain, off", ""], listed)


def choice(row: dict[str, Any]) -> str | None:
    """What the device would keep of a row's variants, by the rule of `edgec_engine.choice`.

    The first is the plan's own; None where nothing was built.
    """
    judged = row.get("variants", {})
    best: str | None = None
    for name in judged:
        if best is None:
            best = name
        elif judged[name]["passed"]:
            is_first = not judged[best]["passed"]
            best = name if is_first or _is_faster(_times(row, name), _times(row, best)) else best
    return best


def _is_faster(trial: np.ndarray | None, best: np.ndarray | None) -> bool:
    if trial is None or best is None:
        return False
    return bool(np.mean(trial < best) >= 8 / 9 and np.median(trial) <= 0.99 * np.median(best))


def _times(row: dict[str, Any], name: str | None) -> np.ndarray | None:
    """Microseconds of each block; None where it was not timed."""
    found = row.get("export_time") if name == EXPORT else row.get("times", {}).get(name or "own")
    return None if found is None else np.array(found["graph"])


def variants_table(rows: list[dict[str, Any]]) -> str:
    """Every variant's time over the plain export's, and what was refused."""
    names = list(dict.fromkeys(name for row in rows for name in row.get("variants", {}) if name))
    listed = []
    for row in rows:
        plain = _times(row, EXPORT)
        cells = []
        for name in names:
            judged, times = row.get("variants", {}).get(name), _times(row, name)
            word = "" if judged is None else "passed" if judged["passed"] else "REFUSED"
            if times is not None and plain is not None:
                word += f" {np.median(times / plain):.3f}"
            elif times is not None:
                word += f" {np.median(times):.0f} µs"
            cells.append(word.strip())
        if any(cells):
            named = [row[key] for key in ("tensorrt", "model", "batch", "tokens")]
            listed.append([*named, *cells, choice(row) or ""])
    return markdown(["TensorRT", "model", "batch", "tokens", *names, "chosen"], listed) if listed else ""


def _off(judged: dict[str, Any] | None) -> str:
    return "" if judged is None else "{beyond:.1e}, {beyond_rms:.1e}".format(**judged)


def _verdict(row: dict[str, Any]) -> str:
    if row["edgec"] == "refused":
        return "–"
    chosen = choice(row)
    if chosen is None:
        return "failed"
    return "passed" if row["variants"][chosen]["passed"] else "REFUSED"


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
                np.median(times / plain)
                for row in of
                if (row["tokens"] != "off") == reduced
                and (plain := _times(row, EXPORT)) is not None
                and (times := _times(row, choice(row))) is not None
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
        *(["## Variants", VARIANTS, variants_table(found)] if variants_table(found) else []),
        *([notes.read_text(encoding="utf-8").strip()] if notes.exists() else []),
        *([f"Not measured: {', '.join(missing)}."] if missing else []),
    ]
    text = "\n\n".join(parts) + "\n"
    print(text)
    (RESULTS / "tensorrt_gpu.md").write_text(text, encoding="utf-8")
