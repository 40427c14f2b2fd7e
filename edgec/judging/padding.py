"""What token reduction does to inputs that are longer than those it was judged on.

A network with a padding mask loses little when padding leaves, so a schedule that was searched and judged on
short texts can cost long ones much. That is measured too, on inputs that fill every token.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from edgec.core.graph import Arrays, Graph, TensorSpec
from edgec.judging import accuracy
from edgec.judging.accuracy import EvaluationData, batches
from edgec.judging.budget import Judge
from edgec.runtime.engine import Engine

FILLED = 32
"""Inputs that are put together."""


def padding_report(graph: Graph, engine: Engine, data: EvaluationData | None) -> dict[str, Any] | None:
    """How long the data's inputs are, and the agreement with the source on inputs without padding.

    Args:
        graph: the loaded graph; its `run_source` says what the source computes.
        engine: of the reduced network.
        data: what was judged on; the graph's examples where there is none.

    Returns:
        None where no input is a mask of tokens, or some input is as long as can be already; else `longest`
        and `of` in tokens, and the `cosine` (mean) and `least` (smallest) over `samples` filled inputs.
    """
    mask = _mask(graph)
    if mask is None or graph.run_source is None or not isinstance(mask.shape[1], int):
        return None
    inputs = data.inputs if data is not None else stacked(graph.examples)
    real = inputs[mask.name] != 0
    longest = int(real.sum(axis=1).max())
    if not 0 < longest < mask.shape[1]:
        return None
    judge = Judge(graph, EvaluationData("inputs that fill every token", filled(inputs, real), None))
    cosines = accuracy.sample_cosines(judge.expected, judge.outputs(engine.run))
    return {
        "longest": longest,
        "of": mask.shape[1],
        "cosine": float(cosines.mean()),
        "least": float(cosines.min()),
        "samples": len(cosines),
    }


def typical_first(graph: Graph, data: EvaluationData) -> Graph:
    """The graph with an input of the data's median length as its first example, which latencies are taken on.

    An engine that skips padding is as fast as its input is short. A graph without a mask of tokens is
    returned as it is.
    """
    mask = _mask(graph)
    if mask is None or graph.run_source is None:
        return graph
    lengths = (data.inputs[mask.name] != 0).sum(axis=1)
    row = int(np.argsort(lengths, kind="stable")[len(lengths) // 2])
    [(feeds, _)] = batches(graph.inputs, data.part(slice(row, row + 1), "typical"))
    typical = graph.with_examples([feeds])
    return dataclasses.replace(
        graph,
        examples=[*typical.examples, *graph.examples],
        references=[*typical.references, *graph.references],
        ties=[],
    )


def _mask(graph: Graph) -> TensorSpec | None:
    return next((spec for spec in graph.inputs if spec.semantics == "mask" and len(spec.shape) == 2), None)


def stacked(examples: list[Arrays]) -> Arrays:
    """Examples as one array of samples by input."""
    return {name: np.concatenate([feeds[name] for feeds in examples]) for name in examples[0]}


def filled(inputs: Arrays, real: np.ndarray) -> Arrays:
    """Inputs without padding: the real tokens of one sample after the other until every token is taken.

    Args:
        inputs: samples by name; those of the mask's shape are put together, of others the first's is kept.
        real: bool (samples, tokens), where a sample has a real token; every sample has one at least.
    """
    samples, length = real.shape
    rows = range(min(FILLED, samples))
    made: dict[str, list[np.ndarray]] = {name: [] for name in inputs}
    for row in rows:
        order = [(row + step) % samples for step in range(length)]
        for name, array in inputs.items():
            if array.shape[:2] != real.shape:
                made[name].append(array[row])
                continue
            parts, have = [], 0
            for sample in order:
                if have >= length:
                    break
                parts.append(array[sample][real[sample]])
                have += len(parts[-1])
            made[name].append(np.concatenate(parts)[:length])
    return {name: np.stack(arrays) for name, arrays in made.items()}
