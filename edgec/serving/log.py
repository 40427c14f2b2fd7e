"""The server's log: one JSON object a line, on standard error."""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import Any


def write(event: str, **fields: Any) -> None:
    """Write a line.

    Args:
        event: what happened, one word or two.
        fields: more about it, as JSON has it.
    """
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
    line = json.dumps({"time": now, "event": event, **fields}, ensure_ascii=True, default=str)
    print(line, file=sys.stderr, flush=True)


class Handler(logging.Handler):
    """Passes on what the HTTP library says."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's message, and the exception that it tells of."""
        error = record.exc_info[1] if record.exc_info else None
        fields = {} if error is None else {"error": f"{type(error).__name__}: {error}"}
        write("server", level=record.levelname.lower(), message=record.getMessage().strip(), **fields)
