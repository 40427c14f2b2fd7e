"""Tensors of rank above 5, which Core ML lacks: kept apart until a reshape brings them back.

Windows, heads and patches are cut by a Reshape to rank 6 or 7, a Transpose, and a Reshape back. Only
the permutation in the middle moves data, and it can always be done with rank 5: axes of size one drop
out, axes that stay neighbours count as one, and what is left over is moved in steps of rank 4.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np

from edgec.targets.coreml.lowering.site import (
    MAX_RANK,
    Folded,
    Operand,
    Refusal,
    Rule,
    Site,
    broadcast_shape,
    shape_of,
)


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


def settled(site: Site, x: Folded) -> Operand:
    """The view itself where its rank is above 5, a tensor where it is not."""
    return x if len(x.sizes) > MAX_RANK else site.reshape(flattened(site, x), x.sizes)


def by_element(rule: Rule) -> Rule:
    """Let a rule that works element by element, with broadcasting, take views too."""

    @functools.wraps(rule)
    def on_views(site: Site) -> Operand:
        operands = site.raw_operands()
        if not any(isinstance(value, Folded) for value in operands):
            return rule(site)
        given = [value for value in operands if value is not None]
        whole = broadcast_shape([sizes_in_view(value) for value in given])
        groups = _groups(whole, [sizes_in_view(value) for value in given])
        if len(groups) > MAX_RANK:
            raise Refusal(
                f"its operands of rank {len(whole)} broadcast along {len(groups)} groups of axes, "
                f"and Core ML stops at {MAX_RANK}"
            )
        fewer = [None if value is None else _in_groups(site, value, groups) for value in operands]
        return folded(rule(site.with_operands(fewer)), whole)

    return on_views


def sizes_in_view(x: Operand) -> tuple[int, ...]:
    """The sizes that the graph means."""
    return x.sizes if isinstance(x, Folded) else shape_of(x)


def _groups(whole: tuple[int, ...], shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Neighbouring axes, counted from behind, along which each operand is full or has size one."""
    groups: list[list[int]] = []
    last: tuple[bool, ...] | None = None
    for axis in range(-len(whole), 0):
        if whole[axis] == 1:
            continue
        full = tuple(-axis <= len(sizes) and sizes[axis] != 1 for sizes in shapes)
        if full == last:
            groups[-1].append(axis)
        else:
            groups.append([axis])
        last = full
    return [tuple(group) for group in groups]


def _in_groups(site: Site, x: Operand, groups: Sequence[tuple[int, ...]]) -> Operand:
    sizes = sizes_in_view(x)
    shape = [math.prod(sizes[axis] for axis in group if -axis <= len(sizes)) for group in groups]
    return site.reshape(flattened(site, x) if isinstance(x, Folded) else x, shape)


def expanded(site: Site, x: Operand, target: Sequence[int]) -> Operand:
    """A value broadcast to a shape of rank above 5."""
    sizes = sizes_in_view(x)
    groups = _groups(tuple(target), [sizes])
    if len(groups) > MAX_RANK:
        raise Refusal(f"it broadcasts along {len(groups)} groups of axes, and Core ML stops at {MAX_RANK}")
    fewer = _in_groups(site, x, groups)
    reps = [
        math.prod(target[axis] for axis in group) // size
        for group, size in zip(groups, shape_of(fewer), strict=True)
    ]
    tiled = fewer if set(reps) <= {1} else site.emit("tile", x=fewer, reps=np.array(reps, np.int32))
    return settled(site, folded(tiled, target))


def taken(site: Site, x: Operand, axis: int, indices: Operand) -> Operand:
    """Elements of an axis, where the operand or the result has a rank above 5."""
    view = x if isinstance(x, Folded) else folded(x, shape_of(x))
    others = [size for at, size in enumerate(view.sizes) if at != axis]
    picks = shape_of(indices)
    flat = site.reshape(indices, (math.prod(picks),))
    rows = site.emit("gather", x=apart(site, view, [axis]), indices=flat, axis=0)
    found = folded(rows, (*picks, *others))
    count = len(picks)
    order = [*range(count, count + axis), *range(count), *range(count + axis, count + len(others))]
    return settled(site, transposed(found, order))


def product(site: Site, x: Folded, weight: Operand) -> Operand:
    """A view times a constant matrix."""
    rows = apart(site, x, range(len(x.sizes) - 1))
    return folded(site.emit("linear", x=rows, weight=weight.T), (*x.sizes[:-1], weight.shape[1]))


def reduced(site: Site, x: Folded, axes: Sequence[int], keep: bool, mil_op: str) -> Operand:
    """A view reduced over some of its axes."""
    kept = [axis for axis in range(len(x.sizes)) if axis not in axes]
    found = site.emit(mil_op, x=apart(site, x, kept), axes=np.array([1], np.int32), keep_dims=False)
    sizes = [1 if axis in axes else size for axis, size in enumerate(x.sizes) if keep or axis not in axes]
    return settled(site, folded(found, sizes))


def softmaxed(site: Site, x: Folded, axis: int) -> Operand:
    """The softmax of a view over one of its axes."""
    others = [each for each in range(len(x.sizes)) if each != axis]
    found = site.emit("softmax", x=apart(site, x, others), axis=1)
    view = folded(found, [*(x.sizes[each] for each in others), x.sizes[axis]])
    return transposed(view, [*range(axis), len(others), *range(axis, len(others))])
