"""How long a network takes on a device after parts of it were cut out, without building it.

A table knows the time of the whole network and of each of its segments by what is left of it. A cut network
takes the whole one's time less what its segments save. Segments timed alone are not quite what they are in
the network, and a sum is wrong where several dimensions shrink at once; so each kind of segment has a factor
on what it saves, learnt from cut networks that were measured whole. It starts at one, and a ridge keeps it
near what all kinds have in common as long as little is known (Bayesian linear regression, Bishop, PRML 3.3).
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgec.core.errors import RequestError
from edgec.core.json_file import read_object
from edgec.devices.segment_times import SegmentTimes

Kind = Literal["measured", "predicted"]

NOISE = 0.01
"""Of a unit's level: how much faster than the next larger one it must be, as a share of what the unit's
segments take, to be offered. Differences below are within what a quiet machine's blocks scatter."""

_COMMON_SPREAD = 0.3
_OWN_SPREAD = 0.15
_ERROR = 0.015
"""What is expected before anything was measured: how far the factor of all kinds is from one, how far one
kind's is from that of all, and how far a measured network is from its prediction with the right factors."""

_LEAST = 0.02
"""The share of the whole network's time that no prediction goes below."""


@dataclasses.dataclass(frozen=True)
class Device:
    """What times belong to: they are true of nothing else.

    Attributes:
        name: the device as people call it.
        identity: what tells it from others: the processor's fields, or a profile's name.
        engine: the engine's kind, form and precision.
        version: the engine's version.
    """

    name: str
    identity: str
    engine: str
    version: str

    @property
    def digest(self) -> str:
        """A name for it that fits a file."""
        text = json.dumps([self.identity, self.engine, self.version])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Place:
    """One segment of a network.

    Attributes:
        kind: index of its `SegmentTimes`.
        layer: its source layer.
        units: by dimension the names of the units that cut it, each with the member of theirs that it is; a
            unit whose members are the dimension's own has -1.
    """

    kind: int
    layer: str
    units: tuple[tuple[tuple[str, int], ...], ...]


@dataclasses.dataclass
class LatencyTable:
    """A network's latency on a device by what is kept of its units.

    Attributes:
        kind: `measured`, or `predicted` from a device's profile.
        device: what the times are of.
        base: milliseconds of the whole network.
        segments: the times of each kind of segment.
        places: the network's segments.
        sizes: members of each unit, by name.
        combinations: networks that were measured: what was kept, and their share of the whole's time.
        misses: units that the table says nothing of, with the reason.
    """

    kind: Kind
    device: Device
    base: float
    segments: tuple[SegmentTimes, ...]
    places: tuple[Place, ...]
    sizes: Mapping[str, int]
    combinations: list[tuple[dict[str, int], float]] = dataclasses.field(default_factory=list)
    misses: Mapping[str, str] = dataclasses.field(default_factory=dict)
    _learnt: np.ndarray | None = dataclasses.field(default=None, init=False, repr=False, compare=False)

    def predict(self, kept: Mapping[str, int]) -> float:
        """Milliseconds of the network with so many members of these units; others stay whole.

        Args:
            kept: members kept by unit; 0 of a branch is without it.

        Raises:
            RequestError: there is no such unit, it has fewer members, or the table says nothing of it.
        """
        self._check(kept)
        known = next((share for found, share in self.combinations if self._same(found, kept)), None)
        if known is not None:
            return self.base * known
        share = 1 - float(self._savings(kept) @ self._factors())
        return self.base * max(share, _LEAST)

    def correct(self, kept: Mapping[str, int], measured: float, base: float | None = None) -> None:
        """Learn from a cut network that was measured.

        Args:
            kept: what was kept of its units.
            measured: its milliseconds.
            base: what the whole network took beside it, in the same alternation; the table's own where it
                was not measured again.

        Raises:
            RequestError: as `predict`.
        """
        self._check(kept)
        self.combinations = [entry for entry in self.combinations if not self._same(entry[0], kept)]
        self.combinations.append((dict(kept), measured / (base or self.base)))
        self._learnt = None

    def levels(self, unit: str) -> tuple[int, ...]:
        """The sizes of a unit that are worth trying, largest first, the whole one among them.

        A size that is no faster than the next larger one is left out: the target runs it badly.

        Raises:
            RequestError: there is no such unit.
        """
        self._check({unit: self.sizes.get(unit, 0)})
        offered = sorted(self._timed(unit), reverse=True)
        involved = sum(
            self.segments[place.kind].at(self.segments[place.kind].whole)
            for place in self.places
            if any(unit == name for names in place.units for name, _ in names)
        )
        found = [self.sizes[unit]]
        fastest = 0.0
        for level in offered:
            saved = self.saving({unit: level})
            if level < self.sizes[unit] and saved > fastest + NOISE * involved:
                found.append(level)
                fastest = saved
        return tuple(found)

    def saving(self, kept: Mapping[str, int]) -> float:
        """Milliseconds that the segments save, each timed alone, before any factor.

        Args:
            kept: as for `predict`.
        """
        return float(self._savings(kept).sum()) * self.base

    def _timed(self, unit: str) -> set[int]:
        """The sizes of a unit at which every segment that it cuts was timed."""
        found: set[int] | None = None
        for place in self.places:
            for dimension, names in enumerate(place.units):
                for name, member in names:
                    if name == unit:
                        timed = self.segments[place.kind].timed(dimension)
                        mine = set(timed) if member < 0 else set(range(self.sizes[unit] + 1))
                        found = mine if found is None else found & mine
        return found or set()

    def _savings(self, kept: Mapping[str, int]) -> np.ndarray:
        """(kinds,) what each kind of segment saves, as a share of the whole's time."""
        saved = np.zeros(len(self.segments))
        for place in self.places:
            if not any(name in kept for names in place.units for name, _ in names):
                continue
            times = self.segments[place.kind]
            sizes = [
                self._size(dimension.size, names, kept)
                for dimension, names in zip(times.dimensions, place.units, strict=True)
            ]
            saved[place.kind] += times.at(times.whole) - times.at(sizes)
        return saved / self.base

    @staticmethod
    def _size(whole: int, names: Sequence[tuple[str, int]], kept: Mapping[str, int]) -> int:
        """What is left of one dimension."""
        for name, member in names:
            if name not in kept:
                continue
            if member < 0:
                return kept[name]
            if member >= kept[name]:
                return 0
        return whole

    def _factors(self) -> np.ndarray:
        """(kinds,) what a kind's savings are worth in the network."""
        if self._learnt is None:
            self._learnt = self._fitted()
        return self._learnt

    def _fitted(self) -> np.ndarray:
        """The factors by ridge over the networks that were measured."""
        count = len(self.segments)
        if not self.combinations or not count:
            return np.ones(count)
        shares = np.stack([self._savings(kept) for kept, _ in self.combinations])
        measured = np.array([1 - share for _, share in self.combinations])
        # A cut network's noise is a share of its own time, so what is left of it weighs as it is short.
        noise = _ERROR * (1 - measured)
        # The last column is what all kinds have in common; every kind's own deviation is shrunk harder.
        design = np.hstack([shares * _OWN_SPREAD, shares.sum(1, keepdims=True) * _COMMON_SPREAD])
        design /= noise[:, None]
        left = design.T @ design + np.eye(count + 1)
        found = np.linalg.solve(left, design.T @ ((measured - shares.sum(1)) / noise))
        return np.clip(1 + found[:-1] * _OWN_SPREAD + found[-1] * _COMMON_SPREAD, 0.2, 3.0)

    def _same(self, one: Mapping[str, int], other: Mapping[str, int]) -> bool:
        names = one.keys() | other.keys()
        return all(one.get(name, self.sizes[name]) == other.get(name, self.sizes[name]) for name in names)

    def _check(self, kept: Mapping[str, int]) -> None:
        for name, members in kept.items():
            if name in self.misses:
                raise RequestError(
                    f"the latency table says nothing of {name}: {self.misses[name]}",
                    fix="leave it out of the plan",
                )
            if name not in self.sizes:
                near = difflib.get_close_matches(name, self.sizes, n=3)
                said = f"did you mean {', '.join(near)}?" if near else "it was made for another network"
                raise RequestError(f"the latency table has no unit {name!r}", fix=said)
            if not 0 <= members <= self.sizes[name]:
                raise RequestError(f"{name} has {self.sizes[name]} members, so {members} cannot be kept")

    def to_json(self) -> dict[str, Any]:
        """As plain data; `read` takes it back."""
        factors = self._factors()
        return {
            "kind": self.kind,
            "device": dataclasses.asdict(self.device),
            "base_ms": self.base,
            "segments": [
                {**times.to_json(), "factor": float(factor)}
                for times, factor in zip(self.segments, factors, strict=True)
            ],
            "places": [
                {
                    "segment": place.kind,
                    "layer": place.layer,
                    "units": [list(map(list, each)) for each in place.units],
                }
                for place in self.places
            ],
            "units": [
                {"name": name, "size": size, "levels": self._offers(name)}
                for name, size in self.sizes.items()
            ],
            "combinations": [
                {"kept": kept, "share": share, "ms": share * self.base} for kept, share in self.combinations
            ],
            "misses": dict(self.misses),
        }

    def _offers(self, unit: str) -> list[dict[str, float]]:
        return [{"kept": level, "ms": self.predict({unit: level})} for level in self.levels(unit)]

    def write(self, path: Path) -> None:
        """Write the table as JSON."""
        path.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path, device: Device) -> LatencyTable:
        """Read a table that was written for a device.

        Args:
            path: what `write` wrote.
            device: what it is to be used for.

        Raises:
            RequestError: it cannot be read, is no table, or is one of another device, engine or version.
        """
        try:
            fields = read_object(path)
            table = cls._of(fields)
        except OSError as error:
            raise RequestError(
                f"cannot be read ({error.strerror or error})", where=str(path), fix="check the path"
            ) from error
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise RequestError(
                f"is no latency table ({error})", where=str(path), fix="make one: edgec devices table MODEL"
            ) from error
        _require_same(table.device, device, path)
        return table

    @classmethod
    def _of(cls, fields: Mapping[str, Any]) -> LatencyTable:
        if fields["kind"] not in ("measured", "predicted"):
            raise ValueError(f"its kind is {fields['kind']!r}")
        table = cls(
            fields["kind"],
            Device(**fields["device"]),
            float(fields["base_ms"]),
            tuple(SegmentTimes.from_json(entry) for entry in fields["segments"]),
            tuple(
                Place(
                    int(entry["segment"]),
                    str(entry["layer"]),
                    tuple(
                        tuple((str(name), int(member)) for name, member in each) for each in entry["units"]
                    ),
                )
                for entry in fields["places"]
            ),
            {str(entry["name"]): int(entry["size"]) for entry in fields["units"]},
            [(dict(entry["kept"]), float(entry["share"])) for entry in fields["combinations"]],
            dict(fields["misses"]),
        )
        if not math.isfinite(table.base) or table.base <= 0:
            raise ValueError("the whole network's time is not above zero")
        for place in table.places:
            if not 0 <= place.kind < len(table.segments):
                raise ValueError(f"{place.layer} is of no kind of segment")
        return table


def _require_same(found: Device, wanted: Device, path: Path) -> None:
    """See that a table is one of the device that it is wanted for.

    Raises:
        RequestError: says what differs.
    """
    if found.identity != wanted.identity:
        what = f"was made on another device ({found.name}), not for {wanted.name}"
    elif found.engine != wanted.engine:
        what = f"is of {found.engine}, not of {wanted.engine}"
    elif found.version != wanted.version:
        what = f"was made with version {found.version} of the engine, not {wanted.version}"
    else:
        return
    raise RequestError(f"the latency table {what}", where=str(path), fix="measure one here: leave it out")
