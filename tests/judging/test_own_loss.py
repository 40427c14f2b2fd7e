"""A source that is itself unsteady in fp32: what that loses is no engine's loss, and hides none."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from edgec.core.graph import ExactSource, Graph, Source, TensorSpec
from edgec.core.progress import Silent
from edgec.judging.accuracy import EvaluationData
from edgec.judging.budget import Budget, Judge, budget_of, evaluate
from edgec.search.held_out import HeldOut, RefusedError
from edgec.search.trials import Trial
from edgec.targets.base import Candidate

WIDTH, SAMPLES = 64, 48
EXACT = Candidate("engine", "fp32", "form")


def network(feeds, dtype=np.float32, scale=1.0):
    """Twice its input; where that begins above 0.7, a rounding of it is carried to a quarter of its size."""
    x = feeds["x"].astype(dtype)
    rounding = ((x * dtype(scale) + dtype(1e3)) - dtype(1e3)) / dtype(scale) - x
    return {"y": dtype(2) * x + np.where(x[:, :1] > 0.7, dtype(3e4) * rounding, dtype(0))}


def another_order(feeds):
    """The same in fp32, rounded otherwise."""
    return network(feeds, scale=0.9)


def noisy(feeds):
    """The same with an error of its own, on every sample."""
    right = another_order(feeds)["y"]
    noise = np.random.default_rng(int(1e3 * abs(right[0, 0]))).standard_normal(right.shape)
    return {"y": right + 0.6 * noise.astype(np.float32)}


@pytest.fixture
def data():
    drawn = np.random.default_rng(7).standard_normal((SAMPLES, WIDTH)).astype(np.float32)
    return EvaluationData("drawn", {"x": drawn}, None)


class Counted:
    """The network in float64, and how often it ran."""

    def __init__(self):
        self.runs = 0

    def __call__(self, feeds):
        self.runs += 1
        return network(feeds, np.float64)


@pytest.fixture
def exact():
    return Counted()


@pytest.fixture
def graph(exact):
    model = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 23}), ir_version=10)
    specs = (TensorSpec("x", (1, WIDTH), "float32"),)
    run_exact = ExactSource(exact, {"x": np.zeros((1, WIDTH), np.float32)})
    return Graph(model, Source("m", "onnx", "m", "0"), specs, [], [], run_source=network, run_exact=run_exact)


def test_an_exact_engine_of_an_unsteady_source_loses_nothing(graph, data):
    alone = Judge(dataclasses.replace(graph, run_exact=None), data).scores(another_order)
    assert alone.drop > 0.01
    scores = Judge(graph, data).scores(another_order)
    assert abs(scores.drop) < 0.01
    assert 0 < scores.unsteady <= np.count_nonzero(data.inputs["x"][:, 0] > 0.7)
    assert evaluate(graph, another_order, data) == scores


def test_a_search_that_looks_at_parts_judges_alike(graph, data):
    searched = budget_of(graph, data, None, 0.01).search
    assert searched.scores(another_order).drop < 0.01 < searched.scores(noisy).drop


def test_a_loss_of_the_engines_own_is_not_hidden(graph, data):
    scores = Judge(graph, data).scores(noisy)
    steady = data.part(data.inputs["x"][:, 0] <= 0.7, "steady")
    alone = Judge(graph, steady).scores(noisy)
    assert alone.unsteady == 0
    assert scores.drop > 0.7 * alone.drop > 0.02


def test_a_source_that_decides_otherwise_in_float64_excuses_nothing(graph, data):
    def other(feeds):
        return {"y": np.random.default_rng(1).standard_normal(feeds["x"].shape)}

    other = ExactSource(other, {"x": np.zeros((1, WIDTH), np.float32)})
    judge = Judge(dataclasses.replace(graph, run_exact=other), data)
    scores = judge.scores(other)
    assert scores.drop > 0.5
    assert scores.unsteady == 0


def test_a_steady_source_runs_in_float64_on_a_few_samples_only(graph, data, exact):
    steady = data.part(data.inputs["x"][:, 0] <= 0.7, "steady")
    judge = Judge(graph, steady)
    exact.runs = 0
    assert judge.scores(another_order).drop < 1e-6
    assert exact.runs == 0
    for _ in range(3):
        assert judge.scores(noisy).drop > 0.01
    assert 0 < exact.runs < 8


def test_a_source_that_does_not_run_in_float64_is_the_reference(graph, data):
    def fails(feeds):
        if feeds["x"].any():
            raise ValueError("no kernel")
        return {}

    failing = ExactSource(fails, {"x": np.zeros((1, WIDTH), np.float32)})
    scores = Judge(dataclasses.replace(graph, run_exact=failing), data).scores(another_order)
    assert scores.unsteady == 0
    assert scores.drop > 0.01


class Notes(Silent):
    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


class Opens:
    """A target whose every engine is one function."""

    def __init__(self, run):
        self.run = run

    def open(self, folder):
        return self

    def close(self):
        pass


def test_held_out_data_ships_the_exact_engine_and_says_so(graph, data, tmp_path):
    judge = Judge(graph, data)
    notes = Notes()
    held_out = HeldOut(Budget(0.01, judge, judge), Opens(another_order), notes, is_gated=True)
    assert held_out.first([Trial(EXACT, tmp_path)]).candidate == EXACT
    [note] = notes.said
    assert "the source's own fp32 is off from its float64" in note
    wrong = HeldOut(Budget(0.01, judge, judge), Opens(noisy), Silent(), is_gated=True)
    with pytest.raises(RefusedError):
        wrong.first([Trial(EXACT, tmp_path)])
