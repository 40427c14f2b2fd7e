"""Finding where a network decides between scores, and how clear each decision is on the samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.core.evaluation import Evaluator
from edgec.core.graph import Arrays, Graph
from edgec.core.ties import Ranking, Ties
from edgec.verification import runnable

_CARRIES = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
"""Ops that keep every element, in the same order."""

_WITH_CONSTANT = ("Add", "Sub", "Mul", "Div", "Mod", "Clip", "Min", "Max")
"""Ops that map each element by itself where the other inputs are constants."""

_PICKS = ("ArgMax", "ArgMin")
_COMPARES = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
_ROUNDS = ("Ceil", "Floor", "Round")


def with_ties(graph: Graph) -> Graph:
    """The graph with what its decisions rest on; itself where no output comes of one."""
    picked = {output: node for output in graph.model.graph.outputs if (node := _picked(output)) is not None}
    ranked = _ranked(graph.model)
    if not picked and not ranked:
        return graph
    scores = {value.name: value for value in _scores(picked, ranked) if value.name}
    with Evaluator(runnable(graph.model), outputs=list(scores)) as evaluator:
        found = [evaluator.run(feeds) for feeds in graph.examples]
    known = zip(found, graph.references, strict=True)
    ties = [_ties(picked, ranked, values | reference) for values, reference in known]
    return dataclasses.replace(graph, ties=ties)


def _scores(picked: dict[ir.Value, ir.Node], ranked: dict[ir.Node, dict[str, int]]) -> Iterator[ir.Value]:
    for node in picked.values():
        yield from (value for value in node.inputs[:2] if value is not None and not value.is_initializer())
    for node in ranked:
        scores = node.inputs[0]
        assert scores is not None
        yield scores
        yield node.outputs[0]


def _ties(picked: dict[ir.Value, ir.Node], ranked: dict[ir.Node, dict[str, int]], values: Arrays) -> Ties:
    margins = {}
    for output, node in picked.items():
        assert output.name is not None
        margin = _margin(node, values)
        if margin is not None and margin.size == values[output.name].size:
            margins[output.name] = margin.reshape(values[output.name].shape).astype(np.float32)
    rankings = []
    for node, axes in ranked.items():
        scores, kept = node.inputs[0], node.outputs[0]
        assert scores is not None
        if scores.name not in values or kept.name not in values:
            continue
        fitting = {name: axis for name, axis in axes.items() if values[name].ndim > axis}
        rows = values[kept.name]
        rankings.append(
            Ranking(
                fitting, (rows / _spread(values[scores.name])).reshape(-1, rows.shape[-1]).astype(np.float32)
            )
        )
    return Ties(margins, tuple(ranking for ranking in rankings if ranking.axes))


def _picked(output: ir.Value) -> ir.Node | None:
    """The node that decides each element of a whole-numbered output, through ops that only map elements."""
    if output.dtype is None or output.dtype.is_floating_point():
        return None
    value: ir.Value | None = output
    while value is not None:
        node = value.producer()
        if node is None:
            return None
        if is_op(node, *_PICKS, *_COMPARES, *_ROUNDS):
            first = node.inputs[0]
            return node if first is not None and first.dtype in _FLOATS else None
        if is_op(node, "Cast") and node.inputs[0] is not None and node.inputs[0].dtype in _FLOATS:
            inner = _rounded_before(node.inputs[0])
            return node if inner is None else inner
        constants = all(other is not None and other.const_value is not None for other in node.inputs[1:])
        if not is_op(node, *_CARRIES) and not (is_op(node, *_WITH_CONSTANT) and constants):
            return None
        value = node.inputs[0]
    return None


_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


def _rounded_before(value: ir.Value) -> ir.Node | None:
    node = value.producer()
    return node if node is not None and is_op(node, *_ROUNDS) else None


def _margin(node: ir.Node, values: Arrays) -> np.ndarray | None:
    """How far each decision is from the other way, in units of its scores' spread."""
    operands = [_array(value, values) for value in node.inputs[:2]]
    scores = operands[0]
    if scores is None:
        return None
    if node.op_type in _PICKS:
        axis = node.attributes.get_int("axis", 0)
        if scores.shape[axis] < 2:
            return np.full(np.delete(scores.shape, axis), np.inf)
        ordered = np.sort(scores if node.op_type == "ArgMax" else -scores, axis=axis)
        best, second = (np.take(ordered, place, axis=axis) for place in (-1, -2))
        return (best - second) / _spread(scores)
    if node.op_type in _COMPARES:
        if operands[1] is None:
            return None
        apart = scores - operands[1]
        return np.abs(apart) / _spread(apart)
    # Rounding and truncation: how far from the number where the next whole one begins.
    moved = scores - 0.5 if node.op_type == "Round" else scores
    return np.abs(moved - np.round(moved)) / _spread(scores)


def _array(value: ir.Value | None, values: Arrays) -> np.ndarray | None:
    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value.numpy().astype(np.float64)
    found = values.get(value.name or "")
    return None if found is None else found.astype(np.float64)


def _spread(scores: np.ndarray) -> float:
    finite = scores[np.isfinite(scores)].astype(np.float64)
    return (float(np.std(finite)) if finite.size else 0.0) or 1.0


def _ranked(model: ir.Model) -> dict[ir.Node, dict[str, int]]:
    """Every TopK whose order an output's rows have, with the axis of the rows by output."""
    found: dict[ir.Node, dict[str, int]] = {}
    for output in model.graph.outputs:
        ranking = _nearest_ranking(output)
        if ranking is not None and output.name is not None:
            node, axis = ranking
            found.setdefault(node, {})[output.name] = axis
    return found


def _nearest_ranking(output: ir.Value) -> tuple[ir.Node, int] | None:
    """The nearest TopK before an output that has as many rows as it keeps, and the rows' axis."""
    if output.shape is None:
        return None
    front, seen = [output], {output}
    while front:
        following: list[ir.Value] = []
        for value in front:
            node = value.producer()
            if node is None:
                continue
            if is_op(node, "TopK") and (axis := _rows_axis(node, output)) is not None:
                return node, axis
            for before in node.inputs:
                if before is not None and before not in seen:
                    seen.add(before)
                    following.append(before)
        front = following
    return None


def _rows_axis(topk: ir.Node, output: ir.Value) -> int | None:
    """The axis of an output that holds the kept rows; None where the TopK is no ranking of its rows."""
    kept, scores = topk.outputs[0], topk.inputs[0]
    if kept.shape is None or scores is None or scores.dtype not in _FLOATS or output.shape is None:
        return None
    if topk.attributes.get_int("axis", -1) not in (-1, len(kept.shape) - 1):
        return None
    rows, batch = kept.shape[-1], list(kept.shape[:-1])
    if not isinstance(rows, int) or rows < 2:
        return None
    axis = len(batch)
    fits = len(output.shape) > axis and output.shape[axis] == rows and list(output.shape[:axis]) == batch
    return axis if fits else None
