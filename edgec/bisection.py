"""When a gate fails: the first pass that breaks it, then the first layer."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import source_layer
from edgec.core.evaluation import Evaluator
from edgec.core.graph import Arrays, Graph
from edgec.core.numerics import GATES, compare, compare_arrays
from edgec.passes.manager import Pipeline
from edgec.verification import runnable

_FP32 = GATES["fp32"]


@dataclasses.dataclass(frozen=True)
class Culprit:
    """Where a graph first differs from its source.

    Attributes:
        pass_name: the pass after which the gate fails first; empty if the graph was wrong before any.
        node: the first node, in execution order, whose value differs; empty where none was found.
        source: its layer in the user's model.
        value: the value's name.
        scaled: how far it is off, in units of its standard deviation.
    """

    pass_name: str
    node: str = ""
    source: str = ""
    value: str = ""
    scaled: float = 0.0

    def __str__(self) -> str:
        blame = f"pass {self.pass_name}" if self.pass_name else "the exported graph, before any pass,"
        if not self.node:
            return f"{blame} breaks it first"
        return (
            f"{blame} breaks it first, at layer {self.source!r} "
            f"(node {self.node!r}, value {self.value!r}, off by {self.scaled:.1e})"
        )


def first_bad_pass(graph: Graph, pipeline: Pipeline) -> Culprit | None:
    """Run the pipeline again on the imported graph and find the first pass that breaks the fp32 gate.

    Args:
        graph: the graph as the frontend returned it.
        pipeline: the pipeline whose result fails.

    Returns:
        the culprit, down to the layer where possible; None if every stage keeps the gate.
    """
    feeds, reference = _failing_sample(graph, pipeline)
    if not _runs(graph.model, feeds) or _breaks(graph.model, feeds, reference):
        return Culprit("")
    model = graph.model.clone()
    good = model.clone()
    for step in pipeline.passes:
        step(model)
        if not _runs(model, feeds):
            return Culprit(step.name)
        if _breaks(model, feeds, reference):
            return first_bad_layer(good, model, feeds, step.name)
        good = model.clone()
    return None


def _failing_sample(graph: Graph, pipeline: Pipeline) -> tuple[Arrays, Arrays]:
    """The first sample on which the pipeline's result is wrong: only some have padding."""
    model = graph.model.clone()
    pipeline.run(model)
    samples = list(zip(graph.examples, graph.references, strict=True))
    if not _runs(model, graph.examples[0]):
        return samples[0]
    return next((sample for sample in samples if _breaks(model, *sample)), samples[0])


def first_bad_layer(good: ir.Model, bad: ir.Model, feeds: Arrays, pass_name: str) -> Culprit:
    """The first value, in execution order, that two models with shared value names compute differently."""
    shared = _inner_values(bad)
    shared = {name: node for name, node in shared.items() if name in _inner_values(good)}
    names = list(shared)
    expected = _run(good, feeds, names)
    found = _run(bad, feeds, names)
    for name, node in shared.items():
        if expected[name].shape != found[name].shape:
            return Culprit(pass_name, node.name or "", source_layer(node), name, float("inf"))
        difference = compare_arrays(_as_float(expected[name]), _as_float(found[name]), name)
        if not _FP32.accepts(difference):
            return Culprit(pass_name, node.name or "", source_layer(node), name, difference.scaled)
    return Culprit(pass_name)


def _breaks(model: ir.Model, feeds: Arrays, reference: Arrays) -> bool:
    try:
        return not _FP32.accepts(compare([reference], [_run(model, feeds, [])]))
    except ValueError:
        return True  # another shape, or an output lost


def _runs(model: ir.Model, feeds: Arrays) -> bool:
    try:
        _run(model, feeds, [])
    except Exception:
        # ONNX Runtime has no common class for a graph it refuses; whatever it raises is the answer.
        return False
    return True


def _run(model: ir.Model, feeds: Arrays, outputs: list[str]) -> Arrays:
    with Evaluator(runnable(model), outputs=outputs) as evaluator:
        return evaluator.run(feeds)


def _inner_values(model: ir.Model) -> dict[str, ir.Node]:
    return {value.name: node for node in model.graph for value in node.outputs if value.name}


def _as_float(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64)
