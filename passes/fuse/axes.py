"""Following axes through data movement: which part of which axis a tensor's dimension stands for.

A dimension is a sequence of *atoms*, outermost first; an atom is a whole axis until a Reshape needs
it in parts, and then it is split once and for all tensors that carry it. A dimension of size one
carries no atom, so that adding, dropping or broadcasting it changes nothing. Sizes are integers, or
names for open dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import attribute, constant
from edgec.passes.infra import Refusal

Size = int | str
Dim = tuple[int, ...]
Layout = tuple[Dim, ...]
"""One sequence of atoms a dimension."""

MOVES = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")
"""Ops that only rename or reorder axes."""


class AxesError(Refusal):
    """Data movement that cannot be followed; the message says which."""


def dims(value: ir.Value) -> tuple[Size, ...]:
    """The value's sizes; an open dimension by its name.

    Raises:
        AxesError: the rank is unknown.
    """
    if value.shape is None:
        raise AxesError(f"the shape of {value.name!r} is unknown")
    return tuple(
        size if isinstance(size, int) else (size.value or f"{value.name}?{axis}")
        for axis, size in enumerate(value.shape)
    )


class Axes:
    """The atoms of one attention."""

    def __init__(self) -> None:
        self._sizes: list[Size] = []
        self._parts: dict[int, Dim] = {}

    def fresh(self, size: Size) -> Dim:
        """A new axis of this size; none at all where the size is one."""
        if size == 1:
            return ()
        self._sizes.append(size)
        return (len(self._sizes) - 1,)

    def resolve(self, dim: Dim) -> Dim:
        """The atoms of a dimension as they are now, after all splits."""
        atoms: list[int] = []
        for atom in dim:
            atoms.extend(self.resolve(self._parts[atom]) if atom in self._parts else (atom,))
        return tuple(atoms)

    def resolve_all(self, layout: Layout) -> Layout:
        """`resolve` for each dimension."""
        return tuple(self.resolve(dim) for dim in layout)

    def size(self, dim: Dim) -> Size:
        """The product of the atoms' sizes; a name if any is open."""
        product = 1
        names = []
        for atom in self.resolve(dim):
            size = self._sizes[atom]
            if isinstance(size, int):
                product *= size
            else:
                names.append(size)
        if not names:
            return product
        return "*".join(names) if product == 1 else f"{'*'.join(names)}*{product}"

    def _split(self, atom: int, outer: Size, inner: Size) -> tuple[int, int]:
        self._sizes += [outer, inner]
        parts = (len(self._sizes) - 2, len(self._sizes) - 1)
        self._parts[atom] = parts
        return parts

    def reshape(self, layout: Layout, shape: Sequence[Size]) -> Layout:
        """The layout after a row-major reshape.

        Raises:
            AxesError: a new dimension takes part of an axis that does not divide, or open sizes
                leave more than one reading.
        """
        atoms = [atom for dim in self.resolve_all(layout) for atom in dim]
        shape = list(shape)
        front: list[Dim] = []
        back: list[Dim] = []
        while shape:
            taken = self._take(atoms, shape[0], last=False)
            if taken is not None:
                front.append(taken)
                shape.pop(0)
                continue
            taken = self._take(atoms, shape[-1], last=True)
            if taken is not None:
                back.insert(0, taken)
                shape.pop()
                continue
            if len(shape) > 1:
                raise AxesError(f"a reshape to {tuple(shape)} mixes axes")
            front.append(tuple(atoms))
            atoms = []
            shape.pop()
        if atoms:
            raise AxesError("a reshape leaves axes over")
        return tuple(front + back)

    def _take(self, atoms: list[int], need: Size, *, last: bool) -> Dim | None:
        """Take atoms worth `need` from one end, splitting at most one; None where impossible."""
        if need == 1:
            return ()
        taken: list[int] = []
        rest = list(atoms)
        while rest:
            atom = rest.pop(-1 if last else 0)
            size = self._sizes[atom]
            if size == need:
                taken.append(atom)
                atoms[:] = rest
                return tuple(reversed(taken)) if last else tuple(taken)
            if not isinstance(need, int):
                return None
            if not isinstance(size, int):
                if not last or taken:
                    return None
                # An open axis ends in a known factor wherever a valid reshape says so.
                outer, inner = self._split(atom, f"{size}/{need}", need)
                atoms[:] = [*rest, outer]
                return (inner,)
            if need % size == 0:
                taken.append(atom)
                need //= size
                continue
            if size % need:
                return None
            if last:
                outer, inner = self._split(atom, size // need, need)
                taken.append(inner)
                atoms[:] = [*rest, outer]
                return tuple(reversed(taken))
            outer, inner = self._split(atom, need, size // need)
            taken.append(outer)
            atoms[:] = [inner, *rest]
            return tuple(taken)
        return None

    def forward(self, node: ir.Node, layout: Layout) -> Layout:
        """The layout of a moving node's output from that of its first input.

        Raises:
            AxesError: the movement cannot be followed.
        """
        if is_op(node, "Identity", "Cast", "Dropout"):
            return layout
        if is_op(node, "Transpose"):
            return tuple(layout[axis] for axis in permutation(node, len(layout)))
        return self.reshape(layout, dims(node.outputs[0]))

    def backward(self, node: ir.Node, layout: Layout) -> Layout:
        """The layout of a moving node's first input from that of its output.

        Raises:
            AxesError: the movement cannot be followed.
        """
        if is_op(node, "Identity", "Cast", "Dropout"):
            return layout
        if is_op(node, "Transpose"):
            perm = permutation(node, len(layout))
            return tuple(layout[perm.index(axis)] for axis in range(len(perm)))
        source = node.inputs[0]
        assert source is not None
        return self.reshape(layout, dims(source))

    def without_repeats(self, node: ir.Node, layout: Layout) -> Layout | None:
        """The layout of the first input of a node that repeats it; None where it repeats otherwise.

        Expand, Tile, Gather by constant indices and Concat of one value with itself are read; the
        atoms that count the repeats are missing from the result.
        """
        source = node.inputs[0]
        assert source is not None
        if is_op(node, "Expand"):
            before = dims(source)
            kept = layout[len(layout) - len(before) :]
            return tuple(() if size == 1 else dim for size, dim in zip(before, kept, strict=True))
        if is_op(node, "Tile"):
            counts = constant(node.inputs[1])
            if counts is None:
                return None
            result = list(layout)
            for axis, count in enumerate(counts.tolist()):
                if count > 1:
                    inner = self._inner(layout[axis], int(count))
                    if inner is None:
                        return None
                    result[axis] = inner
            return tuple(result)
        if is_op(node, "Concat"):
            if len(node.inputs) < 2 or any(value is not source for value in node.inputs):
                return None
            axis = int(attribute(node, "axis", 0)) % len(layout)
            inner = self._inner(layout[axis], len(node.inputs))
            return None if inner is None else (*layout[:axis], inner, *layout[axis + 1 :])
        if is_op(node, "Gather"):
            return self._gathered(node, source, layout)
        return None

    def _inner(self, dim: Dim, outer: int) -> Dim | None:
        size = self.size(dim)
        if not isinstance(size, int) or size % outer:
            return None
        return self.reshape((dim,), (outer, size // outer))[1]

    def _gathered(self, node: ir.Node, source: ir.Value, layout: Layout) -> Layout | None:
        indices = constant(node.inputs[1])
        axis = int(attribute(node, "axis", 0)) % len(layout)
        before = dims(source)[axis]
        if indices is None or indices.ndim != 1 or not isinstance(before, int) or len(indices) % before:
            return None
        each = len(indices) // before
        picked = indices.tolist()
        if picked == [index for index in range(before) for _ in range(each)]:
            kept = self.reshape((layout[axis],), (before, each))[0]
        elif picked == list(range(before)) * each:
            kept = self.reshape((layout[axis],), (each, before))[1]
        else:
            return None
        return (*layout[:axis], kept, *layout[axis + 1 :])


def permutation(node: ir.Node, rank: int) -> tuple[int, ...]:
    """A Transpose's perm, as non-negative axes."""
    perm = attribute(node, "perm")
    return tuple(reversed(range(rank))) if perm is None else tuple(int(axis) % rank for axis in perm)
