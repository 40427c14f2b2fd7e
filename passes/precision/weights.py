"""Weights of products rounded to fp16 so that what the products compute stays where it was.

Rounding each weight to the nearest fp16 number makes the same error for every row that meets it: over tokens
and pixels it does not average out, and it is often the largest part of fp16's error. Rounding one weight
after the other and letting the next ones make good for it, by how their inputs vary together, leaves much
less of it (the method of GPTQ, Frantar et al., arXiv 2210.17323, on the grid of fp16). It costs the engine
nothing. A bias is one weight more, of an input that is always 1: large ones, as folded batch norms leave
them, are what fp16 rounds worst.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.lib.stride_tricks import sliding_window_view

from edgec.core.evaluation import Evaluator
from edgec.core.graph import Arrays
from edgec.passes.editing import Editor, attribute, constant
from edgec.passes.infra import MatchLog, Pass, register
from edgec.passes.precision.half import LARGEST
from edgec.passes.precision.judge import evaluable
from edgec.passes.precision.quantize import Product, products
from edgec.passes.precision.ranges import batches

_ROWS = 1024
"""Rows of inputs that a product is judged by, of one feed."""

_TOGETHER = 256
"""Inputs of a product that make good for each other: the work grows with its square."""

_STRIP = 32
"""Inputs rounded before the others are made good for them; a matter of speed."""

_DAMPING = 0.05
"""Part of the mean variance that is added to each input's: few rows do not tell all that inputs may do."""


Constants = tuple[np.ndarray, ...]
"""A product's inputs from the second on: its weights, and its bias where it has one."""


def input_keeping_weights(model: ir.Model, feeds: Sequence[Arrays]) -> dict[str, Constants]:
    """The constants of each product of an fp32 model, rounded to fp16, by the product's name.

    Args:
        model: the lowered fp32 model.
        feeds: inputs as the model will meet them.
    """
    found = [product for product in products(model) if product.node.name and _rounds(product)]
    return {
        product.node.name or "": _rounded(product, rows) for product, rows in _inputs(model, found, feeds)
    }


@register
class RoundWeights(Pass):
    """Replace the weights and biases of products by given ones, which fp16 holds exactly.

    ::

        x ── Gemm(W, b) ── y      ⇒      x ── Gemm(W rounded, b rounded) ── y

    Args:
        weights: the rounded constants by the product's name.
        keep: names of products that keep their own.
    """

    name = "precision.round_weights"
    exact = False

    def __init__(
        self, weights: Mapping[str, Constants] | None = None, keep: Collection[str] = frozenset()
    ) -> None:
        self.weights = dict(weights or {})
        self.keep = frozenset(keep)

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite in place; a match is a product with rounded weights."""
        editor = Editor(model, self.name, log)
        for node in model.graph:
            arrays = self.weights.get(node.name or "")
            if arrays is None:
                continue
            if node.name in self.keep:
                log.missed(node, "stays in fp32")
                continue
            for place, array in enumerate(arrays, start=1):
                stem = node.inputs[place].name  # type: ignore[union-attr]
                node.replace_input_with(place, editor.initializer(array, f"{stem}/rounded"))
            log.matched(node)
        editor.remove_dead()


def _rounds(product: Product) -> bool:
    """Whether the weights are a plain matrix or kernel that fp16's range holds."""
    node = product.node
    weight = constant(node.inputs[1])
    if weight is None or not np.abs(weight).max(initial=0.0) <= LARGEST:
        return False
    if node.op_type == "Conv":
        return attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID")
    return weight.ndim == 2 and not attribute(node, "transA", 0)


def _bias(node: ir.Node, outputs: int) -> np.ndarray | None:
    """The bias of each output; None where there is none, or it is not constant, or scaled."""
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is None or bias.size != outputs or not np.abs(bias).max(initial=0.0) <= LARGEST:
        return None
    scaled = attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0
    return None if scaled else bias


def _rounded(product: Product, rows: np.ndarray) -> Constants:
    """A product's weights and bias in fp16's numbers.

    Args:
        product: the product.
        rows: what its outputs are sums over, [groups, rows, inputs].
    """
    node = product.node
    weight = constant(node.inputs[1])
    assert weight is not None
    outputs_first = node.op_type == "Conv" or bool(attribute(node, "transB", 0))
    matrix = weight.reshape(len(weight), -1) if outputs_first else weight.T
    bias = _bias(node, len(matrix))
    if bias is not None:
        matrix = np.concatenate([bias.reshape(-1, 1), matrix], axis=1)
        rows = np.concatenate([np.ones_like(rows[:, :, :1]), rows], axis=2)
    grouped = matrix.reshape(len(rows), -1, matrix.shape[1]).transpose(0, 2, 1)
    found = np.empty_like(grouped)
    for start in range(0, grouped.shape[1], _TOGETHER):
        block = slice(start, start + _TOGETHER)
        first = 1 if bias is not None and start == 0 else 0
        found[:, block] = _fed_back(grouped[:, block], rows[:, :, block], first)
    matrix = found.transpose(0, 2, 1).reshape(matrix.shape)
    constants = [matrix[:, 0].reshape(bias.shape)] if bias is not None else []
    matrix = matrix[:, len(constants) :]
    rounded = np.ascontiguousarray(matrix if outputs_first else matrix.T).reshape(weight.shape)
    return (rounded, *constants)


def _fed_back(weights: np.ndarray, rows: np.ndarray, first: int) -> np.ndarray:
    """Weights [groups, inputs, outputs] rounded one input after the other, the error spread over the rest.

    Args:
        weights: the weights.
        rows: the inputs, [groups, rows, inputs].
        first: so many inputs come before all others.
    """
    variance = np.einsum("gri,grj->gij", rows, rows, optimize=True).astype(np.float64) / rows.shape[1]
    inputs = np.arange(variance.shape[1])
    own = variance[:, inputs, inputs]
    variance[:, inputs, inputs] += _DAMPING * own.mean(axis=1, keepdims=True) + 1e-30
    # The weights that matter most come first, while there are others left to make good for them.
    weight = own.mean(axis=0)
    weight[:first] = np.inf
    order = np.argsort(-weight, kind="stable")
    variance = variance[:, order[:, None], order[None, :]]
    factor = np.linalg.cholesky(np.linalg.inv(variance)).transpose(0, 2, 1)
    factor /= factor[:, inputs, inputs, None]
    factor = factor.astype(np.float32)
    left = weights[:, order]
    found = np.empty_like(left)
    for start in range(0, len(inputs), _STRIP):
        end = min(start + _STRIP, len(inputs))
        error = np.empty_like(left[:, start:end])
        for place in range(start, end):
            found[:, place] = left[:, place].astype(np.float16)
            error[:, place - start] = left[:, place] - found[:, place]
            ahead = factor[:, place, place + 1 : end, None]
            left[:, place + 1 : end] -= ahead * error[:, place - start, None, :]
        # The rest of the inputs hears of a strip at once, in one product.
        left[:, end:] -= factor[:, start:end, end:].transpose(0, 2, 1) @ error
    return found[:, np.argsort(order)]


def _inputs(
    model: ir.Model, found: Sequence[Product], feeds: Sequence[Arrays]
) -> Iterator[tuple[Product, np.ndarray]]:
    """Each product with the rows of inputs that it sums over."""
    fed = {value.name or "" for value in model.graph.inputs}
    wanted = {product.activation.name or "" for product in found}
    for names in batches(model, wanted):
        with Evaluator(evaluable(model), outputs=names) as evaluator:
            seen = [evaluator.run(feed) for feed in feeds]
        for product in found:
            if product.activation.name in names:
                yield product, _rows(product, seen)
    for product in found:
        if product.activation.name in fed:
            yield product, _rows(product, feeds)


def _rows(product: Product, seen: Sequence[Arrays]) -> np.ndarray:
    rows = [_unfolded(product.node, np.asarray(arrays[product.activation.name or ""])) for arrays in seen]
    return np.concatenate(rows, axis=1)


def _unfolded(node: ir.Node, array: np.ndarray) -> np.ndarray:
    """At most `_ROWS` rows of a product's inputs, [groups, rows, inputs]."""
    if node.op_type != "Conv":
        rows = array.reshape(-1, array.shape[-1])
        return rows[_spread(len(rows))][None]
    weight = constant(node.inputs[1])
    assert weight is not None
    taps = weight.shape[2:]
    pads = attribute(node, "pads", [0] * (2 * len(taps)))
    strides = attribute(node, "strides", [1] * len(taps))
    dilations = attribute(node, "dilations", [1] * len(taps))
    edges = [(0, 0), (0, 0), *zip(pads[: len(taps)], pads[len(taps) :], strict=True)]
    reach = tuple((tap - 1) * step + 1 for tap, step in zip(taps, dilations, strict=True))
    windows = sliding_window_view(np.pad(array, edges), reach, axis=tuple(range(2, array.ndim)))
    steps = (*(slice(None, None, step) for step in strides), *(slice(None, None, step) for step in dilations))
    windows = np.moveaxis(windows[(slice(None), slice(None), *steps)], 1, len(taps) + 1)
    places = np.unravel_index(
        _spread(int(np.prod(windows.shape[: len(taps) + 1]))), windows.shape[: len(taps) + 1]
    )
    rows = windows[places]
    groups = attribute(node, "group", 1)
    return rows.reshape(len(rows), groups, -1).transpose(1, 0, 2)


def _spread(count: int) -> np.ndarray:
    """At most `_ROWS` of so many rows, drawn so that no pattern of the grid falls in with them."""
    if count <= _ROWS:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, _ROWS, replace=False))
