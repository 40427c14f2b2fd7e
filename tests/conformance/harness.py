"""Running one case on one candidate of one target, and saying what became of it.

A target joins by `target_named` knowing it; a target whose engines do not run on this machine joins by
an `open` that interprets or simulates what it built.
"""

from __future__ import annotations

import dataclasses
import enum
from pathlib import Path

import onnx_ir as ir
from cases import Case
from onnx.reference import ReferenceEvaluator

from edgec.core.dialect import EDGEC_DOMAIN
from edgec.core.errors import EdgecError
from edgec.core.graph import Graph, Source, tensor_spec
from edgec.core.numerics import GATES, compare
from edgec.targets.base import Candidate, Target


class Outcome(enum.StrEnum):
    """What became of a case.

    PASS: it ran on the target's own kernels and kept the gate.
    FALLBACK: it kept the gate, and an op of `ai.edgec` ran as its function body for want of a kernel.
    LOWER_FAIL: the target refused it or could not build it, and said so.
    MISMATCH: it ran and computed something else.
    """

    PASS = "pass"
    FALLBACK = "fallback"
    LOWER_FAIL = "lower_fail"
    MISMATCH = "mismatch"


@dataclasses.dataclass(frozen=True)
class Result:
    """One line of the conformance report.

    Attributes:
        case: the case's name.
        target: the target's name.
        engine: the candidate's engine.
        precision: the candidate's precision.
        form: the candidate's form.
        outcome: what became of it.
        detail: the error, or how far off it was.
    """

    case: str
    target: str
    engine: str
    precision: str
    form: str
    outcome: Outcome
    detail: str

    def to_json(self) -> dict[str, str]:
        """As the report has it."""
        return {**dataclasses.asdict(self), "outcome": self.outcome.value}


def graph_of(case: Case) -> Graph:
    """The case as a frontend would return it; references by ONNX's own evaluator."""
    model = ir.from_proto(case.proto)
    names = [value.name or "" for value in model.graph.outputs]
    evaluator = ReferenceEvaluator(case.proto)
    return Graph(
        model,
        Source(case.name, "onnx", case.name, "0"),
        tuple(tensor_spec(value) for value in model.graph.inputs),
        list(case.feeds),
        [dict(zip(names, evaluator.run(None, feeds), strict=True)) for feeds in case.feeds],
    )


def candidates(target: Target, graph: Graph, precisions: tuple[str, ...]) -> list[Candidate] | EdgecError:
    """Every candidate of the precisions; the refusal where there is none."""
    found: list[Candidate] = []
    refusal: EdgecError | None = None
    for precision in precisions:
        try:
            found += target.candidates(graph, precision)
        except EdgecError as error:
            refusal = error
    return found or refusal or []


def run(target: Target, graph: Graph, candidate: Candidate, folder: Path) -> Result:
    """Lower, build, open, run and compare."""

    def result(outcome: Outcome, detail: str) -> Result:
        return Result(
            graph.source.name,
            target.name,
            candidate.engine,
            candidate.precision,
            candidate.form,
            outcome,
            detail,
        )

    try:
        lowered = target.lower(graph, candidate)
        target.build(lowered, candidate, folder)
        engine = target.open(folder)
    except EdgecError as error:
        return result(Outcome.LOWER_FAIL, str(error))
    try:
        outputs = [engine.run(feeds) for feeds in graph.examples]
    finally:
        engine.close()
    for reference, output in zip(graph.references, outputs, strict=True):
        for name, expected in reference.items():
            if output[name].dtype != expected.dtype:
                return result(Outcome.MISMATCH, f"{name} is {output[name].dtype}, not {expected.dtype}")
    try:
        difference = compare(graph.references, outputs)
    except ValueError as error:
        return result(Outcome.MISMATCH, str(error))
    detail = f"off by {difference.scaled:.1e}, cosine {difference.cosine:.7f}"
    if not GATES[candidate.precision].accepts(difference):
        return result(Outcome.MISMATCH, detail)
    had = {node.op_type for node in graph.model.graph if node.domain == EDGEC_DOMAIN}
    kept = {node.op_type for node in lowered.model.graph if node.domain == EDGEC_DOMAIN}
    return result(Outcome.FALLBACK if had - kept else Outcome.PASS, detail)
