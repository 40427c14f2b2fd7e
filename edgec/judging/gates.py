"""The gates: what edgec computed beside what the source itself computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN
from edgec.core.errors import EdgecError, NumericsError
from edgec.core.evaluation import Evaluator
from edgec.core.graph import Arrays, Graph
from edgec.core.numerics import GATES, Difference, Gate, guarding
from edgec.judging.onnxruntime_masks import adapt_masks, has_foreign_masks
from edgec.plugins.infra import plugins

Run = Callable[[Mapping[str, np.ndarray]], Arrays]


@dataclasses.dataclass(frozen=True)
class Blame:
    """Where a result first differs from its source, and what helps.

    Attributes:
        pass_name: the pass after which the gate fails first; empty if no pass is to blame.
        source: the first layer, in execution order, whose value differs, under the user's own name.
        node: its node; empty where none was found.
        value: the value's name.
        scaled: how far it is off, in units of its spread.
        fix: what helps, one clause; empty where nothing is known to.
        before: what is to blame where it is no pass.
    """

    pass_name: str = ""
    source: str = ""
    node: str = ""
    value: str = ""
    scaled: float = 0.0
    fix: str = ""
    before: str = ""

    def __str__(self) -> str:
        what = f"pass {self.pass_name}" if self.pass_name else self.before
        blamed = f"{what} breaks it first" if what else "it goes wrong first"
        if not self.node:
            return blamed if what else "no single layer goes wrong by itself"
        return (
            f"{blamed} at layer {self.source!r} (node {self.node!r}, value {self.value!r}, "
            f"off by {self.scaled:.1e} of its spread)"
        )


@dataclasses.dataclass(frozen=True)
class GateResult:
    """One gate passed or failed.

    Attributes:
        stage: what was compared with the source, `neutral graph` or an engine's name.
        difference: the worst over all samples and outputs.
        gate: the bounds.
        samples: how many samples were compared.
        rounded_inputs: whether the source's own rounding is what rounding its inputs moves in it.
        blame: where it goes wrong first and what helps, where the gate failed and that was looked for.
    """

    stage: str
    difference: Difference
    gate: Gate
    samples: int
    rounded_inputs: bool = False
    blame: Blame | None = None

    @property
    def passed(self) -> bool:
        """Whether the difference keeps the bounds."""
        return self.gate.accepts(self.difference)

    def to_json(self) -> dict[str, Any]:
        """As the report and `--json` print it."""
        return {
            "stage": self.stage,
            **dataclasses.asdict(self.difference),
            "gate": dataclasses.asdict(self.gate),
            "passed": self.passed,
            "samples": self.samples,
            "rounded_inputs": self.rounded_inputs,
            "blame": None if self.blame is None else dataclasses.asdict(self.blame),
        }

    def __str__(self) -> str:
        found = self.difference
        broken = self.gate.broken(found)
        said = broken or f"off by {found.scaled:.2e} of the output's spread (allowed {self.gate.scaled:.0e})"
        rounding = f"; the source's own rounding is {found.rounding:.0e} of it" if found.rounding else ""
        ties = f"; {found.near_ties} near-ties decided otherwise" if found.near_ties else ""
        blamed = f"; {self.blame}" if self.blame else ""
        return f"{self.stage}: output {found.output!r} {said}{rounding}{ties}{blamed}"


def check(graph: Graph, run: Run, *, stage: str, precision: str) -> GateResult:
    """Run the graph's examples and compare with the source's own outputs at the precision's gate.

    Raises:
        NumericsError: it does not run them, or an output has another shape than the source's.
    """
    found = _outputs(graph, run, stage)
    gate = graph.gates.get(precision, GATES[precision])
    difference = _difference(graph, found, gate, stage)
    # Of a reduced graph rounding may choose another of two tokens that are nearly equal, in fp32 too.
    if (precision in ("fp16", "bf16") or graph.is_reduced) and not gate.accepts(difference):
        rounded = graph.expected_of_rounded(precision)
        if rounded is not None and gate.accepts(lenient := rounded.difference(found, gate)):
            return GateResult(stage, lenient, gate, len(found), rounded_inputs=True)
    return GateResult(stage, difference, gate, len(found))


def observe(graph: Graph, run: Run, *, stage: str) -> GateResult:
    """What a lossy engine does to the graph's examples, under bounds made from that very result.

    Raises:
        NumericsError: it does not run them, or an output has another shape than the source's.
    """
    found = _outputs(graph, run, stage)
    rest = GATES["bf16"]
    difference = _difference(graph, found, rest, stage)
    if not np.isfinite(difference.scaled):
        return GateResult(stage, difference, rest, len(found))
    return GateResult(stage, difference, guarding(difference), len(found))


def _outputs(graph: Graph, run: Run, stage: str) -> list[Arrays]:
    try:
        return [run(feeds) for feeds in graph.examples]
    except EdgecError:
        raise
    except Exception as error:  # engines raise whatever they trip over
        said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise NumericsError(f"{stage} does not run the source's samples: {said.strip()[:300]}") from error


def _difference(graph: Graph, found: list[Arrays], gate: Gate, stage: str) -> Difference:
    try:
        return graph.expected.difference(found, gate)
    except ValueError as error:
        raise NumericsError(f"{stage}: {error}") from error


def check_neutral(graph: Graph) -> GateResult:
    """Gate the neutral graph itself in fp32, evaluated as written."""
    with Evaluator(runnable(graph.model)) as evaluator:
        return check(graph, evaluator.run, stage="neutral graph", precision="fp32")


def runnable(model: ir.Model) -> ir.Model:
    """The model with the function bodies of the `ai.edgec` ops that it uses; itself if it uses none."""
    used = {node.op_type for node in model.graph.all_nodes() if node.domain == EDGEC_DOMAIN}
    known = {function.name for function in model.functions.values() if function.domain == EDGEC_DOMAIN}
    if not used - known and not has_foreign_masks(model):
        return model
    copy = model.clone()
    adapt_masks(copy)
    for op_type in sorted(used - known):
        function = plugins()[op_type].function()
        copy.functions[function.identifier()] = function
        for domain, version in function.opset_imports.items():
            copy.opset_imports.setdefault(domain, version)
    return copy
