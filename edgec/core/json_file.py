"""Reading JSON that others wrote: one sentence for whatever is wrong with it or missing from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from edgec.core.errors import IntegrityError
from edgec.core.limits import limit


class Record(dict[str, Any]):
    """A JSON object from outside; a key that it lacks is told as what is wrong with its file.

    Attributes:
        where: the file.
    """

    where = ""

    def __missing__(self, key: str) -> NoReturn:
        raise IntegrityError(f"has no field {key!r}", where=self.where, fix="compile the model again")


def read_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is too large, no JSON, or no object; one clause.
    """
    size = path.stat().st_size
    if size > limit("json_bytes"):
        raise ValueError(f"it has {size} bytes, over the limit of {limit('json_bytes')}")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("it is no UTF-8 text") from None
    if not isinstance(fields, dict):
        raise ValueError("it is no JSON object")
    return fields


def to_bytes(text: str) -> bytes:
    """JSON text in UTF-8; half a character, which a file's name can hold, becomes its JSON escape."""
    return text.encode("utf-8", "backslashreplace")
