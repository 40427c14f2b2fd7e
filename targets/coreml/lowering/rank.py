"""Tensors of rank above 5, which Core ML lacks: kept apart until a reshape brings them back.

Windows, heads and patches are cut by a Reshape to rank 6 or 7, a Transpose, and a Reshape back. Only
the permutation in the middle moves data, and it can always be done with rank 5: axes of size one drop
out, axes that stay neighbours count as one, and what is left over is moved in steps of rank 4.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from edgec.targets.coreml.lowering.site import MAX_RANK, Folded, Operand, Site


def folded(x: Operand, sizes: Sequence[int]) -> Folded:
    """A value of rank 5 at most, seen in a shape of higher rank."""
    return Folded(x, tuple(sizes), tuple(range(len(sizes))))


def transposed(x: Folded, perm: Sequence[int]) -> Folded:
    """The view with its axes permuted; nothing is moved yet."""
    return dataclasses.replace(x, order=tuple(x.order[axis] for axis in perm))


def flattened(site: Site, x: Folded) -> Operand:
    """The elements in the view's order, in some shape of rank 5 at most."""
    sizes, order = list(x.before), list(x.order)
    value = x.held
    while True:
        sizes, order = merged(sizes, order)
        if len(sizes) <= MAX_RANK:
            break
        value, sizes, order = _one_axis(site, value, sizes, order)
    if order == list(range(len(order))):
        return value
    return site.transpose(site.reshape(value, sizes), order)


def merged(sizes: Sequence[int], order: Sequence[int]) -> tuple[list[int], list[int]]:
    """The same permutation over fewer axes: no sizes of one, neighbours that stay neighbours as one."""
    kept = [axis for axis, size in enumerate(sizes) if size != 1]
    order = [kept.index(axis) for axis in order if axis in kept]
    sizes = [sizes[axis] for axis in kept]
    runs: list[list[int]] = []
    for axis in order:
        if runs and runs[-1][-1] == axis - 1:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    by_place = sorted(runs)
    return [math.prod(sizes[axis] for axis in run) for run in by_place], [by_place.index(run) for run in runs]


def _one_axis(
    site: Site, value: Operand, sizes: list[int], order: list[int]
) -> tuple[Operand, list[int], list[int]]:
    """Bring the first axis that is out of place to its place; it and what it passes stay in their order."""
    place = next(at for at, axis in enumerate(order) if at != axis)
    axis = order[place]
    parts = [
        math.prod(sizes[:place]),
        math.prod(sizes[place:axis]),
        sizes[axis],
        math.prod(sizes[axis + 1 :]),
    ]
    value = site.transpose(site.reshape(value, parts), (0, 2, 1, 3))
    moved = [*range(place), axis, *range(place, axis), *range(axis + 1, len(sizes))]
    return value, [sizes[at] for at in moved], [moved.index(at) for at in order]


def apart(site: Site, x: Folded, axes: Sequence[int]) -> Operand:
    """The view as a matrix: the given axes first, all others behind them, each flattened."""
    others = [axis for axis in range(len(x.sizes)) if axis not in axes]
    rows = math.prod(x.sizes[axis] for axis in axes)
    flat = flattened(site, transposed(x, [*axes, *others]))
    return site.reshape(flat, (rows, math.prod(x.sizes) // rows))
