"""Choosing without a search: the first of a target's candidates that keeps its gate, or the fastest."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgec.core.errors import NumericsError
from edgec.core.graph import Graph, Source, TensorSpec
from edgec.core.progress import Silent
from edgec.judging.accuracy import EvaluationData
from edgec.judging.budget import Budget, Judge
from edgec.search import trials
from edgec.search.choice import choose
from edgec.search.deadline import Deadline
from edgec.search.held_out import HeldOut
from edgec.targets.base import Candidate

WIDTH = 32
LOSSY = Candidate("engine", "int8", "form", rest="fp32", scheme="static")
EXACT = Candidate("engine", "fp32", "form")


def source(feeds):
    return {"y": np.tanh(feeds["x"])}


class Engine:
    """The source's outputs with an error of a size."""

    def __init__(self, error):
        self.error = error

    def run(self, feeds):
        right = source(feeds)["y"]
        noise = np.random.default_rng(0).standard_normal(right.shape).astype(np.float32)
        return {"y": right + self.error * noise}

    def close(self):
        pass


class Elsewhere:
    """A target whose engines run on other machines; the errors of its engines, in its order."""

    name, runs_here = "elsewhere", False

    def __init__(self, errors, runs_here=False):
        self.errors, self.runs_here, self.built = errors, runs_here, []

    def candidates(self, graph, precision):
        return list(self.errors)

    def lower(self, graph, candidate):
        return graph

    def build(self, graph, candidate, folder):
        self.built.append(candidate)
        (folder / "error").write_text(str(self.errors.get(candidate, 0.0)))

    def open(self, folder):
        return Engine(float((folder / "error").read_text()))


@pytest.fixture
def graph():
    drawn = np.random.default_rng(1).standard_normal((2, 1, WIDTH)).astype(np.float32)
    model = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 23}), ir_version=10)
    examples = [{"x": row} for row in drawn]
    specs = (TensorSpec("x", (1, WIDTH), "float32"),)
    references = [source(feeds) for feeds in examples]
    return Graph(model, Source("m", "onnx", "m", "0"), specs, examples, references, run_source=source)


@pytest.fixture
def budget(graph):
    drawn = np.random.default_rng(2).standard_normal((20, WIDTH)).astype(np.float32)
    judge = Judge(graph, EvaluationData("drawn", {"x": drawn}, None))
    return Budget(0.01, judge, judge)


def _choose(target, graph, precision, folder, budget):
    held_out = HeldOut(budget, target, Silent(), is_gated=budget is not None)
    return choose(target, graph, precision, folder, Silent(), budget, held_out, Deadline())


def test_where_nothing_runs_here_the_first_within_the_budget_ships(graph, budget, tmp_path):
    target = Elsewhere({LOSSY: 0.01, EXACT: 0.0})
    choice = _choose(target, graph, "fp32", tmp_path, budget)
    assert choice.chosen.candidate == LOSSY
    assert choice.chosen.scores.drop <= 0.01
    assert choice.baselines == {}


def test_a_candidate_beyond_the_budget_is_passed_over_with_its_loss(graph, budget, tmp_path):
    target = Elsewhere({LOSSY: 0.5, EXACT: 0.0})
    choice = _choose(target, graph, "fp32", tmp_path, budget)
    assert choice.chosen.candidate == EXACT
    assert "more than 1.00%" in choice.trials[0].why


def test_where_nothing_keeps_the_budget_what_each_loses_is_said(graph, budget, tmp_path):
    with pytest.raises(NumericsError, match=r"no engine keeps the budget: .* more than 1.00%"):
        _choose(Elsewhere({LOSSY: 0.5}), graph, "fp32", tmp_path, budget)


def test_what_fails_its_gate_is_not_measured_and_not_chosen(graph, tmp_path, monkeypatch):
    wrong, right = Candidate("wrong", "fp32", "form"), EXACT
    measured = []

    def field(target, neutral, candidates, precisions, **_):
        measured.extend(trial.candidate for trial in candidates)
        for trial in candidates:
            trial.latency = trials.Latency((1.0,), (1.0,))
        return candidates, {}, None

    monkeypatch.setattr("edgec.search.choice.measure_field", field)
    choice = _choose(Elsewhere({wrong: 0.5, right: 0.0}, runs_here=True), graph, "fp32", tmp_path, None)
    assert measured == [right]
    assert choice.chosen.candidate == right
    assert "failed its gate" in choice.trials[0].why


def test_where_every_engine_is_wrong_none_is_chosen(graph, tmp_path):
    with pytest.raises(NumericsError, match="no engine computes what the source computes"):
        _choose(Elsewhere({EXACT: 0.5}, runs_here=True), graph, "fp32", tmp_path, None)


def test_what_held_out_data_refuses_is_followed_by_the_next(graph, tmp_path):
    """Twice as wrong on the samples that no search has seen as on those it looks at."""
    inputs = np.random.default_rng(2).standard_normal((40, WIDTH)).astype(np.float32)

    class OnSome(Elsewhere):
        def open(self, folder):
            engine = super().open(folder)
            run = engine.run

            def wrong_on_held_out(feeds):
                found = run(feeds)
                seen = (feeds["x"][0] == inputs[:20]).all(axis=1).any()
                return found if seen or not engine.error else {"y": -found["y"]}

            engine.run = wrong_on_held_out
            return engine

    judges = [
        Judge(graph, EvaluationData(name, {"x": inputs[rows]}, None))
        for name, rows in (("seen", slice(0, 20)), ("unseen", slice(20, 40)))
    ]
    target = OnSome({LOSSY: 0.01, EXACT: 0.0})
    choice = _choose(target, graph, "fp32", tmp_path, Budget(0.01, *judges))
    assert choice.chosen.candidate == EXACT
    assert choice.chosen.held_out.drop == 0.0
    assert "refused by held-out data: mean cosine to the source drops by" in choice.trials[0].why
    (other := tmp_path / "other").mkdir()
    with pytest.raises(NumericsError, match=r"no engine keeps the budget: .* refused by held-out data"):
        _choose(OnSome({LOSSY: 0.01}), graph, "fp32", other, Budget(0.01, *judges))
