"""The conformance cases of every target, lowered for each TensorRT and judged in ONNX Runtime."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "conformance"))

from cases import all_cases
from harness import Outcome, candidates, graph_of, run

from edgec.core.errors import EdgecError, RequestError
from edgec.targets import target_named

TARGETS = {
    "8.5": "jetson:xavier-nx-8gb",
    "10.3": "jetson:orin-nano-8gb:jetpack6",
    "10.16": "jetson:thor-t5000:jetpack7.2",
}

# What TensorRT has no form for, in any version here.
REFUSED = {"refused.determinant"}


@pytest.mark.parametrize(
    "version",
    [pytest.param(one, marks=() if one == "10.3" else pytest.mark.full) for one in TARGETS],
)
@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_every_case_keeps_its_gate(case, version, tmp_path):
    target = target_named(TARGETS[version])
    graph = graph_of(case)
    found = candidates(target, graph, ("fp32", "fp16"))
    if isinstance(found, EdgecError):
        assert case.name in REFUSED or isinstance(found, RequestError), str(found)
        return
    target._shipped = None  # the previews have tests of their own
    for candidate in found:
        folder = tmp_path / candidate.precision
        folder.mkdir()
        result = run(target, graph, candidate, folder)
        # An op of edgec's own that became its body counts as a fallback: not every one has a plugin.
        assert result.outcome in (Outcome.PASS, Outcome.FALLBACK), result
