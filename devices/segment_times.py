"""The time of one kind of segment over the sizes of what can be cut out of it.

A segment's dimensions are the units that reach into it: heads, the width of a head, the width of an MLP,
the channels that come in and go out. Of each dimension alone its levels are timed, and of each two dimensions
a few combinations. What lies between is read off: the first two orders of the time's expansion around the
whole segment (cut-HDMR, Rabitz and Alis, J. Math. Chem. 25, 1999), piecewise linear in each dimension. A
product over two dimensions, and a sum of such, is met exactly.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

Sizes = tuple[int, ...]
"""How many members of each dimension are there."""

LEVELS = 8
"""Sizes of a dimension that are timed; half as many where members are few, or the segment is small."""

_FEW = 128
"""Members below which a dimension has few."""

_COARSE = (0.5, 0.25)
"""Shares of two dimensions at which combinations are timed."""

_PAIRED = 3
"""Dimensions up to which every two are timed at each pair of shares; of more only at the first."""

_MOST_POINTS = 48
"""Sizes of one kind of segment that are timed; the effects of further dimensions are taken to add up."""


@dataclasses.dataclass(frozen=True)
class Dimension:
    """Something that can be cut out of a segment.

    Attributes:
        kind: the kind of the unit that it belongs to; `branch` for a whole residual branch.
        size: members of the whole segment; 1 of a branch.
        step: members leave in multiples of this.
    """

    kind: str
    size: int
    step: int = 1

    def levels(self, *, coarse: bool = False) -> tuple[int, ...]:
        """The sizes to time, largest first, the whole one among them.

        Args:
            coarse: half as many.
        """
        if self.kind == "branch":
            return (1, 0)
        most = LEVELS if self.size >= _FEW else LEVELS // 2
        most = most // 2 if coarse else most
        if self.size <= most * self.step:
            return tuple(range(self.size, 0, -self.step))
        kept = (self._near(self.size * part / most) for part in range(most, 0, -1))
        return tuple(dict.fromkeys(kept))

    def paired(self, *, coarse: bool = False) -> tuple[int, ...]:
        """The sizes whose combinations with other dimensions' are timed, largest first."""
        if self.kind == "branch":
            return ()
        levels = self.levels(coarse=coarse)
        wanted = (self.size * share for share in _COARSE)
        near = (min(levels, key=lambda level: abs(level - share)) for share in wanted)
        return tuple(dict.fromkeys(level for level in near if level < self.size))

    def _near(self, members: float) -> int:
        """The nearest size that can be kept, at least one step."""
        left = round((self.size - members) / self.step) * self.step
        return max(self.size - left, self.size % self.step or self.step)


@dataclasses.dataclass(frozen=True)
class SegmentTimes:
    """One kind of segment: all that are equal up to their weights.

    Attributes:
        layer: the source layer of the first.
        dimensions: what can be cut out of it.
        times: milliseconds of one segment by what is left of it; the whole one is among them.
        spread: range of the blocks of the whole one over their median, as measured.
    """

    layer: str
    dimensions: tuple[Dimension, ...]
    times: Mapping[Sizes, float]
    spread: float = 0.0

    @property
    def whole(self) -> Sizes:
        """Nothing cut."""
        return tuple(dimension.size for dimension in self.dimensions)

    def at(self, sizes: Sequence[int]) -> float:
        """Milliseconds of one segment of which so much is left.

        Args:
            sizes: members of each dimension, in their order; between levels the time is interpolated.
        """
        sizes = tuple(sizes)
        found = self.times.get(sizes)
        if found is not None:
            return found
        branches = [place for place, each in enumerate(self.dimensions) if each.kind == "branch"]
        if branches and not any(sizes[place] for place in branches):
            return self._removed(branches)
        cut = [place for place, size in enumerate(sizes) if size != self.whole[place]]
        alone = sum(_between(self._alone[place], sizes[place]) for place in cut)
        together = sum(
            _surface(self._together[pair], sizes[pair[0]], sizes[pair[1]])
            for pair in itertools.combinations(cut, 2)
            if pair in self._together
        )
        return max(self.times[self.whole] + alone + together, 0.0)

    def timed(self, place: int) -> list[int]:
        """The sizes of one dimension that were timed, the others whole."""
        return list(self._alone[place])

    def _removed(self, branches: Sequence[int]) -> float:
        """What is left where every branch has gone."""
        return max(0.0, self.times[self.whole] + sum(self._alone[place].get(0, 0.0) for place in branches))

    @functools.cached_property
    def _alone(self) -> dict[int, dict[int, float]]:
        """By dimension, what each of its sizes changes alone."""
        found: dict[int, dict[int, float]] = {place: {size: 0.0} for place, size in enumerate(self.whole)}
        for sizes, time in self.times.items():
            match self._cut(sizes):
                case [place]:
                    found[place][sizes[place]] = time - self.times[self.whole]
        return found

    @functools.cached_property
    def _together(self) -> dict[tuple[int, int], dict[int, dict[int, float]]]:
        """By two dimensions, what their sizes change together beside what each does alone."""
        found: dict[tuple[int, int], dict[int, dict[int, float]]] = {}
        for sizes, time in self.times.items():
            match self._cut(sizes):
                case [one, other]:
                    alone = sum(_between(self._alone[place], sizes[place]) for place in (one, other))
                    surface = found.setdefault((one, other), {self.whole[one]: {}})
                    row = surface.setdefault(sizes[one], {self.whole[other]: 0.0})
                    row[sizes[other]] = time - self.times[self.whole] - alone
        return found

    def _cut(self, sizes: Sizes) -> list[int]:
        """The dimensions that are not whole."""
        return [place for place, size in enumerate(sizes) if size != self.whole[place]]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "layer": self.layer,
            "dimensions": [dataclasses.asdict(dimension) for dimension in self.dimensions],
            "times": [[list(sizes), time] for sizes, time in sorted(self.times.items(), reverse=True)],
            "spread": self.spread,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> SegmentTimes:
        """Read back what `to_json` gives.

        Raises:
            LookupError, TypeError, ValueError: it is something else.
        """
        dimensions = tuple(Dimension(**entry) for entry in fields["dimensions"])
        times = {tuple(map(int, sizes)): float(time) for sizes, time in fields["times"]}
        found = cls(str(fields["layer"]), dimensions, times, float(fields["spread"]))
        if found.whole not in times:
            raise ValueError("the whole segment is not among the times")
        return found


def points(dimensions: Sequence[Dimension], *, coarse: bool = False) -> list[Sizes]:
    """What to time of a kind of segment: the whole, each dimension alone, and two at a time.

    Args:
        dimensions: its dimensions.
        coarse: for a kind that is a small part of its network: fewer.
    """
    whole = tuple(dimension.size for dimension in dimensions)
    found = {whole: None}
    for place, dimension in enumerate(dimensions):
        for level in dimension.levels(coarse=coarse):
            found[(*whole[:place], level, *whole[place + 1 :])] = None
    widths = sum(dimension.kind != "branch" for dimension in dimensions)
    most = 1 if coarse or widths > _PAIRED else None
    for one, other in itertools.combinations(range(len(dimensions)), 2):
        firsts = dimensions[one].paired(coarse=coarse)[:most]
        seconds = dimensions[other].paired(coarse=coarse)[:most]
        if len(found) + len(firsts) * len(seconds) > _MOST_POINTS:
            break
        for first, second in itertools.product(firsts, seconds):
            sizes = list(whole)
            sizes[one], sizes[other] = first, second
            found[tuple(sizes)] = None
    return list(found)


def _surface(rows: Mapping[int, Mapping[int, float]], first: int, second: int) -> float:
    """Linear in each of two dimensions; the row of the whole first one is zero."""
    return _between({size: _between(row, second) if row else 0.0 for size, row in rows.items()}, first)


def _between(known: Mapping[int, float], size: int) -> float:
    """Linear between the two nearest known sizes, and on beyond the last."""
    if size in known:
        return known[size]
    levels = sorted(known)
    if len(levels) == 1:
        return known[levels[0]]
    above = next((index for index, level in enumerate(levels) if level > size), len(levels) - 1)
    low, high = levels[max(above - 1, 0)], levels[max(above, 1)]
    return known[low] + (known[high] - known[low]) * (size - low) / (high - low)
