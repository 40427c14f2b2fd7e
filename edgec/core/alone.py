"""One measurement at a time on a machine on which several processes of edgec work.

Whoever works holds the machine together with the others; whoever measures holds it alone, and waits until all
others measure as well or are done. It queues for that: nobody new begins to work before it. The locks are of
the kernel, so a process that was killed holds none. They are taken where the environment names their folder
(a sweep does); a single process needs none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

FOLDER = "EDGEC_MACHINE_LOCKS"
"""The variable that names a folder of this machine, which exists."""

_held: list[int] = []
"""The lock of this process while it works, and one more entry while it measures."""


@contextlib.contextmanager
def working() -> Iterator[None]:
    """Hold the machine together with whoever else works; nothing where no folder is named."""
    folder = os.environ.get(FOLDER)
    if not folder or _held:
        yield
        return
    import fcntl

    with contextlib.ExitStack() as stack:
        lock, queue = (_opened(stack, Path(folder) / name) for name in ("machine", "queue"))
        _wait_in(queue, lock, fcntl.LOCK_SH)
        _held.extend((lock, queue))
        try:
            yield
        finally:
            _held.clear()


@contextlib.contextmanager
def measuring() -> Iterator[None]:
    """Hold the machine alone; nothing where this process does not hold it at all, or alone already."""
    if len(_held) != 2:
        yield
        return
    import fcntl

    lock, queue = _held
    # A lock that is given up before it is asked for again cannot wait for one that does the same.
    fcntl.flock(lock, fcntl.LOCK_UN)
    _wait_in(queue, lock, fcntl.LOCK_EX)
    _held.append(lock)
    try:
        yield
    finally:
        _held.pop()
        fcntl.flock(lock, fcntl.LOCK_UN)
        _wait_in(queue, lock, fcntl.LOCK_SH)


def _opened(stack: contextlib.ExitStack, path: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    stack.callback(os.close, handle)
    return handle


def _wait_in(queue: int, lock: int, kind: int) -> None:
    import fcntl

    fcntl.flock(queue, fcntl.LOCK_EX)
    try:
        fcntl.flock(lock, kind)
    finally:
        fcntl.flock(queue, fcntl.LOCK_UN)


class Held:
    """A lock of one name, held alone by one thread of any process of this machine; a context manager.

    Args:
        path: its file; None for no lock at all.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._handle: int | None = None

    def __enter__(self) -> None:
        if self._path is None:
            return
        import fcntl

        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._handle, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            os.close(self._handle)
