"""Whether the machine is busy with something else while latencies are measured.

A small fixed workload runs on every core and is timed twice: by the clock, and by the processor time that
it got. Where nothing else runs, both are the same; whoever else runs takes of it, since no core is left. So a
machine is known to be busy even where it was so from the beginning, and two threads of one core that slow
each other down are no disturbance.

Some milliseconds are needed: a scheduler lets a thread that slept go first for a few (a base slice of Linux
is 3 ms), and a shorter workload does not see who else is there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
import time

ITERATIONS = 20_000
"""Of the workload: 7 ms of hashing at 3 GHz; it stays in registers, and Python's lock is free meanwhile."""

JUMP = 1.3
"""The workload takes this many times its processor time where the machine is disturbed: a core that is shared
by two takes twice as long, less what a thread that slept gets first."""

SPINNING_SECONDS = 0.03
"""An engine's own threads may spin for so long after its last call: they are no disturbance."""

SECONDS = 2.0
"""What one measurement may wait, where nothing is said."""

_POLL_SECONDS = 0.05
_QUIET_PULSES = 3


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
    if stretch() <= JUMP:
        return False
    time.sleep(SPINNING_SECONDS)
    return stretch() > JUMP


def stretch() -> float:
    """How many times longer than its processor time the workload takes, on the slowest of all cores."""
    found: list[float] = []
    threads = [threading.Thread(target=_work, args=(found,)) for _ in range(_cores() - 1)]
    for thread in threads:
        thread.start()
    _work(found)
    for thread in threads:
        thread.join()
    return max(found)


def _work(found: list[float]) -> None:
    start, used = time.perf_counter(), time.thread_time()
    hashlib.pbkdf2_hmac("sha256", b"edgec", b"edgec", ITERATIONS)
    used = time.thread_time() - used
    # Some systems count processor time in steps that are longer than the workload.
    found.append((time.perf_counter() - start) / used if used else 1.0)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
