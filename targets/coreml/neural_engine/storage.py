"""How a tensor is stored apart from how it is read: axes made of factors, in any order.

A graph says what a tensor's axes mean; where their elements lie is free. Every axis is a product of
`Factor`s, and a `Stored` holds them twice: in the order the graph reads them (`logical`) and in the
order they lie in (`stored`). Reshape and Transpose then only regroup and reorder the reading, and cost
nothing until an op needs another order than the one the tensor lies in.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir


class Factor:
    """A factor of an axis: a size above 1, told apart from another of the same size by identity."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size

    def __repr__(self) -> str:
        return f"Factor({self.size})"


Factors = tuple[Factor, ...]
Axes = tuple[Factors, ...]
"""Axes as their factors, outermost first; an axis of size 1 has none."""


def flat(axes: Iterable[Factors]) -> Factors:
    """All factors in order."""
    return tuple(factor for axis in axes for factor in axis)


def volume(factors: Iterable[Factor]) -> int:
    """How many elements they span."""
    return math.prod(factor.size for factor in factors)


def shape_of(axes: Axes) -> tuple[int, ...]:
    """The sizes of axes."""
    return tuple(volume(axis) for axis in axes)


def fresh(shape: Sequence[int]) -> Axes:
    """Axes of these sizes with factors of their own."""
    return tuple(() if size == 1 else (Factor(size),) for size in shape)


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor as it is read and as it lies.

    Attributes:
        value: the tensor, in the shape it lies in.
        logical: its axes as the graph reads them.
        stored: its axes as they lie; the same factors.
    """

    value: ir.Value
    logical: Axes
    stored: Axes

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the graph reads."""
        return shape_of(self.logical)

    @property
    def order(self) -> Factors:
        """The factors as they lie."""
        return flat(self.stored)

    @property
    def bytes(self) -> int:
        """How much it takes."""
        width = 4 if self.value.dtype is None else self.value.dtype.itemsize
        return int(volume(self.order) * width)

    @property
    def as_read(self) -> bool:
        """Whether it lies in the order it is read."""
        return self.order == flat(self.logical)

    def read_as(self, logical: Axes) -> Stored:
        """The same elements under other axes."""
        return Stored(self.value, logical, self.stored)

    def renamed(self, names: Mapping[Factor, Factors]) -> Stored:
        """The same tensor with factors replaced by products of others."""
        return Stored(self.value, _renamed(self.logical, names), _renamed(self.stored, names))

    def refreshed(self) -> Stored:
        """The same tensor under factors of its own: a tensor that meets itself must not share any."""
        return self.renamed({factor: (Factor(factor.size),) for factor in self.order})

    def is_run(self, factors: Factors) -> bool:
        """Whether the factors lie side by side in this order."""
        if len(factors) <= 1:
            return True
        order = self.order
        start = order.index(factors[0])
        return order[start : start + len(factors)] == factors

    def reshaped(self, shape: Sequence[int]) -> Stored | None:
        """Read in another shape by splitting and joining axes; None where the sizes do not divide."""
        pending = list(flat(self.logical))
        names: dict[Factor, list[Factor]] = {}
        axes: list[tuple[Factor, ...]] = []
        origin: dict[Factor, Factor] = {}
        for size in shape:
            axis: list[Factor] = []
            needed = size
            while needed > 1:
                if not pending:
                    return None
                factor = pending.pop(0)
                if needed % factor.size == 0:
                    axis.append(factor)
                    needed //= factor.size
                elif factor.size % needed == 0:
                    root = origin.get(factor, factor)
                    outer, inner = Factor(needed), Factor(factor.size // needed)
                    origin[outer] = origin[inner] = root
                    parts = names.setdefault(root, [root])
                    at = parts.index(factor)
                    parts[at : at + 1] = [outer, inner]
                    axis.append(outer)
                    pending.insert(0, inner)
                    needed = 1
                else:
                    return None
            axes.append(tuple(axis))
        if pending:
            return None
        split = {root: tuple(parts) for root, parts in names.items()}
        return Stored(self.value, tuple(axes), _renamed(self.stored, split))


def _renamed(axes: Axes, names: Mapping[Factor, Factors]) -> Axes:
    return tuple(flat(names.get(factor, (factor,)) for factor in axis) for axis in axes)


def common(first: Factors, second: Factors) -> tuple[dict[Factor, Factors], dict[Factor, Factors]] | None:
    """How to split two ways of factoring one size so that both read alike, in shared factors.

    Returns:
        the parts of each factor of the first and of the second; None where they do not divide.
    """
    if volume(first) != volume(second):
        return None
    parts: tuple[dict[Factor, Factors], dict[Factor, Factors]] = ({}, {})
    at = [0, 0]
    left = [factors[0].size if factors else 1 for factors in (first, second)]
    while at[0] < len(first) and at[1] < len(second):
        piece = min(left)
        if max(left) % piece:
            return None
        whole = left[0] == first[at[0]].size == piece
        shared = first[at[0]] if whole else Factor(piece)
        for side, factors in enumerate((first, second)):
            here = factors[at[side]]
            parts[side][here] = (*parts[side].get(here, ()), shared)
            left[side] //= piece
        for side, factors in enumerate((first, second)):
            if left[side] == 1:
                at[side] += 1
                left[side] = factors[at[side]].size if at[side] < len(factors) else 1
    return parts
