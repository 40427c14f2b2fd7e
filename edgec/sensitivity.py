"""Which layers' rounding costs most."""

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

FEWEST_GROUPS = 4
"""Groups however little time there is: fewer would say nothing about where the damage comes from."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Layers tried together.

    Attributes:
        layers: source layers.
        relief: how much of the network's damage goes when these alone are not rounded, as a fraction of it;
            below 0 where other layers' errors cancelled theirs.
    """

    layers: tuple[str, ...]
    relief: float


def ranked(target: Quantising, folder: Path, judge: Judge, progress: Progress, seconds: float) -> list[Group]:
    """Try each group of layers in the higher precision and rank them by the damage that goes, most first.

    Args:
        target: opens the engine with layers kept.
        folder: the quantised or bf16 engine's.
        judge: the search's data.
        progress: told each step.
        seconds: when to stop. Where that is short, groups are larger, so that all layers are in one that is
            tried; groups not tried by then are left out.
    """
    few = judge.first(SAMPLES)
    begin = time.monotonic()
    whole = _damage(target, folder, few, ())
    affordable = int(seconds / max(time.monotonic() - begin, 1e-6)) - 1
    end = begin + seconds
    found = []
    for layers in grouped(
        target.rounded_layers(folder), most=min(MOST_GROUPS, max(FEWEST_GROUPS, affordable))
    ):
        if time.monotonic() > end:
            break
        progress.step(f"sensitivity: {layers[0]}{' …' if len(layers) > 1 else ''}")
        relief = 1.0 - _damage(target, folder, few, layers) / max(whole, 1e-12)
        found.append(Group(layers, relief))
    return sorted(found, key=lambda group: -group.relief)


def grouped(layers: Sequence[str], most: int = MOST_GROUPS) -> list[tuple[str, ...]]:
    """Layers by the longest common beginning of their dotted names that leaves at most so many groups.

    Where that leaves less than half as many, neighbours in execution order go together instead, of the groups
    that the next longer beginning makes.
    """
    depth = max((layer.count(".") + 1 for layer in layers), default=1)
    finer: list[tuple[str, ...]] = []
    for words in range(depth, 0, -1):
        named: dict[str, list[str]] = {}
        for layer in layers:
            named.setdefault(".".join(layer.split(".")[:words]), []).append(layer)
        groups = [tuple(group) for group in named.values()]
        if len(groups) <= most and (2 * len(groups) >= most or not finer):
            return groups
        if len(groups) <= most:
            break
        finer = groups
    size = -(-len(finer) // most)
    return [sum(finer[start : start + size], ()) for start in range(0, len(finer), size)]


def _damage(target: Quantising, folder: Path, judge: Judge, layers: tuple[str, ...]) -> float:
    engine = target.open_keeping(folder, frozenset(layers))
    try:
        return judge.damage(judge.outputs(engine.run))
    finally:
        engine.close()
