"""The gates' table: whatever figures the gates hold, under the words that are known for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from edgec.report import formats

LABELS = {
    "max_abs": "Largest difference",
    "scaled": "Of the output's spread",
    "rms": "On the whole",
    "cosine": "Cosine",
    "rounding": "The source's own rounding",
    "slice_rms": "Worst slice",
    "unequal": "Other whole numbers",
    "near_ties": "Near-ties",
}
"""Headings of the figures by their key; another one is headed by its key."""

_TOLD_APART = (
    "stage",
    "output",
    "passed",
    "samples",
    "gate",
    "details",
    "beyond",
    "beyond_rms",
    "blame",
    "rounded_inputs",
)
_RARE = ("unequal", "near_ties")
"""Figures that get a column only where one of them is not 0."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One gate as the table shows it.

    Attributes:
        cells: its figures in the order of the columns; `–` where it has none.
        allowed: its bounds, each under its heading.
        remarks: whatever else it says in words.
    """

    cells: tuple[str, ...]
    allowed: str
    remarks: str


def columns(gates: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys of the figures that any gate holds, in their order."""
    keys = [
        key
        for gate in gates
        for key, value in gate.items()
        if key not in _TOLD_APART and _is_figure(value) and (value or key not in _RARE)
    ]
    return list(dict.fromkeys(keys))


def row(gate: Mapping[str, Any], keys: Sequence[str]) -> Row:
    """A gate's row under the columns."""
    bounds = {key: value for key, value in gate["gate"].items() if _is_figure(value)}
    remarks = [
        str(value)
        for key, value in gate.items()
        if key not in _TOLD_APART
        and value
        and not _is_figure(value)
        and not isinstance(value, Mapping | list)
    ]
    if gate.get("rounded_inputs"):
        remarks.append("the source's own rounding is what rounding its inputs moves in it")
    blame = gate.get("blame")
    if blame:
        what = blame["pass_name"] or blame["before"] or "it"
        where = f" at layer {blame['source']}" if blame["source"] else ""
        remarks.append(f"{what} goes wrong first{where}" + (f"; {blame['fix']}" if blame["fix"] else ""))
    return Row(
        tuple(_text(key, gate[key]) if _is_figure(gate.get(key)) else formats.NONE for key in keys),
        ", ".join(
            f"{heading(key)[:1].lower()}{heading(key)[1:]} {_text(key, bounds[key])}" for key in bounds
        ),
        "; ".join(remarks),
    )


def heading(key: str) -> str:
    """A figure's heading."""
    return LABELS.get(key, key.replace("_", " ").capitalize())


def _is_figure(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(key: str, value: float) -> str:
    return formats.cosine(value) if key == "cosine" else formats.small(value)
