"""The matrix of a sweep as one HTML page: a line a model and row of options, a column a target."""

from __future__ import annotations

import importlib.resources
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from edgec.sweep.rows import Row

FILE = "index.html"


def write(folder: Path, name: str, rows: Sequence[Row], planned: int) -> Path:
    """Write the page into a sweep's folder; bundles are linked to relative to it."""
    from jinja2 import Environment

    template = (importlib.resources.files(__package__) / "templates" / "matrix.html.j2").read_text("utf-8")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    targets = list(dict.fromkeys(row.target for row in rows))
    lines: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        lines.setdefault((row.model, row.row), {})[row.target] = row
    text = page.render(
        name=name,
        targets=targets,
        lines=lines,
        counts={target: Counter(row.verdict for row in rows if row.target == target) for target in targets},
        count=len(rows),
        planned=planned,
    )
    path = folder / FILE
    path.write_bytes(text.encode("utf-8", "backslashreplace"))
    return path
