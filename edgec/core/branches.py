"""Where a graph decides by values which of its parts run, and which way an input takes."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import numpy as np

Path = tuple[tuple[int, ...], ...]
"""For each place in order what was decided there, once each time it was reached: of an `If` 1 for `then`
and 0 for `else`, of a `Loop` how many times it ran."""


@dataclasses.dataclass(frozen=True)
class Branch:
    """One place.

    Attributes:
        name: its source layer.
        kind: the op.
    """

    name: str
    kind: Literal["If", "Loop"]

    def said(self, decided: tuple[int, ...]) -> str:
        """What was decided, in words."""
        if not decided:
            return "not reached"
        if self.kind == "Loop":
            return f"×{' and ×'.join(map(str, decided))}"
        counts = collections.Counter(SIDES[side] for side in decided)
        if len(counts) == 1:
            return next(iter(counts))
        return ", ".join(f"{side} ×{count}" for side, count in sorted(counts.items()))


SIDES = ("else", "then")


@dataclasses.dataclass(frozen=True)
class Branches:
    """All places, and how to follow an input through them.

    Attributes:
        sites: the places.
        follow: the path of one feed.
        shares: the share of ordinary drawn inputs that takes each path, in words.
        tried: how many inputs were tried to take every side.
    """

    sites: tuple[Branch, ...]
    follow: Callable[[Mapping[str, np.ndarray]], Path]
    shares: dict[str, float]
    tried: int

    def said(self, path: Path) -> str:
        """A path in words, `depth/If then, head/If else`."""
        return "; ".join(
            f"{site.name} {site.said(decided)}" for site, decided in zip(self.sites, path, strict=True)
        )

    def coverage(self, paths: Iterable[Path]) -> list[dict[str, Any]]:
        """For each place its `name` and `kind`, what the paths `taken` do there, and the sides `missed`."""
        seen: list[set[int]] = [set() for _ in self.sites]
        for path in paths:
            for decided, found in zip(path, seen, strict=True):
                found.update(decided)
        return [
            {
                "name": site.name,
                "kind": site.kind,
                "taken": [SIDES[item] if site.kind == "If" else str(item) for item in sorted(found)],
                "missed": [SIDES[side] for side in (0, 1) if site.kind == "If" and side not in found],
            }
            for site, found in zip(self.sites, seen, strict=True)
        ]
