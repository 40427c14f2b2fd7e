"""Networks under plans: each tried in one engine beside the network that nothing was taken of."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgec.core.evaluation import Evaluator
from edgec.core.graph import Arrays, Graph
from edgec.core.numerics import GATES, Difference, Gate, compare
from edgec.core.progress import Progress
from edgec.judging.gates import runnable
from edgec.passes.decompose import load_passes
from edgec.passes.inspection import inspect_model
from edgec.passes.manager import PassReport, Pipeline
from edgec.search.axes.axis import Axis
from edgec.search.bench import Bench
from edgec.search.plan import Plan
from edgec.search.trials import Trial
from edgec.targets.base import Candidate, Target


@dataclasses.dataclass(frozen=True)
class Reduced:
    """A graph under a plan.

    Attributes:
        graph: the graph.
        plan: what was taken away.
        reports: of the passes that did it.
    """

    graph: Graph
    plan: Plan
    reports: tuple[PassReport, ...]


def apply(neutral: Graph, axes: Sequence[Axis], plan: Plan) -> Reduced:
    """Apply a plan to the neutral graph, axis by axis; that graph is left as it is.

    Raises:
        RequestError: a setting is none of this graph.
    """
    graph = neutral
    reports: list[PassReport] = []
    for axis in axes:
        setting = plan.on(axis.name)
        if setting is not None:
            graph, done = axis.apply(graph, setting)
            reports += done
    if plan:
        graph = dataclasses.replace(graph, is_reduced=True)
    return Reduced(graph, plan, tuple(reports))


def with_references(neutral: Graph, reduced: Reduced) -> Reduced:
    """The same with the reduced graph's own outputs on the examples as references, evaluated as written.

    They are what an engine of it must compute. What it costs to be another graph is the budget's affair.
    """
    if not reduced.plan:
        return reduced
    graph = reduced.graph
    load_passes()
    # ONNX Runtime's Attention takes no bias that is the same for all queries, as sizes are.
    written_out = graph.model.clone()
    Pipeline.named(["decompose.attention"]).run(written_out)
    run = _Evaluated(runnable(written_out))
    references = [run(feeds) for feeds in graph.examples]
    lost = compare(neutral.references, references)
    gates = coarse_gates(lost) if reduced.plan.on("tokens") is not None else {}
    judged = dataclasses.replace(
        graph, references=references, run_exact=None, run_reduced=run, ties=[], gates=gates
    )
    return dataclasses.replace(reduced, graph=judged)


class _Evaluated:
    """A model to be called; its session is freed with it."""

    def __init__(self, model: ir.Model) -> None:
        evaluator = Evaluator(model)
        self._run = evaluator.run
        weakref.finalize(self, evaluator.close)

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        return self._run(feeds)


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


class PlanTrials:
    """Builds plans in one candidate and tries each beside the network that nothing was taken of.

    Args:
        bench: with the data that a search may look at.
        neutral: the neutral graph.
        axes: what plans are settings of.
        candidate: what is built.
        scale: what latencies are multiplied by, to tell them as of another engine of the same network.
        progress: told each step.
    """

    def __init__(
        self,
        bench: Bench,
        neutral: Graph,
        axes: Sequence[Axis],
        candidate: Candidate,
        progress: Progress,
        scale: float = 1.0,
    ) -> None:
        self._bench = bench
        self._neutral = neutral
        self._axes = axes
        self._candidate = candidate
        self._progress = progress
        self._macs = inspect_model(neutral.model).macs
        self.engines_built = 1
        # By the axes that a plan is of: the candidate, or its like where those graphs have no such form.
        self._forms: dict[frozenset[str], Candidate] = {}
        progress.step("search: the network as it is")
        self.baseline = Trial(candidate, bench.new_folder())
        bench.build_ungated(neutral, self.baseline)
        with bench.opened(self.baseline) as engine:
            bench.time(self.baseline, engine)
            bench.degrade(self.baseline, engine)
            bench.score(self.baseline, engine)
        bench.refer_to(self.baseline)
        assert self.baseline.latency is not None
        self.baseline.ratio = self.baseline.work = 1.0
        self.baseline.milliseconds = self.baseline.latency.p50 * scale

    @property
    def target(self) -> Target:
        """What builds."""
        return self._bench.target

    def probe(self, plan: Plan) -> Trial:
        """A trial without a score."""
        return self._try(plan, is_scored=False)

    def point(self, plan: Plan) -> Trial:
        """A trial to offer."""
        return self._try(plan, is_scored=True)

    def _try(self, plan: Plan, *, is_scored: bool) -> Trial:
        self.engines_built += 1
        self._progress.step(f"search: plan {self.engines_built - 1}, {plan.name}")
        graph = apply(self._neutral, self._axes, plan).graph
        trial = Trial(self._form(graph, plan), self._bench.new_folder(), plan)
        try:
            self._bench.build_ungated(graph, trial)
            with self._bench.opened(trial) as engine:
                ratio = self._bench.time(trial, engine)
                assert ratio is not None
                trial.ratio = ratio
                trial.milliseconds = ratio * self.baseline.milliseconds
                trial.work = inspect_model(graph.model).macs / max(1, self._macs)
                self._bench.degrade(trial, engine)
                if is_scored:
                    self._bench.score(trial, engine)
        finally:
            self._bench.discard(trial)
        return trial

    def _form(self, graph: Graph, plan: Plan) -> Candidate:
        if plan.axes not in self._forms:
            offered = self._bench.target.candidates(graph, self._candidate.precision)
            alike = [each for each in offered if each.engine == self._candidate.engine]
            same = self._candidate if self._candidate in offered else (alike or offered)[0]
            self._forms[plan.axes] = same
        return self._forms[plan.axes]

    def close(self) -> None:
        """Close what is open and remove what was built."""
        self._bench.close()
        self._bench.discard(self.baseline)
