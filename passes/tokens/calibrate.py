"""How many tokens to prune at each layer, by a threshold on their importance over calibration inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgec.core.errors import RequestError
from edgec.core.evaluation import Evaluator
from edgec.passes.decompose import load_passes
from edgec.passes.editing import Editor
from edgec.passes.manager import Pipeline
from edgec.passes.tokens.importance import attention_received
from edgec.passes.tokens.reduce import Sweep
from edgec.passes.tokens.schedule import Schedule, before
from edgec.passes.tokens.sites import find_sites

QUANTILE = 0.9
"""Of the calibration inputs, how many keep every token above the threshold."""


def calibrate(
    model: ir.Model,
    samples: Sequence[Mapping[str, np.ndarray]],
    *,
    threshold: float,
    quantile: float = QUANTILE,
) -> Schedule:
    """The schedule for `tokens.prune` that a threshold on the importance comes to.

    A token is important at a layer if the attention it gets from all tokens, class tokens and registers
    among them, is at least a fraction of what real tokens get on average there: the fraction rises linearly
    over the layers of its sequence, up to `threshold` at the last, and who once fell below it is gone
    (Learned Token Pruning, arXiv 2107.00910, which learns the thresholds; here they are given). Engines want
    fixed shapes, so one of each layer's counts over the inputs is taken, their quantile. Padding never
    counts. Which tokens leave is then for the pass to say.

    Args:
        model: the neutral graph; left as it is.
        samples: feeds by input name, each of the shapes that the graph has.
        threshold: of the mean importance, above 0.
        quantile: of the counts, from 0 to 1.

    Raises:
        RequestError: the threshold or the quantile is out of range, there are no samples, or no layer can be
            reduced.
    """
    if not threshold > 0.0 or not 0.0 <= quantile <= 1.0:
        raise RequestError(
            f"a threshold of {threshold:g} at a quantile of {quantile:g} decides nothing",
            fix="choose a threshold above 0, such as 0.5, and a quantile from 0 to 1",
        )
    if not samples:
        raise RequestError("there are no calibration inputs", fix="give some with --calib")
    neutral_sites = find_sites(model)
    probe = model.clone()
    editor = Editor(probe, "tokens.calibrate")
    sites = find_sites(probe)
    if not sites:
        raise RequestError("the graph has no layer whose tokens can be reduced", fix="leave --tokens off")
    sweep = Sweep(editor, [], lambda *_: probe.graph.outputs[0])
    wanted = []
    for site in sites:
        anchor = site.stream.producer()
        assert anchor is not None
        sweep.stand_behind(anchor)
        wanted += [attention_received(sweep, site, row=None), sweep.sizes(site)]
    probe.graph.outputs[:] = [_output(editor, value) for value in wanted]
    editor.remove_dead()
    load_passes()
    Pipeline.named(["decompose.attention"]).run(probe)
    kept: list[list[int]] = [[] for _ in sites]
    with Evaluator(probe) as evaluator:
        for feeds in samples:
            found = list(evaluator.run(feeds).values())
            for sequence in {site.sequence for site in sites}:
                mine = [site for site in sites if site.sequence == sequence]
                scores = [(found[2 * site.index], found[2 * site.index + 1]) for site in mine]
                for site, counted in zip(mine, _kept(scores, mine[0].protected, threshold), strict=True):
                    kept[site.index] += counted
    rates: dict[int, int] = {}
    for site, counts in zip(sites, kept, strict=True):
        count = max(1, int(np.ceil(np.quantile(counts, quantile))))
        left = before(neutral_sites, rates, neutral_sites[site.index]) - site.protected
        rates[site.index] = max(0, left - count)
    return Schedule(rates)


def _output(editor: Editor, value: ir.Value) -> ir.Value:
    """A value of a node of its own, as a graph output must be."""
    anchor = editor.graph[-1]
    return editor.node("Identity", [value], like=anchor, after=anchor, shape=value.shape)


def _kept(
    found: Sequence[tuple[np.ndarray, np.ndarray]], protected: int, threshold: float
) -> list[list[int]]:
    """By layer of one sequence: how many free tokens of each sample are still above the threshold.

    Args:
        found: by layer the scores (B, N) and the sizes (B, N, 1).
        protected: leading tokens that do not count.
        threshold: at the last layer, of the mean score of real tokens.
    """
    alive = real = found[0][1][:, protected:, 0] > 0
    counts = []
    for layer, (scores, _) in enumerate(found):
        score = scores[:, protected:]
        mean = (score * real).sum(1, keepdims=True) / np.maximum(real.sum(1, keepdims=True), 1)
        alive = alive & (score >= threshold * (layer + 1) / len(found) * mean)
        counts.append(alive.sum(1).tolist())
    return counts
