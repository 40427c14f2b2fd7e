"""What can be cut out of a network: units, their members, and where the members lie."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection

import numpy as np

WIDTHS = ("mlp", "heads", "qk_width", "v_width", "channels", "residual")
"""Kinds of units whose members are entries along axes; each value that holds them becomes narrower."""

WHOLES = ("attention", "mlp_block", "conv_block", "block", "depth")
"""Kinds of units whose members are whole residual branches."""

RANK = "rank"
"""The kind of unit that is one product of a linear layer; its members are singular values, largest first."""

KINDS = (*WIDTHS, *WHOLES, RANK)


@dataclasses.dataclass(frozen=True, eq=False)
class Extent:
    """Where a unit's members lie on one axis of one value.

    Attributes:
        value: the value's name.
        axis: the axis, non-negative.
        members: (size of the axis,) int; of which member each entry is, -1 for entries that always stay.
    """

    value: str
    axis: int
    members: np.ndarray

    def kept(self, members: Collection[int]) -> np.ndarray:
        """(size of the axis,) bool: which entries stay when only these members do."""
        return np.isin(self.members, [-1, *members])

    @property
    def block(self) -> int:
        """Entries of one member, the first."""
        return int(np.count_nonzero(self.members == 0))


@dataclasses.dataclass(frozen=True)
class Branch:
    """One residual branch: an Add and which of its inputs is the way around.

    Attributes:
        add: the name of the Add's output.
        skip: index of the input that stays.
    """

    add: str
    skip: int


@dataclasses.dataclass(frozen=True)
class Reader:
    """A product of a linear layer that sums over members, and what of it can be fitted anew.

    Attributes:
        node: the node's name.
        value: the value it reads; an `Extent` of the unit's `activations` says how members lie on it.
        weight: the initializer that it multiplies by.
    """

    node: str
    value: str
    weight: str


@dataclasses.dataclass(frozen=True, eq=False)
class Unit:
    """A part of a network that can be made smaller, and still is a network.

    Attributes:
        name: stable, `KIND:LAYER`; what users write.
        kind: one of `KINDS`.
        layer: the layer of the user's model that it is told by.
        size: how many members it has.
        step: members leave in multiples of this.
        slices: the constants that are cut with the members. With every entry of a leaving member zero in
            them, cutting changes no output. Of a whole branch they are those of its last layer; none where
            that is of a form whose zeros are not known.
        activations: the values that become narrower; empty for whole branches and ranks.
        readers: the linear layers that sum over the members.
        branches: for each member of a whole unit the residual branches that leave with it.
        node: of a rank, the name of the product that becomes two.
        normalized: whether a normalisation takes its statistics over the members. Then the cut is exact only
            where the leaving members are zero and, with a LayerNorm, those that stay have a mean of zero.
    """

    name: str
    kind: str
    layer: str
    size: int
    step: int = 1
    slices: tuple[Extent, ...] = ()
    activations: tuple[Extent, ...] = ()
    readers: tuple[Reader, ...] = ()
    branches: tuple[tuple[Branch, ...], ...] = ()
    node: str = ""
    normalized: bool = False

    @property
    def value(self) -> str:
        """The value that the first reader reads, without one the value it was found at; empty for wholes."""
        if self.readers:
            return self.readers[0].value
        return self.activations[0].value if self.activations else ""

    @property
    def axis(self) -> int:
        """The axis of `value` that holds the members."""
        return self._read.axis

    @property
    def block(self) -> int:
        """Entries of one member on that axis."""
        return self._read.block

    def completed(self, kept: Collection[int]) -> frozenset[int]:
        """The members that stay when these should: with the first of each value that would be left with none.

        A width keeps its first member at least; a whole unit may lose all.
        """
        stay = set(kept)
        if self.branches:
            return frozenset(stay)
        for needed in (frozenset(range(self.size)), *self._parts):
            if not needed & stay:
                stay.add(min(needed))
        return frozenset(stay)

    @functools.cached_property
    def _parts(self) -> frozenset[frozenset[int]]:
        """The members of each axis that has no others."""
        tables = [extent.members for extent in (*self.slices, *self.activations)]
        return frozenset(frozenset(np.unique(table).tolist()) for table in tables if (table >= 0).all())

    @property
    def consumers(self) -> tuple[str, ...]:
        """Names of the readers' nodes."""
        return tuple(reader.node for reader in self.readers)

    @property
    def _read(self) -> Extent:
        return next(extent for extent in self.activations if extent.value == self.value)


class Names:
    """The names of a graph's units, each once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, kind: str, layer: str, other_layer: str = "") -> str:
        """A name from a kind and a layer; where it is taken from another layer, then with a number."""
        for own in (layer, other_layer):
            name = _written(f"{kind}:{own}")
            if own and name not in self._taken:
                self._taken.add(name)
                return name
        stem = _written(f"{kind}:{other_layer or layer}")
        number = 2
        while (name := f"{stem}#{number}") in self._taken:
            number += 1
        self._taken.add(name)
        return name


def _written(name: str) -> str:
    """A name without the signs of a plan's text."""
    return "".join("_" if sign in "+= \t\n" else sign for sign in name)
