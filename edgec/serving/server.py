"""Serving models over HTTP until a signal ends it.

uvicorn speaks HTTP: it is plain Python, so it runs wherever a bundle does, on Python 3.8 of a Jetson too, and
in one process, where the engine is; it takes its faster parser and event loop where they are installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import signal
import socket
import threading
from typing import Any, AsyncIterator, Sequence

import uvicorn

from edgec.serving import log, patience
from edgec.serving.app import Service
from edgec.serving.batching import Queue, Run
from edgec.serving.metrics import Metrics
from edgec.serving.model import Model

_LONGEST_STOP = 30
"""Seconds that requests under way get after the signal."""

_BACKLOG = 2048


@dataclasses.dataclass(frozen=True)
class Options:
    """How a server answers.

    Attributes:
        host: the address to listen on.
        port: the port; 0 for any that is free.
        waiting: requests that wait for a model at most; more are refused with 503.
        seconds: how long a request may take.
        delay: seconds that a request is held back at most to share a run with others.
        log_requests: whether each request is logged.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    waiting: int = 256
    seconds: float = 30.0
    delay: float = 0.002
    log_requests: bool = False


def serve(models: Sequence[Model], version: str, options: Options) -> None:
    """Answer until SIGINT or SIGTERM, then finish what was begun and return.

    Args:
        models: the models, each of another name.
        version: the server's version.
        options: how.

    Raises:
        OSError: it cannot listen there.
    """
    with _ended_by_signals():
        Server(models, version, options).run()


class Server(uvicorn.Server):
    """A server that is bound to its address; `run` answers until `should_exit` is set.

    Args:
        models: the models, each of another name.
        version: the server's version.
        options: how it answers.

    Attributes:
        address: where it answers.
        queues: the models' queues.

    Raises:
        OSError: it cannot listen there.
    """

    def __init__(self, models: Sequence[Model], version: str, options: Options) -> None:
        self._listening = _listening(options.host, options.port)
        host, port = self._listening.getsockname()[:2]
        self.address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self._metrics = Metrics()
        self.queues = [self._queue(model, options) for model in models]
        service = Service(self.queues, self._metrics, version, options.seconds, options.log_requests)
        super().__init__(
            uvicorn.Config(
                service.app(self._lifespan),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=patience.KEEP_ALIVE,
                timeout_graceful_shutdown=_LONGEST_STOP,
                backlog=_BACKLOG,
            )
        )

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer until `should_exit` is set, then finish what was begun."""
        _pass_on_messages()
        super().run(sockets or [self._listening])
        log.write("stopped")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        rows = {queue.model.name: queue.model.rows.most if queue.model.rows else 1 for queue in self.queues}
        log.write("listening", address=self.address, rows=rows)

    def _queue(self, model: Model, options: Options) -> Queue:
        def observe(run: Run) -> None:
            self._metrics.ran(model.name, run)

        queue = Queue(model, options.waiting, options.delay, observe)
        self._metrics.watch(queue)
        return queue

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Any) -> AsyncIterator[None]:
        async with patience.bounded(self, patience.most_connections()):
            yield
            await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        for queue in self.queues:
            queue.close()


def _listening(host: str, port: int) -> socket.socket:
    [family, kind, protocol, _, address] = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
    except OSError:
        listening.close()
        raise
    return listening


def _pass_on_messages() -> None:
    """uvicorn's errors go into the log; its words on malformed requests, which anyone can send, do not."""  # noqa: D403
    logger = logging.getLogger("uvicorn")
    logger.handlers[:] = [log.Handler()]
    logger.setLevel(logging.ERROR)
    logger.propagate = False


@contextlib.contextmanager
def _ended_by_signals() -> Any:
    """Uvicorn raises the signal that ended it once more, for handlers that were there before: here none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
