"""Token reduction in a compile: a plan put into the neutral graph, its engine, and what it cost."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgec.core.errors import EdgecError, JobError
from edgec.core.evaluation import Evaluator
from edgec.core.graph import Graph
from edgec.core.numerics import GATES, Difference, Gate, compare
from edgec.core.progress import Progress
from edgec.core.timing import measure
from edgec.judging import accuracy
from edgec.judging.accuracy import Scores
from edgec.judging.gates import runnable
from edgec.passes.decompose import load_passes
from edgec.passes.infra import MatchLog
from edgec.passes.inspection import inspect_model
from edgec.passes.manager import PassReport, Pipeline
from edgec.passes.tokens.calibrate import calibrate
from edgec.passes.tokens.restore import RestoreTokens
from edgec.passes.tokens.schedule import before
from edgec.passes.tokens.sites import Site, find_sites
from edgec.runtime.engine import Engine
from edgec.search.choice import Choice
from edgec.search.token_methods import Plan, read_plan, threshold_of
from edgec.targets.base import Candidate, Target

Choose = Callable[[Graph, Path], Choice]
"""The choice among a graph's engines, in a new folder."""


@dataclasses.dataclass(frozen=True)
class Reduced:
    """A graph with fewer tokens.

    Attributes:
        graph: its references are its own outputs in fp32, evaluated as written, not the source's: what an
            engine of it must compute. What it costs to be another graph is the budget's affair.
        plan: what was done.
        reports: of the passes that did it: the reduction, and the restoring of what needs all tokens.
    """

    graph: Graph
    plan: Plan
    reports: tuple[PassReport, ...]


@dataclasses.dataclass
class Reduction:
    """What came of a request to reduce tokens.

    Attributes:
        reduced: the graph that ships.
        choice: its engine.
        scores: on held-out data, where they were taken already.
        report: the section `tokens` of the report.
    """

    reduced: Reduced
    choice: Choice
    scores: Scores | None
    report: dict[str, Any]


def sites_of(neutral: Graph) -> tuple[list[Site], MatchLog]:
    """The sites of a graph, and the attentions that are none with the reasons.

    Raises:
        JobError: it has no site; lists the reasons.
    """
    log = MatchLog()
    sites = find_sites(neutral.model, log)
    if not sites:
        reasons = "; ".join(f"{miss.source} (node {miss.node}): {miss.reason}" for miss in log.misses)
        raise JobError(
            f"no block's tokens can be reduced ({reasons or 'the graph has no attention'})",
            fix="leave --tokens off",
        )
    return sites, log


def apply(neutral: Graph, plan: Plan) -> Reduced:
    """Put a plan into a copy of the neutral graph.

    Raises:
        RequestError: a site does not exist, or its tokens do not allow the r.
    """
    graph = neutral.clone()
    reports = Pipeline([plan.step(), RestoreTokens()]).run(graph.model)
    return Reduced(graph, plan, tuple(reports))


def with_references(reduced: Reduced) -> Reduced:
    """The same with the reduced graph's own outputs on the examples as references."""
    graph = reduced.graph
    load_passes()
    # ONNX Runtime's Attention takes no bias that is the same for all queries, as sizes are.
    written_out = graph.model.clone()
    Pipeline.named(["decompose.attention"]).run(written_out)
    with Evaluator(runnable(written_out)) as evaluator:
        references = [evaluator.run(feeds) for feeds in graph.examples]
    lost = compare(graph.references, references)
    judged = dataclasses.replace(
        graph, references=references, run_exact=None, ties=[], gates=coarse_gates(lost)
    )
    return dataclasses.replace(reduced, graph=judged)


def coarse_gates(lost: Difference) -> dict[str, Gate]:
    """Bounds for engines in less than fp32, whose rounding can flip a choice between nearly equal tokens.

    That it computes the same thing is gated in fp32, where no choice flips. A flipped choice gives another
    reduction of the same source, which is as far from the source as this one is; so the two are at most
    twice that apart.

    Args:
        lost: how far the reduced graph is from the source on the examples.
    """
    gates = {}
    for precision in ("bf16", "fp16"):
        plain = GATES[precision]
        gates[precision] = Gate(
            plain.scaled + 2.0 * lost.scaled,
            plain.rms + 2.0 * lost.rms,
            plain.slice_rms + 2.0 * lost.slice_rms,
            min(1.0, plain.unequal + 2.0 * lost.unequal),
            f"{plain.why}; choices between nearly equal tokens may fall otherwise than in fp32: another "
            "reduction, as far from the source as this one is, twice that from this one at the most",
        )
    return gates


def reduce_tokens(
    neutral: Graph,
    text: str,
    target: Target,
    choose: Choose,
    scratch: Path,
    progress: Progress,
) -> Reduction:
    """The engine of a schedule that the user names.

    Args:
        neutral: the neutral graph, gated against the source.
        text: what `--tokens` says.
        target: the target.
        choose: chooses the engine.
        scratch: an existing folder.
        progress: told each step.

    Raises:
        RequestError: the text is no schedule of this graph, or a threshold has no calibration inputs.
        JobError: the graph has no site.
        NumericsError: no engine computes what the reduced graph computes.
    """
    sites, log = sites_of(neutral)
    asked = threshold_of(text)
    if asked is None:
        plan = read_plan(text, sites)
    else:
        progress.step("counting important tokens on calibration inputs")
        plan = Plan(asked[0], calibrate(neutral.model, neutral.calibration, threshold=asked[1]))
    progress.step(f"reducing tokens: {plan.name}")
    reduced = with_references(apply(neutral, plan))
    choice = choose(reduced.graph, scratch)
    fields = describe(neutral, reduced, sites, log, asked=text)
    fields["baseline"] = beside_unreduced(neutral, choice, target, scratch, progress)
    return Reduction(reduced, choice, None, fields)


def describe(
    neutral: Graph, reduced: Reduced, sites: list[Site], log: MatchLog, *, asked: str
) -> dict[str, Any]:
    """The section `tokens` of the report, as far as it does not depend on measuring."""
    schedule = reduced.plan.schedule
    rates = {site.index: r for site, r in reduced.plan.reductions(sites)}
    rows = []
    for site in sites:
        there, r = before(sites, schedule.rates, site, schedule.restore), rates.get(site.index, 0)
        rows.append(
            {
                "site": site.index,
                "layer": site.layer,
                "sequence": site.sequence,
                "r": r,
                "before": there,
                "after": site.length if site.index == schedule.restore else there - r,
                "protected": site.protected,
            }
        )
    first = {row["sequence"]: row["before"] for row in reversed(rows)}
    last = {row["sequence"]: row["after"] for row in rows}
    work = inspect_model(reduced.graph.model).macs / max(1, inspect_model(neutral.model).macs)
    return {
        "asked": asked,
        "name": reduced.plan.name,
        "method": reduced.plan.method.name,
        "meaning": reduced.plan.method.meaning,
        "schedule": reduced.plan.schedule.name,
        "before": sum(first.values()),
        "after": sum(last.values()),
        "sites": rows,
        "refused": [dataclasses.asdict(miss) for miss in log.misses],
        "work": work,
        "baseline": None,
        "frontier": [],
        "searched_on": None,
        "held_out": None,
        "agreement": None,
        "padding": None,
        "gated": False,
    }


def beside_unreduced(
    neutral: Graph, choice: Choice, target: Target, scratch: Path, progress: Progress
) -> dict[str, Any] | None:
    """The same engine without reduction, measured beside the chosen one; None where nothing can be measured.

    Returns:
        engine, precision and form, its median in milliseconds, and the ratio of the reduced engine's to it.
    """
    if not target.runs_here:
        return None
    candidate = choice.chosen.candidate
    progress.step("measuring beside the engine without token reduction")
    folder = scratch / "unreduced"
    try:
        unreduced = built(target, neutral, candidate, folder)
    except EdgecError as error:
        progress.note(f"the engine without token reduction could not be built: {error}")
        return None
    chosen = target.open(choice.chosen.folder)
    feeds = neutral.examples[0]
    try:
        found = measure({"unreduced": lambda: unreduced.run(feeds), "reduced": lambda: chosen.run(feeds)})
    finally:
        unreduced.close()
        chosen.close()
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "engine": candidate.engine,
        "precision": candidate.precision,
        "form": candidate.form,
        "p50": found["unreduced"].p50,
        "ratio": found["reduced"].ratio_to(found["unreduced"]),
    }


def built(target: Target, graph: Graph, candidate: Candidate, folder: Path) -> Engine:
    """Build a graph's engine in a new folder and open it."""
    folder.mkdir()
    target.build(target.lower(graph, candidate), candidate, folder)
    return target.open(folder)


def agreement(source: Graph, engine: Engine) -> dict[str, Any]:
    """How far an engine's first output is from the source's own on the examples."""
    name = source.outputs[0].name
    expected = np.concatenate([reference[name] for reference in source.references])
    found = np.concatenate([engine.run(feeds)[name] for feeds in source.examples])
    return {
        "cosine": accuracy.mean_cosine(expected, found),
        "samples": len(expected),
        "output": name,
    }
