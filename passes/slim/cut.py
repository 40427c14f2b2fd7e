"""`slim.cut`: units of a network become narrower."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgec.core.errors import JobError
from edgec.passes.editing import Editor
from edgec.passes.infra import MatchLog, Pass, register
from edgec.passes.slim.factors import factors, split_product, weight_matrix
from edgec.passes.slim.resize import Kept, resize
from edgec.passes.slim.units import RANK, Unit


@register
class CutUnits(Pass):
    """Take members of units away, from every constant and value that has them.

    Before::

        x ─ MatMul(C, 768) ─ Add(768) ─ Gelu ─ MatMul(768, C) ─ Add ─ …

    After, with 192 members kept::

        x ─ MatMul(C, 192) ─ Add(192) ─ Gelu ─ MatMul(192, C) ─ Add ─ …

    - The constants of the unit lose the members' entries; shape constants, numbers of heads and groups,
      sizes of splits and the like follow. A node that shared such a constant gets its own.
    - An attention whose queries and keys become narrower keeps its scale.
    - Of a whole branch that leaves, the Add's way around takes the Add's place.
    - A product of which r singular values stay becomes two with r values between; the largest stay, of the
      matrix as the other cuts left it.
    - A normalisation over the members keeps what it made of those that stay: its scale is multiplied by
      sqrt(C / C') and its epsilon by C / C', so that zeros that leave change nothing.
    - Cutting members whose entries are zero in the constants changes no output.

    Lossy otherwise: gated on the user's budget.

    Args:
        units: the units of this graph.
        kept: by a unit's name, the members that stay; others keep all. Where a value would be left with none,
            one member more stays (`Unit.completed`).

    Raises:
        JobError: one of the names is none of a unit.
    """

    name = "slim.cut"
    after = ("fuse.attention", "canonicalize.dead")
    before = ("tokens.merge", "tokens.prune")
    exact = False

    def __init__(self, units: Sequence[Unit] = (), kept: Mapping[str, Collection[int]] | None = None) -> None:
        self.units = tuple(units)
        known = {unit.name: unit for unit in units}
        for name in kept or {}:
            if name not in known:
                raise JobError(f"there is no unit {name}", fix="find the units of this graph and plan again")
        self.kept = {name: known[name].completed(members) for name, members in (kept or {}).items()}

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Cut every unit that loses members."""
        editor = Editor(model, self.name, log)
        cut = [unit for unit in self.units if len(self.kept.get(unit.name, range(unit.size))) < unit.size]
        self._check(model, cut)
        self._narrow(editor, cut)
        self._leave_out(editor, cut)
        editor.remove_dead()
        self._thin(editor, cut)
        editor.remove_dead()
        log.matches += [unit.layer for unit in cut]

    def _check(self, model: ir.Model, cut: Sequence[Unit]) -> None:
        """Every unit belongs to this graph.

        Raises:
            JobError: one does not.
        """
        values = {value.name: value for value in _values(model.graph)}
        nodes = {node.name for node in model.graph}
        for unit in cut:
            for extent in (*unit.slices, *unit.activations):
                value = values.get(extent.value)
                shape = None if value is None else value.shape
                if shape is None or shape[extent.axis] != len(extent.members):
                    raise JobError(
                        f"unit {unit.name} is not of this graph: `{extent.value}` is not what it was",
                        fix="find the units of this graph and plan again",
                    )
            gone = [
                branch.add for branches in unit.branches for branch in branches if branch.add not in values
            ]
            if gone or (unit.node and unit.node not in nodes):
                raise JobError(
                    f"unit {unit.name} is not of this graph: it has no `{(*gone, unit.node)[0]}`",
                    fix="find the units of this graph and plan again",
                )

    def _leave_out(self, editor: Editor, cut: Sequence[Unit]) -> None:
        """Let whoever reads a sum read what went around a branch that leaves."""
        values = {str(value.name): value for value in _values(editor.graph)}
        leaving = {
            branch.add: branch
            for unit in cut
            for member, branches in enumerate(unit.branches)
            if member not in self.kept[unit.name]
            for branch in branches
        }
        for branch in leaving.values():
            total = values[branch.add]
            add = total.producer()
            assert add is not None
            around = add.inputs[branch.skip]
            assert around is not None
            editor.replace(total, around)

    def _thin(self, editor: Editor, cut: Sequence[Unit]) -> None:
        """Let products that are still there become two."""
        nodes = {node.name: node for node in editor.graph}
        for unit in cut:
            node = nodes.get(unit.node)
            matrix = None if node is None or unit.kind != RANK else weight_matrix(node)
            if node is None or matrix is None or (rank := len(self.kept[unit.name])) >= min(matrix.shape):
                continue
            split_product(editor, node, *factors(matrix, rank))

    def _narrow(self, editor: Editor, cut: Sequence[Unit]) -> None:
        """Take members from constants and values, then mend what the nodes say of sizes."""
        values = {str(value.name): value for value in _values(editor.graph)}
        kept: Kept = {}
        for unit in cut:
            for extent in (*unit.slices, *unit.activations):
                places = kept.setdefault(values[extent.value], {})
                mask = extent.kept(self.kept[unit.name])
                places[extent.axis] = places.get(extent.axis, True) & mask
        touched = {
            node: None
            for node in editor.graph
            if any(value in kept for value in (*node.inputs, *node.outputs) if value is not None)
        }
        for node in touched:
            resize(editor, node, kept)
        for value, places in kept.items():
            if value.is_initializer():
                _shrink(value, places)
            elif value.shape is not None:
                shape = list(value.shape)
                for axis, mask in places.items():
                    shape[axis] = int(mask.sum())
                value.shape = ir.Shape(shape)


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]


def _shrink(value: ir.Value, places: Mapping[int, np.ndarray]) -> None:
    assert value.const_value is not None
    array = value.const_value.numpy()
    for axis, mask in places.items():
        array = np.compress(mask, array, axis=axis)
    tensor = ir.tensor(np.ascontiguousarray(array), name=value.name)
    value.const_value = tensor
    value.shape = ir.Shape(array.shape)
