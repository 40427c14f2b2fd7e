"""Which ways an engine's samples take through its branches, and how long each way takes."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgec.core.branches import Path
from edgec.core.graph import Arrays, Graph
from edgec.core.progress import Progress
from edgec.core.timing import measure

_BLOCKS = 5
_BLOCK_SECONDS = 0.1


def branch_report(
    graph: Graph, run: Callable[[Mapping[str, np.ndarray]], Arrays] | None, progress: Progress
) -> dict[str, Any] | None:
    """The report's section on branches; None for a graph that never decides by values.

    Args:
        graph: the graph with its final samples.
        run: the chosen engine; None where it does not run on this machine, and nothing is measured.
        progress: told of the measuring.

    Returns:
        `sites`, each with `name`, `kind`, what the samples `taken` and the sides `missed`; how many inputs
        were `tried`; `paths` from the fastest to the slowest, each with the `path` in words, its `share` of
        what `shares_of` says, and `p50` and `p90` in milliseconds, null where nothing was measured.
    """
    branches = graph.branches
    if branches is None:
        return None
    by_path: dict[Path, Arrays] = {}
    for feeds in graph.examples:
        by_path.setdefault(branches.follow(feeds), feeds)
    shares, of = branches.shares, "drawn inputs"
    if graph.calibration:
        counts = collections.Counter(branches.said(branches.follow(feeds)) for feeds in graph.calibration)
        shares = {path: count / counts.total() for path, count in counts.items()}
        of = "the calibration data"
    latencies = {}
    if run is not None and len(by_path) > 1:
        progress.step("measuring each way through the branches")
        calls = {path: functools.partial(run, feeds) for path, feeds in by_path.items()}
        latencies = measure(calls, blocks=_BLOCKS, block_seconds=_BLOCK_SECONDS)
    paths = [
        {
            "path": branches.said(path),
            "share": shares.get(branches.said(path), 0.0),
            "p50": latencies[path].p50 if path in latencies else None,
            "p90": latencies[path].p90 if path in latencies else None,
        }
        for path in by_path
    ]
    return {
        "sites": branches.coverage(by_path),
        "tried": branches.tried,
        "shares_of": of,
        "paths": sorted(paths, key=lambda entry: entry["p50"] or 0.0),
    }
