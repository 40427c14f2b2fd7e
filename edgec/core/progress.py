"""Progress of long steps: a line with a spinner on a terminal, nothing in a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol

from edgec.core.quoting import printable


class Progress(Protocol):
    """Where long steps say what they are doing."""

    def step(self, text: str) -> None:
        """Say which step runs now."""

    def note(self, text: str) -> None:
        """Say something that must stay readable after the step."""


class Silent:
    """Says nothing, except notes to whoever collects them."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def step(self, text: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Keep the note."""
        self.notes.append(text)


class _Terminal:
    def __init__(self, console, status) -> None:  # type: ignore[no-untyped-def]
        self._console = console
        self._status = status

    def step(self, text: str) -> None:
        from rich.markup import escape

        self._status.update(escape(printable(text)))

    def note(self, text: str) -> None:
        self._console.print(printable(text), highlight=False, markup=False)


class _Pipe:
    def step(self, text: str) -> None:
        """Nothing: a log of a pipe keeps only what matters."""

    def note(self, text: str) -> None:
        print(printable(text), file=sys.stderr)


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """Progress on standard error, live on a terminal and quiet in a pipe."""
    if not sys.stderr.isatty():
        yield _Pipe()
        return
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("starting") as status:
        yield _Terminal(console, status)
