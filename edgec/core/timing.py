"""Latency by alternating blocks.

Engines spin their worker threads after a call, so two engines called in turn slow each other down;
blocks of calls, taken in turn, keep that apart and share the machine's drift among all.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from edgec.core.alone import measuring
from edgec.core.disturbance import Patience, is_disturbed

Name = TypeVar("Name", bound=Hashable)

CONFIDENCE = 0.95
"""How often an interval holds the true median, at least."""

SAME = "cannot be told apart"
"""The verdict on two latencies whose ratio may be 1."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """Where a median lies, with a confidence of at least `CONFIDENCE`.

    Attributes:
        low: its lower end.
        high: its upper end; infinite, with a `low` of 0, where there were too few blocks to say.
    """

    low: float
    high: float

    @property
    def is_known(self) -> bool:
        """Whether there were blocks enough to say anything."""
        return math.isfinite(self.high)

    @property
    def verdict(self) -> str:
        """Of a ratio of latencies: `faster`, `slower`, or `SAME` where 1 is inside or nothing is known."""
        if self.high < 1:
            return "faster"
        if self.low > 1:
            return "slower"
        return SAME

    def to_json(self) -> list[float] | None:
        """Both ends; None where nothing is known."""
        return [self.low, self.high] if self.is_known else None


def median_interval(values: Sequence[float]) -> Interval:
    """The confidence interval of a median by order statistics.

    Each of n blocks falls below the true median with probability 1/2, whatever the blocks' distribution is:
    the k smallest all lie below it, and the interval from the k-th smallest to the k-th largest misses it,
    with a probability of 2 P(B < k), B binomial of n and 1/2 (David and Nagaraja, Order Statistics, 7.1). So
    it needs no normal noise, which timings do not have, and no resampling, which of a few blocks is too
    narrow. The largest k that keeps `CONFIDENCE` is taken: of 6 to 8 blocks the least and the greatest, of 9
    to 11 the second of each end, of 12 to 14 the third; fewer than 6 say nothing.

    Args:
        values: the blocks' medians, or the ratios of blocks that ran side by side.
    """
    ordered, count = sorted(values), len(values)
    missed, inner = 0.0, 0
    while inner < count // 2:
        missed += 2 * math.comb(count, inner) / 2**count
        if missed > 1 - CONFIDENCE:
            break
        inner += 1
    if inner == 0:
        return Interval(0.0, math.inf)
    return Interval(ordered[inner - 1], ordered[count - inner])


@dataclasses.dataclass(frozen=True)
class Latency:
    """Latency of one callable, in milliseconds.

    Attributes:
        blocks: median of each block, in the order they ran.
        samples: every call, in the order they ran.
        disturbed: how many of the blocks ran while the machine was busy with something else.
    """

    blocks: tuple[float, ...]
    samples: tuple[float, ...]
    disturbed: int = 0

    @property
    def p50(self) -> float:
        """Median of the blocks' medians: one disturbed block does not move it."""
        return statistics.median(self.blocks)

    @property
    def p90(self) -> float:
        """90th percentile over all calls."""
        return float(np.percentile(self.samples, 90))

    @property
    def p99(self) -> float:
        """99th percentile over all calls."""
        return float(np.percentile(self.samples, 99))

    def histogram(self, bins: int = 32) -> dict[str, float | list[int]]:
        """How many calls took how long: `counts` of equal parts from `low` to `high`, the 99th percentile.

        `beyond` is how many took longer.
        """
        low, high = min(self.samples), self.p99
        counts = np.zeros(bins, int)
        if high > low:
            counts, _ = np.histogram(self.samples, bins, (low, high))
        return {
            "low": low,
            "high": high,
            "counts": counts.tolist(),
            "beyond": len(self.samples) - int(counts.sum()),
        }

    @property
    def spread(self) -> float:
        """Range of the blocks' medians over their median."""
        return (max(self.blocks) - min(self.blocks)) / self.p50

    @property
    def interval(self) -> Interval:
        """Where the median of its blocks lies, in milliseconds."""
        return median_interval(self.blocks)

    def ratio_to(self, other: Latency) -> float:
        """This latency over another's: median of the ratios of blocks that ran side by side.

        Where one of them ran in further blocks, those are left out: the machine may have been another then.
        """
        return statistics.median(self._ratios(other))

    def ratio_interval(self, other: Latency) -> Interval:
        """Where that ratio lies; its `verdict` says whether this one is faster or slower."""
        return median_interval(self._ratios(other))

    def _ratios(self, other: Latency) -> list[float]:
        return [mine / theirs for mine, theirs in zip(self.blocks, other.blocks, strict=False)]

    def then(self, later: Latency) -> Latency:
        """The same callable's blocks, and later ones."""
        return Latency(
            self.blocks + later.blocks, self.samples + later.samples, self.disturbed + later.disturbed
        )


def measure(
    calls: Mapping[Name, Callable[[], object]],
    *,
    blocks: int = 5,
    block_seconds: float = 0.3,
    warmup: int = 3,
    settle_seconds: float = 0.02,
    patience: Patience | None = None,
) -> dict[Name, Latency]:
    """Time callables in alternating blocks, alone on the machine as far as edgec's other processes go.

    A fixed workload runs before every block and after the last of a round, a round being one block of each.
    A round in which it jumps is measured again, once the machine is quiet or the patience is over.

    Args:
        calls: what to time, by name.
        blocks: blocks a callable.
        block_seconds: length of a block; at least three calls are made whatever it says.
        warmup: calls before the first block of each callable; one more opens every block.
        settle_seconds: pause between blocks, for the last engine's threads to stop spinning.
        patience: how long to wait for a quiet machine; told what was met. `Patience()` where not given.

    Returns:
        the latency of each callable, by its name.
    """
    with measuring():
        return _measure(calls, blocks, block_seconds, warmup, settle_seconds, patience or Patience())


def _measure(
    calls: Mapping[Name, Callable[[], object]],
    blocks: int,
    block_seconds: float,
    warmup: int,
    settle_seconds: float,
    patience: Patience,
) -> dict[Name, Latency]:
    medians: dict[Name, list[float]] = {name: [] for name in calls}
    samples: dict[Name, list[float]] = {name: [] for name in calls}
    disturbed = 0
    for call in calls.values():
        for _ in range(warmup):
            call()
    names = list(calls)
    for block in range(blocks):
        # Turn the order round every second block, so that no one always follows the same neighbour.
        order = names if block % 2 == 0 else names[::-1]
        taken, quiet = _run_round(calls, order, block_seconds, settle_seconds)
        while not quiet and patience.seconds > 0:
            patience.rounds += 1
            patience.wait()
            start = time.monotonic()
            taken, quiet = _run_round(calls, order, block_seconds, settle_seconds)
            patience.seconds -= time.monotonic() - start
        if not quiet:
            disturbed += 1
            patience.kept += 1
        for name, block_samples in taken.items():
            medians[name].append(statistics.median(block_samples))
            samples[name].extend(block_samples)
    return {name: Latency(tuple(medians[name]), tuple(samples[name]), disturbed) for name in names}


def _run_round(
    calls: Mapping[Name, Callable[[], object]],
    order: Sequence[Name],
    block_seconds: float,
    settle_seconds: float,
) -> tuple[dict[Name, list[float]], bool]:
    """One block of each callable: its calls in milliseconds, and whether the machine was quiet throughout."""
    taken = {}
    quiet = True
    for name in order:
        time.sleep(settle_seconds)
        quiet = not is_disturbed() and quiet
        taken[name] = _run_block(calls[name], block_seconds)
    time.sleep(settle_seconds)
    return taken, not is_disturbed() and quiet


def _run_block(call: Callable[[], object], seconds: float) -> list[float]:
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return times
