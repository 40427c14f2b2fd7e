"""The linear map between two tensors of a graph, as a sparse matrix, by running the graph on indices."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import attribute, constant, sizes
from edgec.passes.fuse.movement import MOVING, move
from edgec.passes.infra import Refusal

_LINEAR = (*MOVING, "Neg", "Mul", "Div", "Add", "Sub", "Concat")
_MOST_NODES = 40
_MOST_TERMS = 4
_MOST_ELEMENTS = 1 << 22


@dataclasses.dataclass
class Map:
    """A tensor as a sum of few weighted elements of another one.

    Attributes:
        indices: for each term, the flat index of the element, in the tensor's shape.
        weights: for each term, its weight.
    """

    indices: list[np.ndarray]
    weights: list[np.ndarray]

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return self.indices[0].shape

    @property
    def dtype(self) -> np.dtype:
        """The weights' type."""
        return self.weights[0].dtype


def dominators(value: ir.Value, place: dict[ir.Node, int]) -> Iterator[ir.Value]:
    """The tensors that all of a tensor is computed from by linear ops, nearest first.

    Args:
        value: the tensor.
        place: each node's position in the graph.
    """
    frontier = {value}
    for _ in range(_MOST_NODES):
        expandable = [
            item for item in frontier if is_op(item.producer(), *_LINEAR) and item.producer() in place
        ]
        if not expandable:
            return
        # The last one first: what was made earlier may yet turn out to be where all paths meet.
        last = max(expandable, key=lambda item: place[item.producer()])  # type: ignore[index]
        node = last.producer()
        assert node is not None
        frontier.discard(last)
        data = node.inputs[:1] if is_op(node, *MOVING) else node.inputs
        frontier.update(item for item in data if item is not None and constant(item) is None)
        if len(frontier) == 1:
            yield next(iter(frontier))


def linear_map(result: ir.Value, source: ir.Value) -> Map:
    """The map from `source` to `result`.

    Raises:
        Refusal: an op in between is not linear, or moves elements by what is known at run time.
    """
    shape = _fixed(source)
    if int(np.prod(shape)) > _MOST_ELEMENTS:
        raise Refusal("the source has too many elements")
    dtype = np.dtype(np.float32) if source.dtype is None else source.dtype.numpy()
    index = np.arange(int(np.prod(shape))).reshape(shape)
    known = {source: Map([index], [np.ones(shape, dtype)])}
    return _evaluate(result, known)


def _fixed(value: ir.Value) -> tuple[int, ...]:
    shape = sizes(value)
    if shape is None or None in shape:
        raise Refusal("a size is open")
    return tuple(size for size in shape if size is not None)


def _evaluate(value: ir.Value, known: dict[ir.Value, Map]) -> Map:
    if value not in known:
        node = value.producer()
        if node is None:
            raise Refusal("its way leads past the source")
        known[value] = _apply(node, value, known)
    return known[value]


def _apply(node: ir.Node, value: ir.Value, known: dict[ir.Value, Map]) -> Map:
    inputs = [operand for operand in node.inputs if operand is not None]
    if is_op(node, *MOVING):
        term = _evaluate(inputs[0], known)
        indices = [move(node, value, index) for index in term.indices]
        weights = [move(node, value, weight) for weight in term.weights]
        if any(item is None for item in (*indices, *weights)):
            raise Refusal("the movement is known at run time only")
        return Map([i for i in indices if i is not None], [w for w in weights if w is not None])
    if is_op(node, "Neg"):
        term = _evaluate(inputs[0], known)
        return Map(term.indices, [-weight for weight in term.weights])
    if is_op(node, "Mul", "Div"):
        return _scaled(node, inputs, _fixed(value), known)
    if is_op(node, "Add", "Sub"):
        sign = -1 if is_op(node, "Sub") else 1
        if any(constant(operand) is not None for operand in inputs):
            raise Refusal("an offset is added")
        left, right = (_evaluate(operand, known) for operand in inputs)
        if left.shape != right.shape or len(left.indices) + len(right.indices) > _MOST_TERMS:
            raise Refusal("its terms are too many, or of two shapes")
        return Map(left.indices + right.indices, left.weights + [sign * weight for weight in right.weights])
    if is_op(node, "Concat"):
        return _joined([_evaluate(operand, known) for operand in inputs], int(attribute(node, "axis", 0)))
    raise Refusal(f"{node.op_type} is no linear op")


def _scaled(node: ir.Node, inputs: list[ir.Value], shape: tuple[int, ...], known: dict[ir.Value, Map]) -> Map:
    left, right = inputs
    by, data = constant(right), left
    if by is None and is_op(node, "Mul"):
        by, data = constant(left), right
    if by is None:
        raise Refusal("both factors are computed")
    factor = by if is_op(node, "Mul") else 1 / by
    term = _evaluate(data, known)
    if term.shape != shape:
        raise Refusal("it is broadcast")
    return Map(term.indices, [(weight * factor).astype(weight.dtype) for weight in term.weights])


def _joined(parts: list[Map], axis: int) -> Map:
    terms = max(len(part.indices) for part in parts)

    def padded(arrays: list[np.ndarray], position: int) -> np.ndarray:
        return arrays[position] if position < len(arrays) else np.zeros_like(arrays[0])

    return Map(
        [np.concatenate([padded(part.indices, term) for part in parts], axis) for term in range(terms)],
        [np.concatenate([padded(part.weights, term) for part in parts], axis) for term in range(terms)],
    )
