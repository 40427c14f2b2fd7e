"""Sizes of tensors as sums of names and numbers: `length - r`, `2 * r`, `1`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

_TERM = re.compile(r"([+-]?)\s*(?:(\d+)\s*\*\s*)?(?:(\d+)|([a-z_]+))\s*")


@dataclasses.dataclass(frozen=True)
class Sum:
    """A sum.

    Attributes:
        terms: factor and name of each; a number has the name "".
    """

    terms: tuple[tuple[int, str], ...]

    @classmethod
    def parse(cls, text: str) -> Sum:
        """The sum that a text says.

        Raises:
            ValueError: the text is no sum.
        """
        rest = text.strip()
        terms: list[tuple[int, str]] = []
        while rest:
            found = _TERM.match(rest)
            if found is None or (terms and not found[1]):
                raise ValueError(f"{text!r} is no sum of names and numbers")
            factor = int(found[2] or 1) * (-1 if found[1] == "-" else 1)
            terms.append((factor * int(found[3]), "") if found[3] else (factor, found[4]))
            rest = rest[found.end() :]
        if not terms:
            raise ValueError("a sum has at least one term")
        return cls(tuple(terms))

    @property
    def name(self) -> str | None:
        """The name that the sum is, where it is nothing else."""
        return (
            self.terms[0][1] if len(self.terms) == 1 and self.terms[0][0] == 1 and self.terms[0][1] else None
        )

    @property
    def names(self) -> frozenset[str]:
        """All names in it."""
        return frozenset(name for _, name in self.terms if name)

    def value(self, known: Mapping[str, int]) -> int | None:
        """The number that it is; None where a name is not known."""
        if not self.names <= known.keys():
            return None
        return sum(factor * (known[name] if name else 1) for factor, name in self.terms)


@dataclasses.dataclass(frozen=True)
class Rule:
    """What sizes and attributes must hold.

    Attributes:
        text: as it was written, `2 * r <= length`.
        room: the right side less the left one, which may not be negative.
    """

    text: str
    room: Sum

    @classmethod
    def parse(cls, text: str) -> Rule:
        """The rule that a text of the form `SUM <= SUM` says.

        Raises:
            ValueError: the text has another form.
        """
        left, between, right = text.partition("<=")
        if not between:
            raise ValueError(f"{text!r} is not of the form SUM <= SUM")
        less = tuple((-factor, name) for factor, name in Sum.parse(left).terms)
        return cls(text, Sum((*Sum.parse(right).terms, *less)))
