"""Connections that keep the server waiting are hung up on, and their number is bounded.

uvicorn closes a connection that is idle after an answer. One that never sends the whole head of a request,
or does not read its answer, it keeps for ever: it costs no thread, but a file and some memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
import weakref
from typing import Any, AsyncIterator

LONGEST_HEAD = 10.0
"""Seconds for the head of a connection's first request."""

KEEP_ALIVE = 75
"""Seconds that a connection stays open between requests."""

LARGEST_HEAD = 1 << 16
"""Bytes of a head, as far as it has come."""

_PERIOD = 0.5
_FILES_FOR_OTHERS = 64
"""Files that the process keeps for itself: the engine's, the log, what listens."""


def most_connections() -> int:
    """Connections that may be open at once: what the system lets a process open, less its own files.

    The soft bound on open files is raised to the hard one first.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1 << 16 if hard == resource.RLIM_INFINITY else min(hard, 1 << 16)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    most = wanted if soft == resource.RLIM_INFINITY else min(soft, wanted)
    return max(16, most - _FILES_FOR_OTHERS)


@contextlib.asynccontextmanager
async def bounded(server: Any, most: int) -> AsyncIterator[None]:
    """Watch a uvicorn server's connections while the block runs.

    Args:
        server: the `uvicorn.Server`.
        most: connections; over it, those that have waited longest go first.
    """
    task = asyncio.get_running_loop().create_task(_watch(server, most))
    try:
        yield
    finally:
        task.cancel()


async def _watch(server: Any, most: int) -> None:
    # Since when a connection waits, and behind which request: what was answered before does not count.
    since: weakref.WeakKeyDictionary[Any, tuple[int, float]] = weakref.WeakKeyDictionary()
    while True:
        await asyncio.sleep(_PERIOD)
        now = time.monotonic()
        waiting = []
        for connection in list(server.server_state.connections):
            cycle = connection.cycle
            if cycle is not None and not cycle.response_complete:
                since.pop(connection, None)
                continue
            behind, began = since.get(connection, (None, now))
            if behind != id(cycle):
                behind, began = id(cycle), now
            since[connection] = (id(cycle), began)
            allowed = LONGEST_HEAD if cycle is None else KEEP_ALIVE
            if now - began > allowed or _head_bytes(connection) > LARGEST_HEAD:
                connection.transport.abort()
            else:
                waiting.append((began, connection))
        over = len(server.server_state.connections) - most
        if over > 0:
            waiting.sort(key=lambda entry: entry[0])
            for _, connection in waiting[:over]:
                connection.transport.abort()


def _head_bytes(connection: Any) -> int:
    """Bytes of headers that have come of a request whose head is not whole."""
    return sum(len(name) + len(value) for name, value in connection.headers or ())
