"""What commands print: one JSON object on standard output, everything human on standard error."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from edgec.core.quoting import printable


def print_json(fields: Mapping[str, Any]) -> None:
    """One JSON object on standard output; infinities become null, which JSON has."""
    print(json.dumps(_finite(fields), indent=1, ensure_ascii=False))


def print_table(
    headers: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None
) -> None:
    """A table on standard output, columns of numbers to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, header in enumerate(headers):
        numeric = all(isinstance(row[index], int | float) or row[index] is None for row in rows)
        table.add_column(header, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    # A pipe has no width of its own: print whole lines there and let the reader cut.
    Console(width=None if sys.stdout.isatty() else 200, markup=False, emoji=False, highlight=False).print(
        table
    )


def between(interval: Sequence[float] | None) -> str | None:
    """The interval of a median as people read it: `12.1 to 12.4`; None where there is none."""
    return None if interval is None else f"{interval[0]:.3g} to {interval[1]:.3g}"


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"
    return printable(str(value))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
