"""Progress of long jobs: a line with a spinner on a terminal, one plain line a stage in a pipe."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Protocol

from edgec.core.quoting import printable


class Progress(Protocol):
    """Where long jobs say what they are doing."""

    def stage(self, number: int, of: int, text: str, seconds: float | None = None) -> None:
        """Say which part of the whole job begins now.

        Args:
            number: its place, from 1.
            of: how many there are.
            text: what is done.
            seconds: what it takes at most, beside what is being tried then; None where nobody knows.
        """

    def step(self, text: str) -> None:
        """Say which step of the stage runs now."""

    def note(self, text: str) -> None:
        """Say something that must stay readable after the step."""


class Silent:
    """Says nothing, except notes to whoever collects them."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def stage(self, number: int, of: int, text: str, seconds: float | None = None) -> None:
        """Nothing."""

    def step(self, text: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Keep the note."""
        self.notes.append(text)


class _Terminal:
    def __init__(self, console, status) -> None:  # type: ignore[no-untyped-def]
        self._console = console
        self._status = status
        self._stage = ""
        self._ends: float | None = None

    def stage(self, number: int, of: int, text: str, seconds: float | None = None) -> None:
        self._stage = f"step {number} of {of}: "
        self._ends = None if seconds is None else time.monotonic() + seconds
        self.step(text)

    def step(self, text: str) -> None:
        from rich.markup import escape

        left = "" if self._ends is None else f" ({_left(self._ends - time.monotonic())})"
        self._status.update(escape(printable(f"{self._stage}{text}{left}")))

    def note(self, text: str) -> None:
        self._console.print(printable(text), highlight=False, markup=False)


class _Pipe:
    def __init__(self) -> None:
        self._started = time.monotonic()
        self._held = ""

    def stage(self, number: int, of: int, text: str, seconds: float | None = None) -> None:
        said = "" if seconds is None else f" ({_left(seconds)})"
        after = f", after {time.monotonic() - self._started:.0f} s" if number > 1 else ""
        line = printable(f"step {number} of {of}: {text}{said}{after}")
        if number == 1:
            # Where the request is wrong that is all there is to say: nothing stands before it.
            self._held = line
        else:
            self._say(line)

    def step(self, text: str) -> None:
        """Nothing: a log of a pipe keeps only what matters."""

    def note(self, text: str) -> None:
        self._say(printable(text))

    def _say(self, line: str) -> None:
        for each in filter(None, (self._held, line)):
            print(each, file=sys.stderr, flush=True)
        self._held = ""


def _left(seconds: float) -> str:
    """What is left of a bound."""
    whole = max(0, round(seconds))
    return f"at most {whole // 60}:{whole % 60:02} left" if whole >= 60 else f"at most {whole} s left"


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """Progress on standard error, live on a terminal, by stages in a pipe."""
    if not sys.stderr.isatty():
        yield _Pipe()
        return
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("starting") as status:
        yield _Terminal(console, status)
