"""Rules of matrix products: a linear layer is a 1×1 convolution of (B, C, 1, S)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.passes.editing import attribute
from edgec.targets.coreml.neural_engine.elementwise import aligned
from edgec.targets.coreml.neural_engine.ops import DOMAIN
from edgec.targets.coreml.neural_engine.registry import rule
from edgec.targets.coreml.neural_engine.storage import Axes, Factor, Factors, Stored, common, flat, shape_of
from edgec.targets.coreml.neural_engine.walk import Results, Walk, laid


def channels_first(walk: Walk, x: Stored, *, apart: bool = False) -> Stored:
    """The tensor as (before, channels, after) of rank 4, its last read axis at stored axis 1.

    A tensor whose channels have tokens behind them stays in its order; one whose channels come last is
    moved to (first axis, channels, 1, tokens).

    Args:
        walk: the walk.
        x: a tensor of rank 2 or more.
        apart: also bring the first read axis in front where it lies in pieces, as windows do: it is the
            batch of the attention behind, which would otherwise move queries, keys and values apart.
    """
    channels, order = x.logical[-1], x.order
    first = x.logical[0] if len(x.logical) > 2 else ()
    if channels and x.is_run(channels):
        at = order.index(channels[0])
        before, after = order[:at], order[at + len(channels) :]
        # A matrix that is read as (rows, channels) and lies so stays: its rows are the batch.
        kept = bool(after) or set(before) <= set(first) or len(x.logical) == 2
        if kept and (not apart or x.is_run(first)):
            if len(x.stored) == 4 and x.stored[1] == channels:
                return x
            return walk.emit.arrange(x, (before, channels, (), after))
    front = tuple(factor for factor in order if factor in first)
    rest = tuple(factor for factor in order if factor not in first and factor not in channels)
    return walk.emit.arrange(x, (front, channels, (), rest))


def linear(walk: Walk, x: Stored, weight: np.ndarray) -> Stored:
    """The product with a constant matrix as a convolution.

    Args:
        walk: the walk.
        x: (…, K).
        weight: (K, N).
    """
    rows, columns = weight.shape
    # Where a layer widens, moving its input costs less than moving its output.
    x = channels_first(walk, x, apart=columns > rows)
    kernel = walk.emit.constant(np.ascontiguousarray(weight.T)[:, :, None, None], "kernel")
    made: Factors = (Factor(columns),) if columns > 1 else ()
    stored: Axes = (x.stored[0], made, *x.stored[2:])
    attributes = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1]}
    [value] = walk.emit.op(
        "Conv", [x.value, kernel], [shape_of(stored)], attributes={**attributes, "group": 1}
    )
    return Stored(value, (*x.logical[:-1], made), stored)


@rule("MatMul")
def matmul(walk: Walk, node: ir.Node) -> Results:
    """A linear layer, or a product of two tensors with their matrices in the order they lie in."""
    x, weight = walk.tensor(node, 0), walk.array(node, 1)
    if x is not None and weight is not None and weight.ndim == 2 and len(x.logical) >= 2:
        return [linear(walk, x, weight)]
    y = walk.tensor(node, 1)
    if x is None or y is None or len(x.logical) != len(y.logical) or len(x.logical) < 3:
        return None
    result = product(walk, x, y)
    return None if result is None else [result]


@rule("Gemm")
def gemm(walk: Walk, node: ir.Node) -> Results:
    """A linear layer with its bias."""
    x, weight, bias = walk.tensor(node, 0), walk.array(node, 1), walk.given(node, 2)
    if x is None or weight is None or attribute(node, "transA", 0) or isinstance(bias, Stored):
        return None
    weight = weight.T if attribute(node, "transB", 0) else weight
    alpha, beta = (weight.dtype.type(attribute(node, name, 1.0)) for name in ("alpha", "beta"))
    result = linear(walk, x, weight * alpha)
    if bias is None:
        return [result]
    added = walk.emit.constant(laid(bias * beta, result.logical, result.stored), "bias")
    [value] = walk.emit.op("Add", [result.value, added], [shape_of(result.stored)])
    return [Stored(value, result.logical, result.stored)]


def product(walk: Walk, x: Stored, y: Stored) -> Stored | None:
    """Matrix product of two tensors of one batch, (…, M, K) · (…, K, N); None where batches broadcast.

    The matrices stay in the order they lie in, rows or columns first: Aᵀ and Bᵀ are flags of the
    product, and the result is stored columns first where that needs one flag at most.
    """
    batch = len(x.logical) - 2
    if x.shape[:batch] != y.shape[:batch]:
        return None
    shared = _shared_batch(x, y.refreshed(), batch)
    inner = None if shared is None else common(shared[0].logical[-1], shared[1].logical[-2])
    if shared is None or inner is None:
        return None
    x, y = shared[0].renamed(inner[0]), shared[1].renamed(inner[1])
    outer = tuple(factor for factor in x.order if factor in set(flat(x.logical[:batch])))
    rows, columns, depth = x.logical[-2], y.logical[-1], x.logical[-1]
    x, x_swapped = _as_matrix(walk, x, outer, rows, depth)
    y, y_swapped = _as_matrix(walk, y, outer, depth, columns)
    # Stored: x is (rows, depth) or swapped, y is (depth, columns) or swapped.
    if y_swapped or x_swapped:
        first, second, made = y, x, (columns, rows)
        left, right = not y_swapped, not x_swapped
    else:
        first, second, made = x, y, (rows, columns)
        left = right = False
    stored: Axes = (*x.stored[:2], *made)
    op_type, domain = ("LeftTransposedMatMul", DOMAIN) if left else ("MatMul", "")
    if right:
        op_type, domain = "RightTransposedMatMul", DOMAIN
    [value] = walk.emit.op(op_type, [first.value, second.value], [shape_of(stored)], domain=domain)
    return Stored(value, (*x.logical[:-2], rows, columns), stored)


def _shared_batch(x: Stored, y: Stored, batch: int) -> tuple[Stored, Stored] | None:
    rank = len(x.logical)
    aside = [one.read_as((*one.logical[:batch], (), ())) for one in (x, y)]
    together = aligned(aside, rank)
    if together is None:
        return None
    pair = [
        found.read_as((*found.logical[:batch], *one.logical[batch:]))
        for found, one in zip(together, (x, y), strict=True)
    ]
    return pair[0], pair[1]


def _as_matrix(walk: Walk, x: Stored, outer: Factors, rows: Factors, columns: Factors) -> tuple[Stored, bool]:
    """The tensor as (batch, batch, matrix), and whether columns lie in front of rows."""
    first = x.logical[0]
    cut = len([factor for factor in outer if factor in first])
    front, back = (outer[:cut], outer[cut:]) if set(outer[:cut]) == set(first) else ((), outer)
    swapped = x.order == outer + columns + rows and bool(columns)
    straight = x.order == outer + rows + columns
    if not swapped and not straight:
        swapped = True
    matrix = (columns, rows) if swapped else (rows, columns)
    return walk.emit.arrange(x, (front, back, *matrix)), swapped
