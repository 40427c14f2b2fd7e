"""Finding where a network decides between scores, and how clear each decision is on the samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.core.evaluation import Evaluator
from edgec.core.graph import Arrays, Graph
from edgec.core.numerics import is_fill
from edgec.core.ties import Ranking, Ties
from edgec.judging.gates import runnable

_CARRIES = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
"""Ops that keep every element, in the same order."""

_WITH_CONSTANT = ("Add", "Clip", "Div", "Max", "Min", "Mod", "Mul", "Sub")
"""Ops that map each element by itself where the other inputs are constants."""

_PICKS = ("ArgMax", "ArgMin")
_COMPARES = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
_ROUNDED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Ceil": np.ceil,
    "Floor": np.floor,
    "Round": np.round,
}
_ROUNDS = tuple(_ROUNDED)
_TRUNCATED = np.trunc
"""What a Cast from floats to integers does."""


def with_ties(graph: Graph) -> Graph:
    """The graph with what its decisions rest on; itself where no output comes of one."""
    outputs = [output for output in graph.model.graph.outputs if output.name]
    picked = {output.name or "": node for output in outputs if (node := _picking_node(output)) is not None}
    rankings = {output.name or "": list(_topks_before(output)) for output in outputs}
    inner = {
        value.name
        for node in [*picked.values(), *(node for nodes in rankings.values() for node in nodes)]
        for value in [*node.inputs[:2], *node.outputs]
        if value is not None and value.name and value.producer() is not None
    }
    if not inner:
        return graph
    with Evaluator(runnable(graph.model), outputs=sorted(inner)) as evaluator:
        found = [evaluator.run(feeds) for feeds in graph.examples]
    known = [
        {**feeds, **values, **reference}
        for feeds, values, reference in zip(graph.examples, found, graph.references, strict=True)
    ]
    picked = {name: node for name, node in picked.items() if not _counts(node, known)}
    ties = [_ties(picked, rankings, values) for values in known]
    return dataclasses.replace(graph, ties=ties) if any(ties) else graph


def _ties(picked: Mapping[str, ir.Node], rankings: Mapping[str, list[ir.Node]], values: Arrays) -> Ties:
    margins, steps, runners_up = {}, {}, {}
    for name, node in picked.items():
        margin, output = _margin(node, values), values[name]
        second = _runner_up(node, values, output)
        rounds = is_op(node, *_ROUNDS, "Cast")
        if margin is None or margin.size != output.size:
            continue
        if output.dtype.kind == "f" and second is None and not rounds:
            continue  # any number would do
        margins[name] = margin.reshape(output.shape).astype(np.float32)
        if rounds:
            steps[name] = _steps(node, values, output)
        if second is not None:
            runners_up[name] = second
    # The kept scores themselves are in order whatever row each belongs to: they are compared as they are.
    axes: dict[ir.Node, dict[str, int]] = {}
    for name, nodes in rankings.items():
        for node in nodes:
            ordered = node.attributes.get_int("sorted", 1) == 1 and name == node.outputs[0].name
            axis = None if ordered else _rows_axis(node, values, values[name])
            if axis is not None:
                axes.setdefault(node, {})[name] = axis
                break
    rankings_found = tuple(Ranking(named, *_scores(node, values)) for node, named in axes.items())
    return Ties(margins, rankings_found, steps, runners_up)


def _picking_node(output: ir.Value) -> ir.Node | None:
    """The node that decides each element of an output, through ops that only map elements.

    A Cast of floats to integers decides where no other node before it does: `Cast(Floor(x))` is the Floor's.
    """
    value: ir.Value | None = output
    truncates = None
    while value is not None:
        node = value.producer()
        if node is None:
            return truncates
        if is_op(node, *_PICKS, *_COMPARES, *_ROUNDS):
            return node
        constants = all(other is not None and _constant(other) is not None for other in node.inputs[1:])
        if not is_op(node, *_CARRIES) and not (is_op(node, *_WITH_CONSTANT) and constants):
            return truncates
        if is_op(node, "Cast") and ir.DataType(node.attributes["to"].as_int()).is_integer():
            truncates = node
        value = node.inputs[0]
    return truncates


def _counts(node: ir.Node, samples: list[Arrays]) -> bool:
    """Whether what a node rounds is whole on every sample: a count, which nothing may change."""
    if not is_op(node, *_ROUNDS, "Cast"):
        return False
    scores = [found for values in samples if (found := _array(node.inputs[0], values)) is not None]
    return all(array.dtype.kind != "f" or np.array_equal(array, np.round(array)) for array in scores)


def _runner_up(node: ir.Node, values: Arrays, output: np.ndarray) -> np.ndarray | None:
    """What an element would nearly have been, in an output's shape; None where that is not known.

    Of ArgMax and ArgMin the place that was nearly taken, where the output holds places; of a comparison the
    other of the two numbers that an output holds.
    """
    if is_op(node, *_COMPARES) and (both := np.unique(output)).size == 2:
        return np.where(output == both[0], both[1], both[0])
    scores = _array(node.inputs[0], values)
    picked = None if node.outputs[0].name is None else values.get(node.outputs[0].name)
    if not is_op(node, *_PICKS) or scores is None or picked is None:
        return None
    axis = node.attributes.get_int("axis", 0)
    if scores.shape[axis] < 2 or not np.array_equal(picked.reshape(-1), output.reshape(-1)):
        return None
    order = np.argsort(scores if node.op_type == "ArgMax" else -scores, axis=axis)
    best, second = (np.take(order, place, axis=axis).reshape(output.shape) for place in (-1, -2))
    # Of equal scores the first or the last may be meant: the other is the runner-up.
    return np.where(second == output, best, second).astype(output.dtype)


def _margin(node: ir.Node, values: Arrays) -> np.ndarray | None:
    """How far each decision is from the other way, in units of the scores' spread; None for no decision."""
    scores = _array(node.inputs[0], values)
    if scores is None or scores.dtype.kind != "f":
        return None
    if node.op_type in _PICKS:
        axis = node.attributes.get_int("axis", 0)
        if scores.shape[axis] < 2:
            return None
        ordered = np.sort(scores if node.op_type == "ArgMax" else -scores, axis=axis)
        best, second = (np.take(ordered, place, axis=axis) for place in (-1, -2))
        return (best - second) / _spread(scores)
    if node.op_type in _COMPARES:
        other = _array(node.inputs[1], values)
        if other is None:
            return None
        apart = scores - other
        return np.abs(apart) / _spread(apart)
    # How far from the number where the next whole one begins; a truncation has none at 0.
    moved = scores - 0.5 if node.op_type == "Round" else scores
    nearest = np.round(moved)
    if node.op_type == "Cast":
        nearest = np.where(nearest == 0, np.where(moved < 0, -1.0, 1.0), nearest)
    return np.abs(moved - nearest) / _spread(scores)


def _steps(node: ir.Node, values: Arrays, output: np.ndarray) -> tuple[float, float]:
    """What one whole number of a rounding is worth in the output, and the scores' spread in its numbers."""
    scores = _array(node.inputs[0], values)
    assert scores is not None
    rounded = _ROUNDED.get(node.op_type, _TRUNCATED)(scores)
    apart, numbers = float(np.ptp(rounded)), output.astype(np.float64)
    if apart:
        step = float(np.ptp(numbers)) / apart
    else:  # one number, or equal ones: what is mapped linearly has its step in its size
        largest = float(np.max(np.abs(rounded)))
        step = float(np.max(np.abs(numbers))) / largest if largest else 1.0
    return step, step * _spread(scores)


def _topks_before(output: ir.Value) -> Iterator[ir.Node]:
    """Every TopK before an output, the nearest first."""
    front, seen = [output], {output}
    while front:
        following: list[ir.Value] = []
        for value in front:
            node = value.producer()
            if node is None:
                continue
            if is_op(node, "TopK") and _orders(node, output, seen):
                yield node
            for before in node.inputs:
                if before is not None and before not in seen:
                    seen.add(before)
                    following.append(before)
        front = following


def _orders(topk: ir.Node, output: ir.Value, before: set[ir.Value]) -> bool:
    """Whether an output's rows may be in a TopK's order: its places pick them from what was computed.

    Args:
        topk: the node.
        output: the output.
        before: values that the output was seen to depend on.
    """
    places, front = {topk.outputs[1]}, [topk.outputs[1]]
    while front:
        for use in front.pop().uses():
            if is_op(use.node, "Gather", "GatherElements", "GatherND") and use.idx == 1:
                data = use.node.inputs[0]
                if data is not None and _constant(data) is None and use.node.outputs[0] in {*before, output}:
                    return True
            elif is_op(use.node, *_CARRIES, *_WITH_CONSTANT, "Concat", "Expand", "ScatterND", "Slice"):
                front += [value for value in use.node.outputs if value not in places]
                places |= set(use.node.outputs)
    return output in {*places, topk.outputs[0]}


def _rows_axis(topk: ir.Node, values: Arrays, output: np.ndarray) -> int | None:
    """The axis of an output that holds the rows a TopK kept; None where it did not order them."""
    kept, ranked = _array(topk.outputs[0], values), _array(topk.inputs[0], values)
    if kept is None or ranked is None or kept.dtype.kind != "f" or kept.shape[-1] < 2:
        return None
    if topk.attributes.get_int("axis", -1) not in (-1, kept.ndim - 1):
        return None
    axis = kept.ndim - 1
    return axis if output.ndim > axis and output.shape[: axis + 1] == kept.shape else None


def _scores(topk: ir.Node, values: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """The scores that a TopK kept, (batch, rows), and the best that it left out; in units of their spread."""
    kept, ranked = _array(topk.outputs[0], values), _array(topk.inputs[0], values)
    assert kept is not None
    assert ranked is not None
    count, unit = kept.shape[-1], _spread(ranked)
    best_last = np.sort(ranked, axis=-1)
    if topk.attributes.get_int("largest", 1) == 0:
        best_last = best_last[..., ::-1]
    all_kept = best_last.shape[-1] == count
    left_out = np.full(kept.shape[:-1], np.inf) if all_kept else best_last[..., -1 - count]
    return (kept / unit).reshape(-1, count), (left_out / unit).reshape(-1)


def _constant(value: ir.Value) -> np.ndarray | None:
    try:
        tensor = ir.convenience.get_const_tensor(value)
    except ValueError:  # a sparse Constant
        return None
    return None if tensor is None else tensor.numpy()


def _array(value: ir.Value | None, values: Arrays) -> np.ndarray | None:
    if value is None:
        return None
    found = values.get(value.name or "")
    array = _constant(value) if found is None else found
    return array.astype(np.float64) if array is not None and array.dtype.kind == "f" else array


def _spread(scores: np.ndarray) -> float:
    """The scores' spread; of one alone, or of equal ones, their size."""
    finite = scores[np.isfinite(scores) & ~is_fill(scores)]
    if not finite.size:
        return 1.0
    size = float(np.sqrt(np.mean(finite**2)))
    spread = float(np.std(finite))
    return (spread if spread > 1e-6 * size else size) or 1.0
