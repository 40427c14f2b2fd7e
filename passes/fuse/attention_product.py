"""Reading MatMul, Gemm and Einsum alike: as two operands whose dimensions carry letters."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import attribute, constant
from edgec.passes.fuse.axes import Axes, Dim, Layout, dims
from edgec.passes.infra import Refusal

Letters = tuple[str, ...]
"""One letter a dimension; the empty string for a dimension of size one that is broadcast."""


@dataclasses.dataclass(frozen=True)
class Product:
    """A product of two tensors, in Einstein's notation.

    Attributes:
        node: the MatMul, Gemm or Einsum.
        operands: the two tensors.
        letters: their dimensions' letters.
        out: the output's letters.
        factor: a scalar the product is multiplied by.
    """

    node: ir.Node
    operands: tuple[ir.Value, ir.Value]
    letters: tuple[Letters, Letters]
    out: Letters
    factor: float = 1.0

    @property
    def contracted(self) -> Letters:
        """The letters that are summed over."""
        left, right = self.letters
        return tuple(letter for letter in left if letter and letter in right and letter not in self.out)

    def free(self, side: int) -> Letters:
        """The letters that only one operand has, in the output's order."""
        own, other = self.letters[side], self.letters[1 - side]
        return tuple(letter for letter in self.out if letter and letter in own and letter not in other)

    def weight(self) -> ir.Value | None:
        """The operand that is a constant, where one is."""
        return next((value for value in self.operands if constant(value) is not None), None)

    def bind(self, axes: Axes, side: int | None = None, layout: Layout = ()) -> dict[str, Dim]:
        """Atoms for every letter, given the layout of one operand or of none.

        Raises:
            Refusal: a dimension of the given layout is broadcast against a longer one.
        """
        bound: dict[str, Dim] = {}
        order = (0, 1) if side is None else (side, 1 - side)
        for index in order:
            sizes = dims(self.operands[index])
            for axis, letter in enumerate(self.letters[index]):
                if not letter or letter in bound:
                    continue
                bound[letter] = layout[axis] if index == side else axes.fresh(sizes[axis])
        for letter in self.out:
            if letter and letter not in bound:
                raise Refusal(f"{self.node.name!r} has an axis of unknown origin")
        return bound


def lay(letters: Letters, bound: dict[str, Dim]) -> Layout:
    """The layout of a tensor with these letters."""
    return tuple(bound[letter] if letter else () for letter in letters)


def read_product(node: ir.Node | None) -> Product | None:
    """The node as a product, or None where it is none or not of two plain operands."""
    try:
        if is_op(node, "MatMul"):
            return _matmul(node)  # type: ignore[arg-type]
        if is_op(node, "Gemm"):
            return _gemm(node)  # type: ignore[arg-type]
        if is_op(node, "Einsum"):
            return _einsum(node)  # type: ignore[arg-type]
    except Refusal:
        return None
    return None


def _operands(node: ir.Node) -> tuple[ir.Value, ir.Value]:
    left, right = node.inputs[0], node.inputs[1]
    assert left is not None
    assert right is not None
    return left, right


def _matmul(node: ir.Node) -> Product | None:
    left, right = _operands(node)
    sizes = dims(left), dims(right)
    if min(len(sizes[0]), len(sizes[1])) < 2:
        return None
    rank = max(len(sizes[0]), len(sizes[1]))
    batch = [f"b{axis}" for axis in range(rank - 2)]

    def letters(side: int) -> list[str]:
        own, other = sizes[side][:-2], sizes[1 - side][:-2]
        found = []
        for back in range(len(own), 0, -1):
            facing = other[-back] if back <= len(other) else 1
            found.append("" if own[-back] == 1 and facing != 1 else batch[-back])
        return found

    out = (*batch, "m", "n")
    return Product(node, (left, right), ((*letters(0), "m", "k"), (*letters(1), "k", "n")), out)


def _gemm(node: ir.Node) -> Product | None:
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        return None
    left = ("k", "m") if attribute(node, "transA", 0) else ("m", "k")
    right = ("n", "k") if attribute(node, "transB", 0) else ("k", "n")
    return Product(node, _operands(node), (left, right), ("m", "n"), float(attribute(node, "alpha", 1.0)))


def _einsum(node: ir.Node) -> Product | None:
    equation = str(attribute(node, "equation", "")).replace(" ", "")
    if len(node.inputs) != 2 or "->" not in equation:
        return None
    terms, out = equation.split("->")
    parts = terms.split(",")
    operands = _operands(node)
    sizes = dims(operands[0]), dims(operands[1])
    if len(parts) != 2:
        return None
    spelled = [_spell(part, len(size)) for part, size in zip(parts, sizes, strict=True)]
    covered = max(
        (len(size) - len(part.replace("...", "")) for part, size in zip(parts, sizes, strict=True)), default=0
    )
    result = _spell(out, len(out.replace("...", "")) + (covered if "..." in out else 0))
    for term in (*spelled, result):
        if term is None or len(set(term)) != len(term):
            return None
    left, right = spelled
    assert left is not None
    assert right is not None
    assert result is not None
    if any((letter in left) + (letter in right) + (letter in result) < 2 for letter in {*left, *right}):
        return None  # a letter summed within one operand, or a diagonal: not a plain product
    facing = (
        (dict(zip(left, sizes[0], strict=True))),
        (dict(zip(right, sizes[1], strict=True))),
    )

    def broadcast(side: int, term: Letters) -> Letters:
        own, other = facing[side], facing[1 - side]
        return tuple("" if own[x] == 1 and other.get(x, 1) != 1 else x for x in term)

    return Product(node, operands, (broadcast(0, left), broadcast(1, right)), result)


def _spell(term: str, rank: int) -> Letters | None:
    """The letters of one Einsum term, with `...` spelled out from the right; None where they do not fit."""
    if "..." not in term:
        return tuple(term) if len(term) == rank else None
    head, tail = term.split("...")
    hidden = rank - len(head) - len(tail)
    return None if hidden < 0 else (*head, *(f".{hidden - index}" for index in range(hidden)), *tail)
