"""From an engine's own timers to times under the user's layer names."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from edgec.runtime.engine import LayerTime


def summarize(
    calls: Mapping[str, Sequence[float]], ops: Mapping[str, str], layers: Mapping[str, str], warmup: int
) -> list[LayerTime]:
    """Median time of each engine layer over the runs after the warm-up, in the order given.

    Args:
        calls: engine layer → its times in microseconds, one a call; a layer that a loop calls several
            times a run has a multiple of the runs.
        ops: engine layer → its kernel or op type.
        layers: engine layer → the user's layer name; the engine's own name where there is none.
        warmup: calls at the start that do not count.
    """
    return [
        LayerTime(name, layers.get(name, name), ops.get(name, ""), statistics.median(times[warmup:] or times))
        for name, times in calls.items()
    ]
