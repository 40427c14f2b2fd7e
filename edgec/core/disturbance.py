"""Whether the machine is busy with something else while latencies are measured.

A small fixed workload runs on every core and is timed twice: by the clock, and by the processor time that
it got. Where nothing else runs, both are the same. The least processor time seen so far is the yardstick, so
that a machine is known to be busy even where it was so from the beginning; a clock that slows down shows too.

Some milliseconds are needed: a scheduler lets a thread that slept go first for a few (a base slice of Linux
is 3 ms), and a shorter workload does not see who else is there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import threading
import time

ITERATIONS = 20_000
"""Of the workload: 7 ms of hashing at 3 GHz; it stays in registers, and Python's lock is free meanwhile."""

JUMP = 1.3
"""The workload takes this many times its least where the machine is disturbed. One busy process for two cores
makes it 1.5 to 2; what a quiet machine does on its own makes it 1.1."""

SECONDS = 2.0
"""What one measurement may wait, where nothing is said."""

_POLL_SECONDS = 0.05
_QUIET_PULSES = 3

_least = math.inf


@dataclasses.dataclass
class Patience:
    """How long measuring may wait for a quiet machine, and what it met.

    Attributes:
        seconds: what is left to wait, and to measure again in.
        rounds: rounds of blocks that were measured again.
        kept: rounds that were kept as they were, since the time to wait was over.
    """

    seconds: float = SECONDS
    rounds: int = 0
    kept: int = 0

    def wait(self) -> None:
        """Wait until the machine is quiet, or as long as there is time."""
        end = time.monotonic() + self.seconds
        quiet = 0
        while quiet < _QUIET_PULSES and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
            quiet = 0 if is_disturbed() else quiet + 1
        self.seconds = max(0.0, end - time.monotonic())

    @property
    def said(self) -> str:
        """What a user should know of it, in one sentence; empty where the machine was quiet."""
        if not self.rounds + self.kept:
            return ""
        again = f"{self.rounds} {'round' if self.rounds == 1 else 'rounds'} of measuring ran again"
        kept = f"; it did not get quiet for {self.kept} more" if self.kept else ""
        return f"the machine was busy with something else: {again}{kept}"


def is_disturbed() -> bool:
    """Whether something else takes the processor now, and not for a moment only; takes some milliseconds."""
    return stretch() > JUMP and stretch() > JUMP


def stretch() -> float:
    """How many times longer than its least the workload takes on the slowest of all cores at once."""
    global _least
    clocks: list[float] = []
    threads = [threading.Thread(target=_work, args=(clocks,)) for _ in range(_cores() - 1)]
    for thread in threads:
        thread.start()
    _work(clocks)
    for thread in threads:
        thread.join()
    return max(clocks) / _least


def _work(clocks: list[float]) -> None:
    global _least
    start, used = time.perf_counter(), time.thread_time()
    hashlib.pbkdf2_hmac("sha256", b"edgec", b"edgec", ITERATIONS)
    _least = min(_least, time.thread_time() - used)
    clocks.append(time.perf_counter() - start)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
