"""When a gate fails: the first pass that breaks it, the first layer that goes wrong, and what helps."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import source_layer
from edgec.core.evaluation import Evaluator, with_outputs
from edgec.core.graph import Arrays, Graph
from edgec.core.numerics import GATES, Gate, compare_arrays
from edgec.judging.gates import Blame, runnable
from edgec.passes.manager import Pipeline
from edgec.targets.base import Candidate, Target

_FP32 = GATES["fp32"]
_logger = logging.getLogger("edgec.judging.bisection")


def first_bad_pass(graph: Graph, pipeline: Pipeline) -> Blame | None:
    """Run the pipeline again on the imported graph and find the first pass that breaks the fp32 gate.

    Args:
        graph: the graph as the frontend returned it.
        pipeline: the pipeline whose result fails.

    Returns:
        what is to blame, down to the layer where possible, and whether leaving the pass out helps; None if
        every stage keeps the gate.
    """
    if _breaks(graph.model, graph):
        return Blame(before="the exported graph, before any pass,")
    model = graph.model.clone()
    good = model.clone()
    for step in pipeline.passes:
        step(model)
        if _breaks(model, graph):
            return dataclasses.replace(
                _first_bad_layer(good, model, graph, step.name), fix=_without(graph, pipeline, step.name)
            )
        good = model.clone()
    return None


def first_bad_engine_layer(target: Target, neutral: Graph, candidate: Candidate, gate: Gate) -> Blame:
    """The first layer that an engine computes otherwise than the neutral graph in fp32, and what helps.

    The engine is built once more with the last value of every source layer as an output, so it may fuse less
    than the engine that failed; a layer that only the fused form gets wrong is then not named.

    Args:
        target: the target.
        neutral: the neutral graph, with the source's own outputs.
        candidate: the engine that failed.
        gate: the gate that it failed.
    """
    names = _layer_ends(neutral.model)
    feeds = neutral.examples[_worst_sample(target, neutral, candidate)]
    with Evaluator(runnable(neutral.model), outputs=list(names)) as evaluator:
        expected = evaluator.run(feeds)
    told = neutral.with_model(with_outputs(neutral.model, list(names)))
    told = dataclasses.replace(told, examples=[feeds], references=[expected], run_exact=None, ties=[])
    found = _run_engine(target, told, candidate)[0]
    fix = _higher_precision(target, neutral, candidate)
    for name, node in names.items():
        if name not in found or found[name].shape != expected[name].shape:
            continue
        difference = compare_arrays(expected[name], found[name], name)
        if not gate.accepts(difference):
            return Blame("", source_layer(node), node.name or "", name, difference.scaled, fix)
    return Blame(fix=fix)


def _layer_ends(model: ir.Model) -> dict[str, ir.Node]:
    """The last floating-point value of every source layer, in execution order, with its node."""
    ends: dict[str, tuple[str, ir.Node]] = {}
    for node in model.graph:
        for value in node.outputs[:1]:
            if value.name and value.dtype == ir.DataType.FLOAT and value.shape is not None:
                ends[source_layer(node)] = (value.name, node)
    order = {node: place for place, node in enumerate(model.graph)}
    return dict(sorted(ends.values(), key=lambda end: order[end[1]]))


def _worst_sample(target: Target, neutral: Graph, candidate: Candidate) -> int:
    found = _run_engine(target, neutral, candidate)

    def badness(index: int) -> float:
        reference = neutral.references[index]
        return max(
            (compare_arrays(array, found[index][name], name).scaled for name, array in reference.items()),
            default=0.0,
        )

    return max(range(len(found)), key=badness)


def _run_engine(target: Target, graph: Graph, candidate: Candidate) -> list[Arrays]:
    """What a candidate computes on the graph's examples, built into a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="edgec-blame-") as folder:
        path = Path(folder) / "engine"
        path.mkdir()
        target.build(target.lower(graph, candidate), candidate, path)
        engine = target.open(path)
        try:
            return [engine.run(feeds) for feeds in graph.examples]
        finally:
            engine.close()


def _higher_precision(target: Target, neutral: Graph, candidate: Candidate) -> str:
    """What to ask for instead, where it keeps its gate here; empty where nothing is known to help."""
    if candidate.precision == "fp32":
        return ""
    try:
        found = _run_engine(target, neutral, candidate.exact)
    except Exception as error:  # builders raise whatever they trip over
        _logger.debug("the fp32 engine cannot be built", exc_info=error)
        return ""
    helps = _FP32.accepts(neutral.expected.difference(found, _FP32))
    return "ask for --precision fp32, which keeps its gate here" if helps else ""


def _without(graph: Graph, pipeline: Pipeline, name: str) -> str:
    """The advice to leave a pass out, where that was seen to help."""
    model = graph.model.clone()
    try:
        Pipeline([step for step in pipeline.passes if step.name != name]).run(model)
    except Exception as error:  # a pass that relied on it
        _logger.debug("the pipeline does not run without %s", name, exc_info=error)
        return ""
    return "" if _breaks(model, graph) else f"leave the pass out with --passes=-{name}"


def _first_bad_layer(good: ir.Model, bad: ir.Model, graph: Graph, pass_name: str) -> Blame:
    """The first value, in execution order, that two models with shared value names compute differently."""
    shared = {name: node for name, node in _inner_values(bad).items() if name in _inner_values(good)}
    names = list(shared)
    for feeds in graph.examples:
        try:
            expected, found = _run(good, feeds, names), _run(bad, feeds, names)
        except Exception as error:  # ONNX Runtime has no common class for a graph it refuses
            _logger.debug("the graph does not run", exc_info=error)
            return Blame(pass_name)
        for name, node in shared.items():
            if expected[name].shape != found[name].shape:
                return Blame(pass_name, source_layer(node), node.name or "", name, float("inf"))
            difference = compare_arrays(expected[name], found[name], name)
            if not _FP32.accepts(difference):
                return Blame(pass_name, source_layer(node), node.name or "", name, difference.scaled)
    return Blame(pass_name)


def _breaks(model: ir.Model, graph: Graph) -> bool:
    """Whether a model does not run on the examples, or is not what the source computed."""
    try:
        with Evaluator(runnable(model)) as evaluator:
            found: Sequence[Mapping[str, np.ndarray]] = [evaluator.run(feeds) for feeds in graph.examples]
        return not _FP32.accepts(graph.expected.difference(found, _FP32))
    except Exception as error:  # refused by ONNX Runtime, another shape, or an output lost
        _logger.debug("the graph cannot be judged", exc_info=error)
        return True


def _run(model: ir.Model, feeds: Arrays, outputs: list[str]) -> Arrays:
    with Evaluator(runnable(model), outputs=outputs) as evaluator:
        return evaluator.run(feeds)


def _inner_values(model: ir.Model) -> dict[str, ir.Node]:
    return {value.name: node for node in model.graph for value in node.outputs if value.name}
