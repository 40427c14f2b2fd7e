"""Latency by alternating blocks.

Engines spin their worker threads after a call, so two engines called in turn slow each other down;
blocks of calls, taken in turn, keep that apart and share the machine's drift among all.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import numpy as np

Name = TypeVar("Name", bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Latency:
    """Latency of one callable, in milliseconds.

    Attributes:
        blocks: median of each block, in the order they ran.
        samples: every call, in the order they ran.
    """

    blocks: tuple[float, ...]
    samples: tuple[float, ...]

    @property
    def p50(self) -> float:
        """Median of the blocks' medians: one disturbed block does not move it."""
        return statistics.median(self.blocks)

    @property
    def p90(self) -> float:
        """90th percentile over all calls."""
        return float(np.percentile(self.samples, 90))

    @property
    def spread(self) -> float:
        """Range of the blocks' medians over their median."""
        return (max(self.blocks) - min(self.blocks)) / self.p50

    def ratio_to(self, other: Latency) -> float:
        """This latency over another's: median of the ratios of blocks that ran side by side.

        Where one of them ran in further blocks, those are left out: the machine may have been another then.
        """
        pairs = zip(self.blocks, other.blocks, strict=False)
        return statistics.median(mine / theirs for mine, theirs in pairs)

    def then(self, later: Latency) -> Latency:
        """The same callable's blocks, and later ones."""
        return Latency(self.blocks + later.blocks, self.samples + later.samples)


def measure(
    calls: Mapping[Name, Callable[[], object]],
    *,
    blocks: int = 5,
    block_seconds: float = 0.3,
    warmup: int = 3,
    settle_seconds: float = 0.02,
) -> dict[Name, Latency]:
    """Time callables in alternating blocks.

    Args:
        calls: what to time, by name.
        blocks: blocks a callable.
        block_seconds: length of a block; at least three calls are made whatever it says.
        warmup: calls before the first block of each callable; one more opens every block.
        settle_seconds: pause between blocks, for the last engine's threads to stop spinning.

    Returns:
        the latency of each callable, by its name.
    """
    medians: dict[Name, list[float]] = {name: [] for name in calls}
    samples: dict[Name, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(warmup):
            call()
    names = list(calls)
    for block in range(blocks):
        # Turn the order round every second block, so that no one always follows the same neighbour.
        for name in names if block % 2 == 0 else reversed(names):
            time.sleep(settle_seconds)
            block_samples = _run_block(calls[name], block_seconds)
            medians[name].append(statistics.median(block_samples))
            samples[name].extend(block_samples)
    return {name: Latency(tuple(medians[name]), tuple(samples[name])) for name in names}


def _run_block(call: Callable[[], object], seconds: float) -> list[float]:
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return times
