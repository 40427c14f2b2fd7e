"""Ctrl-C and polite kills unwind a command, but never in the middle of loading a library."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType

from edgec.core.errors import Terminated

AGAIN = 0.02
"""Seconds until it is seen whether what was being loaded is loaded."""

LONGEST = 20.0
"""Seconds after which loading is cut short all the same: a user's own file may not end."""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise `KeyboardInterrupt` for SIGINT and `Terminated` for SIGTERM, once what is being imported is.

    Large packages try to import each other and take any exception for a package that is not there. Those that
    were cut short are then imported again, half initialised, and their native parts abort the process. So a
    signal that comes during an import waits for its end. A SIGINT that is ignored stays so.
    """
    waiting: dict[int, float] = {}

    def interrupt(number: int, frame: FrameType | None) -> None:
        since = waiting.setdefault(number, time.monotonic())
        if _is_importing(frame) and time.monotonic() - since < LONGEST:
            signal.setitimer(signal.ITIMER_REAL, AGAIN)
            return
        del waiting[number]
        if number == signal.SIGTERM:
            # `timeout` sends the signal twice: the second must not cut the unwinding short.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            raise Terminated
        raise KeyboardInterrupt

    def again(_number: int, frame: FrameType | None) -> None:
        # A kill before a Ctrl-C: only one of them can unwind.
        for number in sorted(waiting, reverse=True):
            interrupt(number, frame)

    handlers = {signal.SIGALRM: again, signal.SIGTERM: interrupt}
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        handlers[signal.SIGINT] = interrupt
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
