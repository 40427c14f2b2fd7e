"""What cuts cost without training: edgec's healing beside CORP's recipe and mean-shift pruning (VBP).

    python benchmarks/slim_accuracy.py [MODEL …] [--held-out N] [--calibration N]

For each model and each plan the same structures leave by three recipes, on the same calibration data:

- edgec: `Slimmer.apply`.
- CORP (arXiv 2602.05243): members with the least energy of what they add leave at once; what they did is an
  affine function of the others by ridge regression, folded into the next weight; entries of queries and keys
  leave by the energy of their logits, and the logits that they made are a bilinear form of the others'.
- VBP (arXiv 2507.12988): members with the least variance leave; their means go into the next bias.

No latency is measured here. Pictures are scored by accuracy, sentences by the mean cosine to the whole
network's embedding.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from tables import markdown, publish

from edgec import zoo
from edgec.compiler import load, to_neutral
from edgec.core.dialect import is_op
from edgec.core.evaluation import Evaluator
from edgec.core.graph import Arrays, Graph
from edgec.core.progress import Silent
from edgec.passes.inspection import inspect_model
from edgec.passes.manager import Pipeline
from edgec.passes.pipeline import default_pipeline
from edgec.passes.precision.judge import evaluable
from edgec.passes.slim.cut import CutUnits
from edgec.passes.slim.head_widths import Turn, query_moments, turn
from edgec.passes.slim.heal import Slimmer
from edgec.passes.slim.least_squares import Moments
from edgec.passes.slim.linear_layers import LinearLayer, linear_layer, matrix, spread, stored
from edgec.passes.slim.plan import SlimPlan
from edgec.passes.slim.teacher import Rows, teach
from edgec.passes.slim.units import Unit
from edgec.zoo.evaluation import Evaluation

MODELS = ("vit_shapes", "vit_patterns", "minilm")
HALF = "mlp=0.5+qk_width=0.5+v_width=0.5"
"""Half of every MLP and half of every attention."""

PLANS = ("mlp=0.75", "mlp=0.5", "mlp=0.25", "heads=0.5", "qk_width=0.5", "mlp=0.5+heads=0.5", HALF)
RIDGE = 1e-3


COMMON = (
    "the a of and to in is was for on with as by at from that it an are his her they this be has had not or"
)


def texts(count: int) -> list[str]:
    """Texts to calibrate minilm on, half of them prose of Python's language reference, half drawn words.

    The prose has grammar but few subjects. The drawn ones have the words of the whole vocabulary and no
    grammar. Both are from a few words long to what fills the 128 tokens.
    """
    from pydoc_data.topics import topics

    from edgec.zoo.minilm.checkpoint import checkpoint

    rng = np.random.default_rng(0)
    prose = [word for name in sorted(topics) for word in topics[name].split() if word.isascii()]
    vocabulary = json.loads((checkpoint() / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    rare = [word for word in vocabulary if word.isalpha() and word.isascii() and len(word) > 2]
    made = []
    for index in range(count):
        length = int(rng.integers(6, 100))
        if index % 2:
            start = int(rng.integers(len(prose) - length))
            made.append(" ".join(prose[start : start + length]))
            continue
        common = rng.choice(COMMON.split(), length)
        drawn = rng.choice(rare, length)
        made.append(" ".join(np.where(rng.random(length) < 0.4, common, drawn)))
    return made


def calibration(name: str, count: int) -> Arrays:
    if name == "minilm":
        # The zoo's own sixteen pairs are too few to fit weights to.
        from edgec.zoo.minilm.data import tokenise

        return tokenise(texts(count))
    data = zoo.calibration(name, count=count)
    assert data is not None
    return data.inputs


def outputs(model: ir.Model, feeds: Sequence[Arrays]) -> np.ndarray:
    with Evaluator(evaluable(model), optimized=True) as evaluator:
        return np.concatenate([next(iter(evaluator.run(sample).values())) for sample in feeds])


def split(arrays: Arrays) -> tuple[Arrays, ...]:
    count = len(next(iter(arrays.values())))
    return tuple({name: array[i : i + 1] for name, array in arrays.items()} for i in range(count))


Recipe = Callable[[Moments, np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Moments, weight (n, m), members (n,) and how many stay: the members kept, and the weight and the change of
the bias of the whole layer, to be cut afterwards."""


def corp(moments: Moments, weight: np.ndarray, members: np.ndarray, count: int):  # type: ignore[no-untyped-def]
    energy = np.diagonal(moments.xx) * np.square(weight).sum(1)
    kept = _largest(energy, members, count)
    stay = np.isin(members, kept)
    central = moments.centred().xx
    inner = central[np.ix_(stay, stay)]
    inner = inner + RIDGE * np.trace(inner) / len(inner) * np.eye(len(inner))
    share = np.linalg.solve(inner, central[np.ix_(stay, ~stay)])
    mean = moments.x / moments.count
    changed = weight.astype(np.float64).copy()
    changed[stay] += share @ weight[~stay]
    return kept, changed, (mean[~stay] - mean[stay] @ share) @ weight[~stay]


def vbp(moments: Moments, weight: np.ndarray, members: np.ndarray, count: int):  # type: ignore[no-untyped-def]
    kept = _largest(np.diagonal(moments.centred().xx), members, count)
    gone = ~np.isin(members, kept)
    return kept, weight, (moments.x / moments.count)[gone] @ weight[gone]


def _largest(scores: np.ndarray, members: np.ndarray, count: int) -> np.ndarray:
    return np.sort(np.argsort(np.bincount(members, weights=scores), kind="stable")[::-1][:count])


def narrowed_logits(
    graph: Graph, unit: Unit, count: int, samples: Sequence[Arrays], *, compensated: bool
) -> list[Turn] | None:
    """Queries and keys with the entries that stay in front; the others' logits in theirs, if compensated."""
    held = {extent.value for extent in unit.activations}
    attention = next(n for n in graph.model.graph if is_op(n, "Attention") and n.inputs[0].name in held)
    [found] = query_moments(graph.model, [(attention, unit)], samples)
    if found is None:
        return None
    turns = []
    for head, (query, key) in enumerate(zip(found.query_moments, found.key_moments, strict=True)):
        energy = np.diagonal(query) * np.diagonal(key)
        ranked = np.argsort(energy, kind="stable")[::-1]
        stay, gone = ranked[:count], ranked[count:]
        basis = np.eye(unit.size)[:, ranked]
        folded = basis.copy()
        if compensated:
            inner = [m[np.ix_(stay, stay)] for m in (query, key)]
            inner = [m + RIDGE * np.trace(m) / count * np.eye(count) for m in inner]
            left = np.linalg.solve(inner[0], query[np.ix_(stay, gone)])
            right = np.linalg.solve(inner[1], key[np.ix_(stay, gone)])
            folded[:, :count] = basis[:, :count] @ (np.eye(count) + left @ right.T)
        turns += [Turn(found.queries[head], folded), Turn(found.keys[head], basis)]
    return turns


def one_shot(slimmer: Slimmer, plan: SlimPlan, recipe: Recipe) -> ir.Model:
    """Every unit cut and mended by itself, from what the whole network computes."""
    graph = slimmer.graph
    nodes = {str(node.name): node for node in graph.model.graph}
    units = {unit.name: unit for unit in slimmer.units}
    samples = list(graph.calibration)
    layers: dict[str, LinearLayer] = {}
    for name in plan.kept:
        for reader in units[name].readers:
            layer = linear_layer(nodes[reader.node], reader.value)
            assert layer is not None
            layers[name] = layer
    rows = Rows(samples, graph.inputs, 1)
    moments = teach(graph.model, layers.values(), {}, samples, rows).moments
    student = graph.model.clone()
    there = {str(node.name): node for node in student.graph}
    kept = {}
    for name, count in plan.kept.items():
        unit = units[name]
        if unit.kind == "qk_width":
            turns = narrowed_logits(graph, unit, count, samples[:32], compensated=recipe is corp)
            assert turns is not None
            turn(student, turns)
            kept[name] = np.arange(count)
            continue
        layer = layers[name]
        node = there[layer.node]
        extent = next(each for each in unit.activations if each.value == layer.value)
        members = spread(node, extent.members)
        kept[name], weight, shift = recipe(moments[layer.node], matrix(node), members, count)
        _store(node, 1, stored(node, weight))
        assert layer.bias is not None
        place = there[layer.bias[0]]
        bias = place.inputs[layer.bias[1]].const_value.numpy()  # type: ignore[union-attr]
        _store(place, layer.bias[1], bias + shift.reshape(bias.shape))
    Pipeline([CutUnits(slimmer.units, {name: each.tolist() for name, each in kept.items()})]).run(student)
    return student


def _store(node: ir.Node, index: int, array: np.ndarray) -> None:
    value = node.inputs[index]
    assert value is not None
    value.const_value = ir.tensor(array.astype(np.float32), name=value.name)


def score(data: Evaluation, found: np.ndarray, whole: np.ndarray) -> float:
    return data.score(found, whole)["accuracy" if data.metric == "accuracy" else "cosine"]


def rows_of(name: str, plans: Sequence[str], held_out: int, count: int) -> list[list[object]]:
    graph = load(f"zoo:{name}")
    neutral = to_neutral(graph, default_pipeline(), Silent()).graph
    neutral = dataclasses.replace(neutral, calibration=split(calibration(name, count)))
    data = zoo.evaluation(name, count=held_out)
    assert data is not None
    feeds = split(data.inputs)
    whole = outputs(neutral.model, feeds)
    slimmer = Slimmer(neutral)
    macs = inspect_model(neutral.model).macs
    rows: list[list[object]] = [[name, "whole", "1.00", *[f"{score(data, whole, whole):.2%}"] * 3]]
    for text in plans:
        plan = SlimPlan.parse(text, slimmer.units)
        ours = slimmer.apply(plan)[0].model
        models = [ours, one_shot(slimmer, plan, corp), one_shot(slimmer, plan, vbp)]
        share = inspect_model(ours).macs / macs
        scores = [score(data, outputs(model, feeds), whole) for model in models]
        rows.append([name, text, f"{share:.2f}", *(f"{each:.2%}" for each in scores)])
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--held-out", type=int, default=1024)
    parser.add_argument("--calibration", type=int, default=192)
    parser.add_argument("--plans", nargs="*", default=PLANS)
    asked = parser.parse_args()
    rows = []
    for name in asked.models:
        rows += rows_of(name, asked.plans, asked.held_out, asked.calibration)
    headers = ["model", "plan", "multiply-accumulates", "edgec", "CORP", "VBP"]
    publish("slim_accuracy", "Cuts without training", markdown(headers, rows))


if __name__ == "__main__":
    main()
