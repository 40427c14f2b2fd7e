"""The time of one kind of segment over the sizes of what can be cut out of it.

A segment's dimensions are the units that reach into it: heads, the width of a head, the width of an MLP, the
channels that come in and go out. Of each dimension alone its levels are timed, and of each two dimensions a few
combinations. What lies between is read off: the first two orders of the time's expansion around the whole
segment (cut-HDMR, Rabitz and Alis, J. Math. Chem. 25, 1999), piecewise linear in each dimension. A product
over two dimensions, and a sum of such, is met exactly; steps where an engine rounds up to its vectors are seen
where a level lies on each side of them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Sizes = tuple[int, ...]
"""How many members of each dimension are there."""

LEVELS = 8
"""Levels of a dimension that are timed, beside smaller ones where members are few."""

_COARSE = (0.5, 0.25)
"""Shares of two dimensions at which combinations are timed."""

_PAIRED = 3
"""Dimensions up to which every two are timed at each pair of shares; of more only the middle one."""

_MOST_POINTS = 48
"""Combinations of one kind of segment that are timed; further dimensions are taken to add up."""


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

    @property
    def levels(self) -> tuple[int, ...]:
        """The sizes to time, largest first, the whole one among them."""
        if self.kind == "branch":
            return (1, 0)
        if self.size <= LEVELS * self.step:
            return tuple(range(self.size, 0, -self.step))
        kept = (self._near(self.size * part / LEVELS) for part in range(LEVELS, 0, -1))
        return tuple(dict.fromkeys(kept))

    @property
    def coarse(self) -> tuple[int, ...]:
        """The sizes whose combinations with others are timed, largest first, without the whole one."""
        if self.kind == "branch":
            return ()
        wanted = (self.size * share for share in _COARSE)
        near = (min(self.levels, key=lambda level: abs(level - share)) for share in wanted)
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
        start = self.times[self.whole]
        alone = [self._alone(place, size) for place, size in enumerate(sizes)]
        cut = [place for place, size in enumerate(sizes) if size != self.dimensions[place].size]
        together = sum(
            self._together(one, other, sizes[one], sizes[other])
            for one, other in itertools.combinations(cut, 2)
        )
        total = start + sum(alone) + together
        return max(total, min(self.times.values()) * 0.5, 0.0)

    def _removed(self, branches: Sequence[int]) -> float:
        """What is left where every branch has gone."""
        sizes = tuple(0 if place in branches else size for place, size in enumerate(self.whole))
        if sizes in self.times:
            return self.times[sizes]
        return max(0.0, self.times[self.whole] + sum(self._alone(place, 0) for place in branches))

    def _only(self, place: int, size: int) -> Sizes:
        return (*self.whole[:place], size, *self.whole[place + 1 :])

    def _alone(self, place: int, size: int) -> float:
        """What cutting one dimension changes."""
        dimension, start = self.dimensions[place], self.times[self.whole]
        known = {
            level: self.times[point] - start
            for level in dimension.levels
            if (point := self._only(place, level)) in self.times
        }
        return _between(known, size)

    def _together(self, one: int, other: int, first: int, second: int) -> float:
        """What cutting two dimensions changes beside what each does alone."""
        rows: dict[int, float] = {self.dimensions[one].size: 0.0}
        for level in self.dimensions[one].coarse:
            row: dict[int, float] = {self.dimensions[other].size: 0.0}
            for across in self.dimensions[other].coarse:
                point = list(self.whole)
                point[one], point[other] = level, across
                if tuple(point) in self.times:
                    alone = self._alone(one, level) + self._alone(other, across)
                    row[across] = self.times[tuple(point)] - self.times[self.whole] - alone
            if len(row) > 1:
                rows[level] = _between(row, second)
        return _between(rows, first) if len(rows) > 1 else 0.0

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


def points(dimensions: Sequence[Dimension]) -> list[Sizes]:
    """What to time of a kind of segment: the whole, each dimension alone, and two at a time.

    Args:
        dimensions: its dimensions.
    """
    whole = tuple(dimension.size for dimension in dimensions)
    found = dict.fromkeys([whole, *_lines(dimensions, whole)])
    for pair in _pairs(dimensions, whole):
        if len(found) + len(pair) > max(_MOST_POINTS, len(found)):
            break
        found |= dict.fromkeys(pair)
    return list(found)


def _lines(dimensions: Sequence[Dimension], whole: Sizes) -> Iterator[Sizes]:
    for place, dimension in enumerate(dimensions):
        for level in dimension.levels:
            yield (*whole[:place], level, *whole[place + 1 :])


def _pairs(dimensions: Sequence[Dimension], whole: Sizes) -> Iterator[list[Sizes]]:
    widths = sum(dimension.kind != "branch" for dimension in dimensions)
    for one, other in itertools.combinations(range(len(dimensions)), 2):
        most = None if widths <= _PAIRED else 1
        firsts, seconds = dimensions[one].coarse[:most], dimensions[other].coarse[:most]
        found = []
        for first, second in itertools.product(firsts, seconds):
            sizes = list(whole)
            sizes[one], sizes[other] = first, second
            found.append(tuple(sizes))
        yield found


def _between(known: Mapping[int, float], size: int) -> float:
    """Linear between the two nearest known levels, and on beyond the last."""
    if size in known:
        return known[size]
    levels = sorted(known)
    if len(levels) < 2:
        return known[levels[0]] if levels else 0.0
    above = next((index for index, level in enumerate(levels) if level > size), len(levels) - 1)
    low, high = levels[max(above - 1, 0)], levels[max(above, 1)]
    return known[low] + (known[high] - known[low]) * (size - low) / (high - low)
