"""Running cells on this machine, some at once."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Iterable

from edgec.sweep.cells import Runner
from edgec.sweep.plan import Cell
from edgec.sweep.rows import Row


def run(runner: Runner, cells: Iterable[Cell], jobs: int, told: Callable[[Row], None]) -> None:
    """Run cells, `jobs` at once; an interruption stops those that run and leaves what is done.

    Args:
        runner: runs one.
        cells: in the order in which they begin.
        jobs: how many run at once.
        told: called in this thread with each row.
    """
    stop = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        try:
            for running in concurrent.futures.as_completed(
                [pool.submit(runner.run, cell, stop) for cell in cells]
            ):
                if (row := running.result()) is not None:
                    told(row)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
