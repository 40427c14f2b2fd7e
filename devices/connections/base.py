"""The contract of a connection: run a command, write a file, and say what went wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from edgec.core.errors import JobError


class ConnectionCutError(JobError):
    """The connection broke; what was copied so far is still there, and copying goes on from it."""


@dataclasses.dataclass(frozen=True)
class Output:
    """What a command gave.

    Attributes:
        status: its exit status.
        stdout: its standard output.
        stderr: its standard error.
    """

    status: int
    stdout: str
    stderr: str


class Connection(Protocol):
    """A device that is reached; a context manager.

    Attributes:
        name: how messages call it.
    """

    name: str

    def run(self, command: str, on_line: Callable[[str], None] | None = None) -> Output:
        """Run a command of the POSIX shell in the user's home.

        Args:
            command: the command line.
            on_line: told every line of standard error as it comes.

        Raises:
            ConnectionCutError: the connection broke.
        """

    def write(self, source: Path, target: str, on_bytes: Callable[[int], None]) -> None:
        """Copy a file to the device, going on with what an earlier attempt left; whole or under another name.

        Args:
            source: the file here.
            target: its absolute path there; its folder exists.
            on_bytes: told how many more bytes are there.

        Raises:
            ConnectionCutError: the connection broke.
            JobError: the device cannot write it.
        """

    def __enter__(self) -> Connection:
        """The connection itself."""

    def __exit__(self, *_: object) -> None:
        """Close it."""
