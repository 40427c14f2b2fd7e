"""Every target, engine, precision and form on the same cases.

`EDGEC_CONFORMANCE_REPORT=F.json pytest tests/conformance` writes every outcome.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from cases import Case, all_cases, attention_cases
from harness import Outcome, candidates, graph_of, run

from edgec.core.errors import EdgecError, JobError
from edgec.targets import target_named
from edgec.targets.base import Candidate
from edgec.targets.x86 import cpu

ENGINES = ("ort", "openvino")

# What is not a PASS, and must be exactly this: (case, engine) → outcome.
EXPECTED = {
    ("refused.determinant", "openvino"): Outcome.LOWER_FAIL,
}


def precisions(engine):
    if engine == "ort":
        return ("fp32",)
    try:
        cpu.require_bf16()
    except JobError:
        return ("fp32",)
    return ("fp32", "bf16")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("EDGEC_THREADS", "1")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_conformance(case: Case, engine, report, tmp_path):
    if engine == "openvino" and importlib.util.find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed")
    target = target_named(f"x86:{engine}")
    graph = graph_of(case)
    expected = EXPECTED.get((case.name, engine), Outcome.PASS)
    found = candidates(target, graph, precisions(engine))
    if isinstance(found, EdgecError):
        assert expected is Outcome.LOWER_FAIL, str(found)
        return
    for index, candidate in enumerate(found):
        folder = tmp_path / str(index)
        folder.mkdir()
        result = run(target, graph, candidate, folder)
        report.append(result)
        assert result.outcome is expected, result


TVM_REFUSES = ("attention.open_lengths", "attention.open_causal", "linear.open_batch", "refused.determinant")
"""A compiled library is for one shape."""

FAMILIES = {case.name.partition(".")[0]: case for case in all_cases() if case.name not in TVM_REFUSES}


def through_tvm(case, folder):
    if importlib.util.find_spec("tvm") is None:
        pytest.skip("TVM is not installed")
    target = target_named("x86:tvm")
    found = candidates(target, graph_of(case), ("fp32",))
    if case.name in TVM_REFUSES:
        assert isinstance(found, EdgecError)
        return
    [candidate] = found
    result = run(target, graph_of(case), candidate, folder)
    assert result.outcome is Outcome.PASS, result


@pytest.mark.parametrize("case", FAMILIES.values(), ids=lambda case: case.name)
def test_conformance_of_tvm(case: Case, tmp_path):
    through_tvm(case, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_conformance_of_tvm_at_length(case: Case, tmp_path):
    through_tvm(case, tmp_path)


@pytest.fixture
def plain_case():
    return attention_cases()[0]


class Tampered:
    """A target whose engines are off by a factor, or that refuses to build."""

    def __init__(self, inner, *, factor=1.0, refuses=False):
        self.inner, self.factor, self.refuses = inner, factor, refuses
        self.name = inner.name

    def lower(self, graph, candidate):
        return self.inner.lower(graph, candidate)

    def build(self, graph, candidate, folder):
        if self.refuses:
            raise JobError("it will not")
        self.inner.build(graph, candidate, folder)

    def open(self, folder):
        engine, run, factor = self.inner.open(folder), None, self.factor
        run = engine.run
        engine.run = lambda feeds: {name: value * np.float32(factor) for name, value in run(feeds).items()}
        return engine


def test_a_wrong_result_is_a_mismatch_and_a_refusal_is_none(plain_case, tmp_path):
    graph = graph_of(plain_case)
    candidate = Candidate("ort", "fp32", "decomposed")
    x86 = target_named("x86:ort")
    for name, target, outcome in (
        ("right", Tampered(x86), Outcome.PASS),
        ("wrong", Tampered(x86, factor=1.01), Outcome.MISMATCH),
        ("refused", Tampered(x86, refuses=True), Outcome.LOWER_FAIL),
    ):
        folder = tmp_path / name
        folder.mkdir()
        assert run(target, graph, candidate, folder).outcome is outcome, name
