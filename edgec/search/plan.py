"""What is taken away of a network: a setting on each axis that takes something."""

from __future__ import annotations

import dataclasses
from typing import Protocol

NOTHING = "none"
"""The name of the plan, and of any axis' setting, that takes nothing."""


class Setting(Protocol):
    """How much of what, at which places of one axis."""

    @property
    def name(self) -> str:
        """What the axis' option reads back."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Settings by the name of their axis, in the order in which they are applied; none of nothing."""

    settings: tuple[tuple[str, Setting], ...] = ()

    @classmethod
    def of(cls, **settings: Setting) -> Plan:
        """A plan of some settings, those of nothing left out."""
        return cls(
            tuple((axis, each) for axis, each in settings.items() if each.name not in (NOTHING, "off"))
        )

    def on(self, axis: str) -> Setting | None:
        """The setting of an axis; None where it takes nothing."""
        return dict(self.settings).get(axis)

    def also(self, other: Plan) -> Plan:
        """Both together; they have no axis in common."""
        return Plan((*self.settings, *other.settings))

    @property
    def axes(self) -> frozenset[str]:
        """The axes that take something."""
        return frozenset(axis for axis, _ in self.settings)

    @property
    def name(self) -> str:
        """A setting's own name where there is one, `slim mlp=0.5, tokens 4:60` where there are more."""
        if len(self.settings) == 1:
            return self.settings[0][1].name
        return ", ".join(f"{axis} {setting.name}" for axis, setting in self.settings) or NOTHING

    def __bool__(self) -> bool:
        return bool(self.settings)
