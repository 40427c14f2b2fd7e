"""The results of a sweep in one SQLite file: a table `cells`, one row a cell, columns as `Row` has them."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from edgec.core.errors import RequestError
from edgec.sweep.rows import Row

FILE = "results.sqlite"

_COLUMNS = [field.name for field in dataclasses.fields(Row)]
_TYPES = {"p50": "REAL", "low": "REAL", "high": "REAL", "ratio": "REAL", "off": "REAL", "drop": "REAL"}
_TYPES["seconds"] = "REAL"


def write(folder: Path, rows: Iterable[Row]) -> None:
    """Write the rows into a sweep's file, in one transaction; what it held is replaced."""
    columns = ", ".join(f'"{name}" {_TYPES.get(name, "TEXT")}' for name in _COLUMNS)
    marks = ", ".join("?" * len(_COLUMNS))
    with contextlib.closing(sqlite3.connect(folder / FILE)) as base, base:
        base.execute('DROP TABLE IF EXISTS "cells"')
        base.execute(f'CREATE TABLE "cells" ({columns}, PRIMARY KEY ("model", "target", "row"))')
        base.executemany(f'INSERT INTO "cells" VALUES ({marks})', map(dataclasses.astuple, rows))


def read(folder: Path) -> list[Row]:
    """The rows of a sweep, in the order in which they were written.

    Raises:
        RequestError: there are none.
    """
    path = folder / FILE
    if not path.is_file():
        raise RequestError(f"has no {FILE}", where=str(folder), fix="name the folder of a sweep")
    names = ", ".join(f'"{name}"' for name in _COLUMNS)
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as base:
            return [Row(*line) for line in base.execute(f'SELECT {names} FROM "cells" ORDER BY rowid')]
    except sqlite3.Error as error:
        raise RequestError(f"it is no sweep's file: {error}", where=str(path)) from None
