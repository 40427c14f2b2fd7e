"""Bringing a tensor into a layout with the fewest nodes, undoing the movement that is already there."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import Editor, constant, consumers, producer, scalar, sole_consumer
from edgec.passes.fuse.axes import MOVES, Axes, Dim, Layout, Size
from edgec.passes.infra import Refusal

Step = tuple[str, tuple[Size, ...]]
"""`("Transpose", perm)` or `("Reshape", shape)`."""


@dataclasses.dataclass(frozen=True)
class View:
    """A tensor on the way from a producer to an operand.

    Attributes:
        value: the tensor.
        layout: its axes.
        factor: the scalar it is still to be multiplied by to become the operand.
    """

    value: ir.Value
    layout: Layout
    factor: float = 1.0


def scalar_factor(node: ir.Node) -> tuple[ir.Value, float] | None:
    """The tensor and the factor of a Mul or Div by a constant scalar, else None."""
    if not is_op(node, "Mul", "Div"):
        return None
    left, right = node.inputs
    assert left is not None
    assert right is not None
    by = scalar(right)
    if by is not None and _keeps_shape(left, node):
        if is_op(node, "Mul"):
            return left, by
        return (left, 1.0 / by) if by else None
    by = scalar(left)
    return (right, by) if by is not None and is_op(node, "Mul") and _keeps_shape(right, node) else None


def _keeps_shape(value: ir.Value, node: ir.Node) -> bool:
    shape = node.outputs[0].shape
    return value.shape is None or shape is None or len(value.shape) == len(shape)


def ancestry(
    axes: Axes, value: ir.Value, layout: Layout, *, repeats: bool = False, scaling: bool = True
) -> list[View]:
    """The operand and the tensors it was made from by movement and scaling, nearest first.

    With `repeats`, Expand, Tile, Gather and Concat that only repeat are looked through as well; the
    layouts behind them lack the atoms that count the repeats.
    """
    views = [View(value, layout)]
    while (node := producer(views[-1].value)) is not None:
        view = views[-1]
        if scaling and (scaled := scalar_factor(node)) is not None:
            unscaled, by = scaled
            views.append(View(unscaled, view.layout, view.factor * by))
            continue
        source = node.inputs[0] if node.inputs else None
        if source is None:
            break
        try:
            if is_op(node, *MOVES):
                before = axes.backward(node, view.layout)
            elif repeats:
                found = axes.without_repeats(node, view.layout)
                if found is None:
                    break
                before = found
            else:
                break
        except Refusal:
            break
        views.append(View(source, before, view.factor))
    return views


def best_view(axes: Axes, views: Sequence[View], target: Layout, *, consumed: bool = False) -> View | None:
    """The view from which the target layout costs the fewest nodes, counting those that stay.

    With `consumed`, all that reads the first view goes away.
    """
    wanted = {atom for dim in axes.resolve_all(target) for atom in dim}
    readers = [
        1 if consumed and not index else len(consumers(view.value)) for index, view in enumerate(views)
    ]
    shared = next((index for index, count in enumerate(readers) if count > 1), len(views))
    best: tuple[int, View] | None = None
    for index, view in enumerate(views):
        layout = axes.resolve_all(view.layout)
        if {atom for dim in layout for atom in dim} != wanted:
            continue
        cost = len(plan(axes, layout, target)) + len(views) - 1 - min(index, shared)
        if best is None or cost <= best[0]:
            best = (cost, view)
    return None if best is None else best[1]


def plan(axes: Axes, layout: Layout, target: Layout) -> list[Step]:
    """The fewest Transpose and Reshape steps from one layout to another with the same atoms."""
    source, wanted = axes.resolve_all(layout), axes.resolve_all(target)
    shape = tuple(axes.size(dim) for dim in wanted)
    flat, flat_wanted = _flat(source), _flat(wanted)
    if flat == flat_wanted:
        return [] if source == wanted else [("Reshape", shape)]
    perm = _matching(source, wanted)
    if perm is not None:
        return [("Transpose", perm)]
    position = {atom: index for index, atom in enumerate(flat_wanted)}
    if _runs(source, position):
        # Whole dimensions move, and are then merged or given dimensions of size one.
        order = sorted(range(len(source)), key=lambda axis: position[source[axis][0]] if source[axis] else -1)
        return [("Transpose", tuple(order)), ("Reshape", shape)]
    pieces = _pieces(flat, position)
    by_place = sorted((dim for dim in wanted if dim), key=lambda dim: flat.index(dim[0]))
    if _flat(tuple(by_place)) == flat:
        # Every wanted dimension is one run of the source: split first, then move.
        split = by_place + [()] * (len(wanted) - len(by_place))
        perm = _matching(tuple(split), wanted)
        assert perm is not None
        return [("Reshape", tuple(axes.size(dim) for dim in split)), ("Transpose", perm)]
    order = sorted(range(len(pieces)), key=lambda index: position[pieces[index][0]])
    return [
        ("Reshape", tuple(axes.size(piece) for piece in pieces)),
        ("Transpose", tuple(order)),
        ("Reshape", shape),
    ]


def _flat(layout: Layout) -> Dim:
    return tuple(atom for dim in layout for atom in dim)


def _matching(source: Layout, wanted: Layout) -> tuple[int, ...] | None:
    if len(source) != len(wanted):
        return None
    left = list(range(len(source)))
    perm = []
    for dim in wanted:
        found = next((axis for axis in left if source[axis] == dim), None)
        if found is None:
            return None
        left.remove(found)
        perm.append(found)
    return tuple(perm)


def _runs(layout: Layout, position: dict[int, int]) -> bool:
    return all(
        position[after] == position[before] + 1 for dim in layout for before, after in itertools.pairwise(dim)
    )


def _pieces(flat: Dim, position: dict[int, int]) -> list[Dim]:
    pieces: list[list[int]] = []
    for atom in flat:
        if pieces and position[atom] == position[pieces[-1][-1]] + 1:
            pieces[-1].append(atom)
        else:
            pieces.append([atom])
    return [tuple(piece) for piece in pieces]


def shape_tensor(shape: Sequence[Size]) -> np.ndarray:
    """A Reshape's shape input; one open size becomes -1.

    Raises:
        Refusal: more than one size is open.
    """
    if sum(not isinstance(size, int) for size in shape) > 1:
        raise Refusal(f"a reshape to {tuple(shape)} needs more than one open dimension")
    return np.array([size if isinstance(size, int) else -1 for size in shape], dtype=np.int64)


def emit(
    editor: Editor, value: ir.Value, steps: Sequence[Step], *, like: ir.Node, before: ir.Node
) -> ir.Value:
    """Insert the nodes of a plan and return the last one's output; a constant is moved at once."""
    array = constant(value)
    if array is not None and steps:
        for op_type, argument in steps:
            if op_type == "Transpose":
                array = np.transpose(array, [int(axis) for axis in argument])
            else:
                array = array.reshape(shape_tensor(argument))
        return editor.initializer(array, f"{value.name}/moved")
    for op_type, argument in steps:
        shape = value.shape
        if op_type == "Transpose":
            perm = [int(axis) for axis in argument]
            value = editor.node(
                "Transpose",
                [value],
                like=like,
                before=before,
                attributes={"perm": perm},
                shape=None if shape is None else [shape[axis] for axis in perm],
            )
        else:
            target = editor.initializer(shape_tensor(argument), f"{like.name or like.op_type}/shape")
            value = editor.node("Reshape", [value, target], like=like, before=before, shape=list(argument))
    return value


def spread(
    editor: Editor,
    axes: Axes,
    value: ir.Value,
    layout: Layout,
    target: Layout,
    *,
    like: ir.Node,
    before: ir.Node,
) -> ir.Value:
    """Bring a tensor that lacks some atoms into a layout where only whole dimensions may be missing.

    A dimension of the target none of whose atoms the tensor has stays of size one; one that it has in
    part is expanded.
    """
    present = set(_flat(axes.resolve_all(layout)))
    wanted = axes.resolve_all(target)
    full: Layout = tuple(dim if present.intersection(dim) else () for dim in wanted)
    if set(_flat(full)) <= present:
        return emit(editor, value, plan(axes, layout, full), like=like, before=before)
    single: Layout = tuple((atom,) if atom in present else () for dim in full for atom in (dim or (-1,)))
    value = emit(editor, value, plan(axes, layout, single), like=like, before=before)
    sizes = [axes.size((atom,)) if atom >= 0 else 1 for dim in full for atom in (dim or (-1,))]
    value = expand(editor, value, sizes, like=like, before=before)
    merged = tuple(axes.size(dim) for dim in full)
    return emit(editor, value, [("Reshape", merged)], like=like, before=before)


def expand(
    editor: Editor, value: ir.Value, sizes: Sequence[Size], *, like: ir.Node, before: ir.Node
) -> ir.Value:
    """Broadcast a tensor to these sizes; a constant at once.

    Raises:
        Refusal: a size is open.
    """
    if value.shape is not None and list(value.shape) == list(sizes):
        return value
    fixed = [size for size in sizes if isinstance(size, int)]
    if len(fixed) < len(sizes):
        raise Refusal(f"{value.name!r} would have to be expanded along an open dimension")
    array = constant(value)
    if array is not None:
        return editor.initializer(np.broadcast_to(array, fixed), f"{value.name}/expanded")
    shape = editor.initializer(np.array(fixed, np.int64), f"{like.name or like.op_type}/shape")
    return editor.node("Expand", [value, shape], like=like, before=before, shape=fixed)


def replace_forward(
    editor: Editor,
    axes: Axes,
    made: ir.Value,
    layout: Layout,
    old: ir.Value,
    old_layout: Layout,
    *,
    like: ir.Node,
    before: ir.Node,
) -> None:
    """Let `made` stand for `old`, at the point of the movement behind `old` that costs least."""
    views = [View(old, old_layout)]
    while (node := sole_consumer(views[-1].value)) is not None and is_op(node, *MOVES):
        if node.inputs[0] is not views[-1].value:
            break
        try:
            views.append(View(node.outputs[0], axes.forward(node, views[-1].layout)))
        except Refusal:
            break
    costs = [len(plan(axes, layout, view.layout)) + len(views) - 1 - i for i, view in enumerate(views)]
    view = views[costs.index(min(costs))]
    steps = plan(axes, layout, view.layout)
    value = emit(editor, made, steps, like=like, before=before)
    editor.replace(view.value, value)
