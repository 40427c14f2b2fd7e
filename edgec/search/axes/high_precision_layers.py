"""Which layers' rounding costs most, for the time that it saves."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from edgec.core.errors import EdgecError
from edgec.core.graph import Arrays
from edgec.core.progress import Progress
from edgec.judging.budget import Judge
from edgec.targets.base import Quantising, Target

SAMPLES = 24
"""Samples that tell a layer's damage: a mean over smooth distances is steady on few."""

MOST_GROUPS = 36
"""Groups of layers that are tried one by one; where there are more layers, neighbours are tried together."""

FEWEST_GROUPS = 4
"""Groups however little time there is: fewer would say nothing about where the damage comes from."""

LEAST_SHARE = 0.01
"""Share of the time that a group counts at least: what is kept costs conversions around it too."""


class Ranking(Target, Quantising, Protocol):
    """A target whose engines can be opened with layers kept, and timed layer by layer."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Layers tried together.

    Attributes:
        layers: source layers.
        relief: how much of the network's damage goes when these alone are not rounded, as a fraction of it;
            below 0 where other layers' errors cancelled theirs.
        share: of the engine's time, what these layers take.
    """

    layers: tuple[str, ...]
    relief: float
    share: float = 1.0


@dataclasses.dataclass(frozen=True)
class Kept:
    """Layers to keep together.

    Attributes:
        layers: source layers.
        relief: how much of the damage should go, were the groups' errors independent.
    """

    layers: tuple[str, ...]
    relief: float


def ranked(
    target: Ranking, folder: Path, judge: Judge, feeds: Arrays, progress: Progress, seconds: float
) -> list[Group]:
    """Try groups of layers in the higher precision; rank them by the damage that goes for their time.

    Neighbours are one kind of group, like layers of all blocks the other: an outlier sits in one block, but a
    residual stream is only as good as its worst sum, and every block's second linear layer suffers alike.

    Args:
        target: opens the engine with layers kept.
        folder: the quantised or bf16 engine's.
        judge: the search's data.
        feeds: one sample, to time layers on.
        progress: told each step.
        seconds: when to stop. Where that is short, groups are larger, so that all layers are in one that is
            tried; groups not tried by then are left out, and groups that the engine cannot keep.
    """
    few = judge.first(SAMPLES)
    begin = time.monotonic()
    times = _layer_times(target, folder, feeds)
    tried = time.monotonic()
    whole = _damage(target, folder, few, ())
    end = begin + seconds
    affordable = int((end - tried) / max(time.monotonic() - tried, 1e-6)) - 1
    layers = target.rounded_layers(folder)
    found: list[Group] = []
    for group in grouped(layers, most=min(MOST_GROUPS, max(FEWEST_GROUPS, affordable))):
        if time.monotonic() > end and len(found) >= FEWEST_GROUPS:
            break
        progress.step(f"sensitivity: {group[0]}{' …' if len(group) > 1 else ''}")
        try:
            relief = 1.0 - _damage(target, folder, few, group) / max(whole, 1e-12)
        except EdgecError as error:
            # An engine may refuse a change of precision in the middle of what it fuses.
            progress.note(f"sensitivity: {group[0]} left out: {error}")
            continue
        found.append(Group(group, relief, _share(group, layers, times)))
    return sorted(found, key=lambda group: -group.relief / group.share)


def nested(groups: Sequence[Group]) -> list[Kept]:
    """What to keep, ever more: the first group, the first two, and so on, without those that do no good."""
    kept: dict[str, None] = {}
    relief = 0.0
    found = []
    for group in groups:
        new = [layer for layer in group.layers if layer not in kept]
        if group.relief > 0 and new:
            kept.update(dict.fromkeys(new))
            # Of a group that is kept in part already, the rest is taken to bring its part.
            relief += group.relief * len(new) / len(group.layers)
            found.append(Kept(tuple(kept), relief))
    return found


def grouped(layers: Sequence[str], most: int = MOST_GROUPS) -> list[tuple[str, ...]]:
    """Groups of neighbours and groups of like layers, at most so many, no two of them equal.

    Like layers have the same name but for the number of their block (`blocks.3.mlp.fc2`); the largest such
    groups get up to a third of all.
    """
    alike: dict[str, list[str]] = {}
    for layer in layers:
        alike.setdefault(re.sub(r"(?<![^.])\d+(?![^.])", "*", layer), []).append(layer)
    kinds = [tuple(group) for group in alike.values() if 1 < len(group) < len(layers)]
    kinds = sorted(kinds, key=len, reverse=True)[: most // 3]
    neighbours = neighbouring(layers, most - len(kinds))
    return list(dict.fromkeys([*neighbours, *kinds]))


def neighbouring(layers: Sequence[str], most: int) -> list[tuple[str, ...]]:
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


def _layer_times(target: Target, folder: Path, feeds: Arrays) -> dict[str, float]:
    """Microseconds of each source layer."""
    engine = target.open(folder)
    try:
        times: dict[str, float] = {}
        for entry in target.profile(engine, feeds):
            times[entry.source] = times.get(entry.source, 0.0) + entry.microseconds
        return times
    finally:
        engine.close()


def _share(group: Sequence[str], layers: Sequence[str], times: Mapping[str, float]) -> float:
    """What a group takes of the engine's time; by the number of layers where an engine tells no times."""
    total = sum(times.values())
    share = sum(times.get(layer, 0.0) for layer in group) / total if total else len(group) / len(layers)
    return max(share, LEAST_SHARE)


def _damage(target: Quantising, folder: Path, judge: Judge, layers: tuple[str, ...]) -> float:
    engine = target.open_keeping(folder, frozenset(layers))
    try:
        return judge.damage(judge.outputs(engine.run))
    finally:
        engine.close()
