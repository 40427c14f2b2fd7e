"""Calibration data among the samples: what is given as real is gated on, too."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from edgec.core.errors import RequestError
from edgec.core.graph import DrawnInput, Graph
from edgec.frontends.examples import numberless

MOST = 3
"""Feeds taken of calibration data, spread over it: every engine runs all samples, more than once."""


def with_calibration_samples(graph: Graph, path: str | Path) -> Graph:
    """The graph with some of its calibration feeds behind its samples, and the source's outputs on them.

    Args:
        graph: a loaded graph with `calibration`.
        path: the file that the calibration came from.

    Raises:
        RequestError: the source computes no numbers on one of them.
    """
    if graph.run_source is None or not graph.calibration:
        return graph
    last = len(graph.calibration) - 1
    places = np.unique(np.linspace(0, last, min(MOST, last + 1)).round().astype(int))
    feeds = [graph.calibration[place] for place in places]
    references = [graph.run_source(feed) for feed in feeds]
    for place, outputs in zip(places, references, strict=True):
        if broken := numberless([outputs]):
            raise RequestError(
                f"the model computes no finite numbers in output {broken!r} on batch {place}",
                where=str(path),
                fix="leave those samples out",
            )
    return dataclasses.replace(
        graph,
        examples=[*graph.examples, *feeds],
        references=[*graph.references, *references],
        drawn=tuple(
            DrawnInput(item.name, f"{item.what}, and from {Path(path).name}") for item in graph.drawn
        ),
    )
