"""Children of tests: each has a deadline, and none outlives its test.

A test that fails, or hangs until pytest-timeout ends it, leaves whatever it started: a server, a compile.
What a test itself started is killed when it ends; what a fixture started, which may serve further tests, when
the run ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

DEADLINE_SECONDS = 600.0
"""How long a child is waited for where a test names no time."""

_living: list[subprocess.Popen[Any]] = []


class _Child(subprocess.Popen[Any]):
    """A child that is known, and is not waited for without end."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        _living[:] = [child for child in _living if child.returncode is None]
        _living.append(self)

    def wait(self, timeout: float | None = None) -> int:
        with self._killed_late():
            return super().wait(DEADLINE_SECONDS if timeout is None else timeout)

    def communicate(self, given: Any = None, timeout: float | None = None, **more: Any) -> tuple[Any, Any]:
        with self._killed_late():
            given = more.pop("input", given)
            return super().communicate(given, DEADLINE_SECONDS if timeout is None else timeout)

    @contextlib.contextmanager
    def _killed_late(self) -> Iterator[None]:
        try:
            yield
        except subprocess.TimeoutExpired as error:
            if error.timeout == DEADLINE_SECONDS:
                self.kill()
            raise


def watch() -> None:
    """From now on, know every child that is started."""
    subprocess.Popen = _Child  # type: ignore[misc]


def mark() -> list[subprocess.Popen[Any]]:
    """The children there are: `end_others` spares them."""
    return list(_living)


def end_others(spared: list[subprocess.Popen[Any]]) -> None:
    """Kill all children but some, and those that they lead as a group."""
    for child in _living:
        if child in spared or child.poll() is not None:
            continue
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(child.pid) == child.pid:
                os.killpg(child.pid, signal.SIGKILL)
        child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.Popen.wait(child, 10)
    _living[:] = [child for child in _living if child in spared]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Run a test, and end what it left running."""
    before = mark()
    try:
        return (yield)
    finally:
        end_others(before)


def pytest_sessionfinish() -> None:
    """End what fixtures left running."""
    end_others([])
