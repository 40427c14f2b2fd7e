"""Two sweeps of one plan: what got worse, what got better."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from edgec.sweep.rows import Row

_RANK = {"verified": 0, "refused": 1, "failed": 2}

NOTICED = 0.05
"""A latency that differs by less is the same; farther apart, its interval must be disjoint too."""

DROPPED = 0.005
"""A loss on held-out data that grows by more got worse."""


@dataclasses.dataclass(frozen=True)
class Change:
    """What differs in a cell.

    Attributes:
        place: model, target and options.
        worse: whether it got worse.
        text: what, in words.
    """

    place: tuple[str, str, str]
    worse: bool
    text: str

    def __str__(self) -> str:
        return f"{'worse ' if self.worse else 'better'}  {' '.join(self.place)}: {self.text}"


def compare(before: Sequence[Row], after: Sequence[Row]) -> list[Change]:
    """What changed from one sweep to another; a cell that only the second has is no change."""
    now = {row.place: row for row in after}
    changes = []
    for old in before:
        new = now.get(old.place)
        if new is None:
            changes.append(Change(old.place, True, "is not there any more"))
        else:
            changes += _changes(old, new)
    return sorted(changes, key=lambda change: not change.worse)


def _changes(old: Row, new: Row) -> Iterator[Change]:
    if old.verdict != new.verdict:
        reason = f": {new.reason}" if new.reason else ""
        worse = _RANK[new.verdict] > _RANK[old.verdict]
        yield Change(new.place, worse, f"was {old.verdict} and is {new.verdict}{reason}")
        return
    if old.drop is not None and new.drop is not None and abs(new.drop - old.drop) > DROPPED:
        yield Change(new.place, new.drop > old.drop, f"loses {new.drop:.2%}, before {old.drop:.2%}")
    if old.machine != new.machine or old.p50 is None or new.p50 is None:
        return
    if _apart(old, new):
        yield Change(new.place, new.p50 > old.p50, f"takes {new.p50:.2f} ms, before {old.p50:.2f} ms")


def _apart(one: Row, other: Row) -> bool:
    """Whether two latencies differ by more than their noise."""
    assert one.p50 is not None
    assert other.p50 is not None
    if abs(one.p50 - other.p50) <= NOTICED * min(one.p50, other.p50):
        return False
    ends = (one.low, one.high, other.low, other.high)
    if any(end is None for end in ends):
        return False
    low, high, its_low, its_high = (float(end) for end in ends if end is not None)
    return high < its_low or its_high < low
