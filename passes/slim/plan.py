"""How much of each unit stays, and how a user writes it."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from edgec.core.errors import RequestError
from edgec.passes.slim.units import KINDS, Unit

UNIFORM = {
    "mlp": ("mlp",),
    "heads": ("heads",),
    "channels": ("channels",),
    "all": ("mlp", "heads", "channels"),
}
"""Words that stand for every unit of some kinds, and those kinds."""


@dataclasses.dataclass(frozen=True)
class SlimPlan:
    """How many members of each unit stay.

    Attributes:
        kept: by a unit's name; 0 takes a whole unit away. Units that are not named keep all.
    """

    kept: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kept", MappingProxyType(dict(sorted(self.kept.items()))))

    def __hash__(self) -> int:
        return hash(tuple(self.kept.items()))

    @property
    def name(self) -> str:
        """Its text, which `parse` reads back: `heads:blocks.5=2+mlp:blocks.3.mlp=192`; `off` where empty."""
        return "+".join(f"{unit}={count}" for unit, count in self.kept.items()) or "off"

    @classmethod
    def parse(cls, text: str, units: Sequence[Unit]) -> SlimPlan:
        """Read a plan's text; of two parts that name a unit, the later one counts.

        Args:
            text: parts joined by `+`. A part is `UNIT=COUNT`, or a uniform word and a share of the members
                that stay, `mlp=0.5`, in `UNIFORM` or one of the kinds; `off` is the empty plan.
            units: the units of the graph.

        Raises:
            RequestError: a part is not of this form, names no unit, or keeps what the unit cannot.
        """
        kept: dict[str, int] = {}
        if text.strip() == "off":
            return cls()
        for part in text.split("+"):
            name, sign, amount = (piece.strip() for piece in part.rpartition("="))
            if not sign or not name:
                raise RequestError(
                    f"{part.strip()!r} is no part of a plan", fix="write UNIT=COUNT or mlp=0.5, joined by +"
                )
            if name in UNIFORM or name in KINDS:
                kept |= _uniform(name, amount, units)
            else:
                unit = _named(name, units)
                kept[unit.name] = _count(amount, unit)
        return cls(
            {unit.name: kept[unit.name] for unit in units if kept.get(unit.name, unit.size) < unit.size}
        )

    def check(self, units: Sequence[Unit]) -> None:
        """Make sure that the plan is for a graph with these units.

        Raises:
            RequestError: it names a unit that is not among them, or keeps what the unit cannot.
        """
        for name, count in self.kept.items():
            _count(str(count), _named(name, units))


def _uniform(word: str, amount: str, units: Sequence[Unit]) -> dict[str, int]:
    kinds = UNIFORM.get(word, (word,))
    chosen = [unit for unit in units if unit.kind in kinds]
    if not chosen:
        there = ", ".join(sorted({unit.kind for unit in units})) or "none"
        raise RequestError(f"the graph has no unit of kind {word}", fix=f"it has: {there}")
    try:
        share = float(amount)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise RequestError(f"{word}={amount} is no share", fix="give the share that stays, between 0 and 1")
    return {unit.name: share_kept(unit, share) for unit in chosen}


def share_kept(unit: Unit, share: float) -> int:
    """The members that stay at a share of them: rounded to the unit's step, at least one step of a width."""
    steps = round(unit.size * share / unit.step)
    return min(unit.size, max(steps, 0 if unit.branches else 1) * unit.step)


def _named(name: str, units: Sequence[Unit]) -> Unit:
    known = {unit.name: unit for unit in units}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    kinds = ", ".join(sorted({unit.kind for unit in units})) or "none"
    raise RequestError(
        f"the graph has no unit {name!r}",
        fix=f"did you mean {', '.join(near)}?" if near else f"it has {len(units)} units of the kinds {kinds}",
    )


def _count(amount: str, unit: Unit) -> int:
    try:
        count = int(amount)
    except ValueError:
        count = -1
    least = 0 if unit.branches else unit.step
    if not least <= count <= unit.size or (count % unit.step and count != unit.size):
        multiple = f", a multiple of {unit.step}" if unit.step > 1 else ""
        raise RequestError(
            f"{unit.name}={amount} keeps what it cannot",
            fix=f"keep a number from {least} to {unit.size}{multiple}",
        )
    return count
