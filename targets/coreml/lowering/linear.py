"""Matrix products."""

from __future__ import annotations

from collections import Counter

import numpy as np

from edgec.targets.coreml.lowering.rank import product
from edgec.targets.coreml.lowering.site import Folded, Operand, Refusal, Site, dtype_of, rank_of, shape_of
from edgec.targets.coreml.lowering.table import lowers


@lowers("MatMul")
def matmul(site: Site) -> Operand:
    """A constant rank-2 right side makes `linear` (weight transposed); vectors are raised to matrices."""
    y = site.operand(1)
    if isinstance(site.raw(0), Folded) and isinstance(y, np.ndarray) and y.ndim == 2:
        return product(site, site.raw(0), y)
    x = site.operand(0)
    if isinstance(y, np.ndarray) and y.ndim == 2 and rank_of(x) >= 2 and not isinstance(x, np.ndarray):
        return site.emit("linear", x=x, weight=y.T)
    vector_x, vector_y = rank_of(x) == 1, rank_of(y) == 1
    if vector_x:
        x = site.reshape(x, (1, *shape_of(x)))
    if vector_y:
        y = site.reshape(y, (*shape_of(y), 1))
    result = site.matmul(x, y)
    if vector_x or vector_y:
        shape = list(shape_of(result))
        if vector_y:
            del shape[-1]
        if vector_x:
            del shape[-1 if vector_y else -2]
        result = site.reshape(result, shape)
    return result


@lowers("Gemm")
def gemm(site: Site) -> Operand:
    """Alpha · op(A) · op(B) + beta · C; constant B and C fold into `linear`."""
    a, b, c = site.operand(0), site.operand(1), site.optional(2)
    alpha, beta = site.attribute("alpha", 1.0), site.attribute("beta", 1.0)
    if site.attribute("transA", 0):
        a = site.transpose(a, (1, 0))
    transposed = bool(site.attribute("transB", 0))
    if dtype_of(a).kind != "f" and (alpha != 1.0 or beta != 1.0):
        raise Refusal("Gemm of integers with alpha or beta is not lowered", "cast to float32")
    if isinstance(b, np.ndarray) and not isinstance(a, np.ndarray):
        weight = (b if transposed else b.T) * b.dtype.type(alpha)
        bias = None
        if (
            isinstance(c, np.ndarray)
            and c.size in (1, weight.shape[0])
            and c.ndim <= 2
            and (c.ndim < 2 or c.shape[0] == 1)
        ):
            bias = np.ascontiguousarray(np.broadcast_to(c.reshape(-1), (weight.shape[0],))) * c.dtype.type(
                beta
            )
            c = None
        product = site.emit("linear", x=a, weight=weight, bias=bias)
    else:
        product = site.matmul(a, b, transpose_y=transposed)
        if alpha != 1.0:
            product = site.emit("mul", x=product, y=site.like(product, alpha))
    if c is None:
        return product
    if beta != 1.0:
        c = (
            c * c.dtype.type(beta)
            if isinstance(c, np.ndarray)
            else site.emit("mul", x=c, y=site.like(c, beta))
        )
    return site.emit("add", x=product, y=c)


@lowers("Einsum")
def einsum(site: Site) -> Operand:
    """Sums of products as transpose, reduce_sum and matrix products, two operands at a time from the left.

    Raises:
        Refusal: an ellipsis or a repeated index (a diagonal).
    """
    equation = str(site.attribute("equation")).replace(" ", "")
    operands = site.operands()
    if "..." in equation:
        raise Refusal(f"Einsum {equation!r} has an ellipsis", "write its axes out")
    left, _, right = equation.partition("->")
    terms = left.split(",")
    if any(len(set(term)) < len(term) for term in terms):
        raise Refusal(f"Einsum {equation!r} takes a diagonal", "write it with Gather")
    if "->" not in equation:
        counts = Counter("".join(terms))
        right = "".join(sorted(letter for letter, count in counts.items() if count == 1))
    x, x_term = _summed(site, operands[0], terms[0], right + "".join(terms[1:]))
    for place in range(1, len(operands)):
        later = right + "".join(terms[place + 1 :])
        x, x_term = _summed(site, x, x_term, later + terms[place])
        y, y_term = _summed(site, operands[place], terms[place], later + x_term)
        kept = "".join(letter for letter in dict.fromkeys(x_term + y_term) if letter in later)
        x, x_term = _product(site, x, x_term, y, y_term, kept), kept
    return _ordered(site, x, x_term, right)


def _summed(site: Site, x: Operand, term: str, keep: str) -> tuple[Operand, str]:
    axes = [axis for axis, letter in enumerate(term) if letter not in keep]
    if axes:
        x = site.emit("reduce_sum", x=x, axes=np.array(axes, np.int32), keep_dims=False)
    return x, "".join(letter for letter in term if letter in keep)


def _ordered(site: Site, x: Operand, term: str, right: str) -> Operand:
    return site.transpose(x, [term.index(letter) for letter in right])


def _product(site: Site, x: Operand, x_term: str, y: Operand, y_term: str, right: str) -> Operand:
    sizes = dict(zip(x_term, shape_of(x), strict=True)) | dict(zip(y_term, shape_of(y), strict=True))
    batch = [letter for letter in x_term if letter in y_term and letter in right]
    inner = [letter for letter in x_term if letter in y_term and letter not in right]
    rows = [letter for letter in x_term if letter not in y_term]
    columns = [letter for letter in y_term if letter not in x_term]

    def volume(letters: list[str]) -> int:
        return int(np.prod([sizes[letter] for letter in letters], initial=1))

    outer = [sizes[letter] for letter in batch]
    x = site.transpose(x, [x_term.index(letter) for letter in batch + rows + inner])
    y = site.transpose(y, [y_term.index(letter) for letter in batch + inner + columns])
    x = site.reshape(x, [volume(batch), volume(rows), volume(inner)])
    y = site.reshape(y, [volume(batch), volume(inner), volume(columns)])
    result = site.matmul(x, y)
    result = site.reshape(result, outer + [sizes[letter] for letter in rows + columns])
    return _ordered(site, result, "".join(batch + rows + columns), right)
