"""The gates: what edgec computed beside what the source itself computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from edgec.attention_masks import adapt_masks, has_foreign_masks
from edgec.core.dialect import EDGEC_DOMAIN
from edgec.core.evaluation import Evaluator
from edgec.core.graph import Arrays, Graph
from edgec.core.numerics import GATES, Difference, Gate, compare
from edgec.plugins.infra import plugins

Run = Callable[[Mapping[str, np.ndarray]], Arrays]


@dataclasses.dataclass(frozen=True)
class GateResult:
    """One gate passed or failed.

    Attributes:
        stage: what was compared with the source, `neutral graph` or an engine's name.
        difference: the worst over all samples and outputs.
        gate: the bounds.
        samples: how many samples were compared.
    """

    stage: str
    difference: Difference
    gate: Gate
    samples: int

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
        }

    def __str__(self) -> str:
        found, gate = self.difference, self.gate
        return (
            f"{self.stage}: off by {found.scaled:.2e} of the output's spread (allowed {gate.scaled:.0e}), "
            f"cosine {found.cosine:.7f} (at least {gate.cosine}), output {found.output!r}"
        )


def check(graph: Graph, run: Run, *, stage: str, precision: str) -> GateResult:
    """Run the graph's examples and compare with the source's own outputs at the precision's gate."""
    found = [run(feeds) for feeds in graph.examples]
    gate = graph.gates.get(precision, GATES[precision])
    return GateResult(stage, compare(graph.references, found), gate, len(found))


def observe(graph: Graph, run: Run, *, stage: str) -> GateResult:
    """What a lossy engine does to the graph's examples, under bounds made from that very result.

    The user's budget judges a lossy engine, on data. These bounds serve whoever opens it later: another
    processor may round differently, twice the difference allows for that; a broken engine is far beyond.
    """
    found = [run(feeds) for feeds in graph.examples]
    difference = compare(graph.references, found)
    if not np.isfinite(difference.scaled):
        return GateResult(stage, difference, GATES["bf16"], len(found))
    own = Gate(
        2 * difference.scaled + GATES["bf16"].scaled,
        max(-1.0, 2 * difference.cosine - 2 + GATES["bf16"].cosine),
        "twice what this engine showed when it was compiled, and bf16's rounding: it guards against damage "
        "to the engine; what quantisation costs is measured on data",
    )
    return GateResult(stage, difference, own, len(found))


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
