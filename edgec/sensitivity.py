"""Which layers' quantisation costs most."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from edgec.budget import Judge
from edgec.core.progress import Progress
from edgec.targets.base import Quantising

SAMPLES = 24
"""Samples that tell a layer's damage: a mean over smooth distances is steady on few."""

MOST_GROUPS = 24
"""Groups of layers that are tried one by one; where there are more layers, neighbours are tried together."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Layers tried together.

    Attributes:
        layers: source layers.
        relief: how much of the network's damage goes when these alone are not quantised, as a fraction of it;
            below 0 where other layers' errors cancelled theirs.
    """

    layers: tuple[str, ...]
    relief: float


def ranked(target: Quantising, folder: Path, judge: Judge, progress: Progress, seconds: float) -> list[Group]:
    """Try each group of layers unquantised and rank them by the damage that goes, most first.

    Args:
        target: opens the engine with layers kept.
        folder: the quantised engine's.
        judge: the search's data.
        progress: told each step.
        seconds: when to stop; groups not tried by then are left out.
    """
    few = judge.first(SAMPLES)
    end = time.monotonic() + seconds
    whole = _damage(target, folder, few, ())
    found = []
    for layers in grouped(target.quantised_layers(folder)):
        if time.monotonic() > end:
            break
        progress.step(f"sensitivity: {layers[0]}{' …' if len(layers) > 1 else ''}")
        relief = 1.0 - _damage(target, folder, few, layers) / max(whole, 1e-12)
        found.append(Group(layers, relief))
    return sorted(found, key=lambda group: -group.relief)


def grouped(layers: Sequence[str], most: int = MOST_GROUPS) -> list[tuple[str, ...]]:
    """Layers by the longest common beginning of their dotted names that leaves at most so many groups.

    Where even the first words differ too often, neighbours in execution order go together.
    """
    depth = max((layer.count(".") + 1 for layer in layers), default=1)
    for words in range(depth, 0, -1):
        groups: dict[str, list[str]] = {}
        for layer in layers:
            groups.setdefault(".".join(layer.split(".")[:words]), []).append(layer)
        if len(groups) <= most:
            return [tuple(group) for group in groups.values()]
    size = -(-len(layers) // most)
    return [tuple(layers[start : start + size]) for start in range(0, len(layers), size)]


def _damage(target: Quantising, folder: Path, judge: Judge, layers: tuple[str, ...]) -> float:
    engine = target.open_keeping(folder, frozenset(layers))
    try:
        return judge.damage(judge.outputs(engine.run))
    finally:
        engine.close()
