"""What a budget measures on, and what it refuses."""

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from edgec.core.errors import NumericsError, RequestError
from edgec.core.graph import Graph, Source, TensorSpec
from edgec.judging.accuracy import EvaluationData, mean_cosine
from edgec.judging.budget import (
    DEFAULT_DROP,
    SEARCH_SAMPLES,
    Budget,
    Judge,
    budget_of,
    calibration_data,
    calibration_feeds,
    fitting_parted,
)

CLASSES = 3


def _source(feeds):
    return {"y": feeds["x"] * 2.0}


@pytest.fixture
def graph() -> Graph:
    model = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 23}), ir_version=10)
    inputs = (TensorSpec("x", (2, CLASSES), "float32"),)
    return Graph(model, Source("m.onnx", "onnx", "m", "0"), inputs, [], [], run_source=_source)


def _data(samples: int, *, labels: bool, name: str = "data") -> EvaluationData:
    drawn = np.random.default_rng(0)
    inputs = {"x": drawn.standard_normal((samples, CLASSES)).astype(np.float32)}
    return EvaluationData(name, inputs, inputs["x"].argmax(axis=1) if labels else None)


def test_evaluation_data_alone_is_parted_and_no_sample_is_in_both_parts(graph):
    data = _data(9, labels=True)
    budget = budget_of(graph, data, None, 0.05)
    rows = [tuple(row) for judge in (budget.search, budget.held_out) for row in judge.data.inputs["x"]]
    assert sorted(rows) == sorted(tuple(row) for row in data.inputs["x"])
    assert budget.labelled
    assert budget.max_drop == 0.05


def test_calibration_data_is_searched_and_all_evaluation_data_held_out(graph):
    budget = budget_of(graph, _data(6, labels=True), _data(4, labels=True, name="seen"), None)
    assert (budget.search.data.name, budget.held_out.data.samples) == ("seen", 6)
    assert budget.max_drop == DEFAULT_DROP


def test_calibration_without_labels_does_not_search_for_a_labelled_score(graph):
    budget = budget_of(graph, _data(6, labels=True), _data(4, labels=False, name="seen"), None)
    assert budget.search.data.labels is not None


def test_a_drop_is_refused_beyond_the_budget_and_allowed_within(graph):
    budget = budget_of(graph, _data(40, labels=True), None, 0.1)
    budget.check(budget.held_out.scores(_source))
    with pytest.raises(NumericsError, match="top-1 accuracy drops by"):
        budget.check(budget.held_out.scores(lambda feeds: {"y": -feeds["x"]}))


def test_without_labels_the_score_is_agreement(graph):
    budget = budget_of(graph, None, _data(40, labels=False), 0.01)
    shifted = budget.held_out.scores(lambda feeds: {"y": feeds["x"] + np.float32(1.0)})
    assert shifted.metric == "mean cosine to the source"
    assert shifted.drop > 0.01
    assert budget.held_out.scores(_source).drop == pytest.approx(0.0, abs=1e-12)
    outputs = budget.search.outputs(lambda feeds: {"y": feeds["x"] + np.float32(1.0)})
    assert budget.search.damage(outputs) > 0.01


def test_a_drop_without_any_data_names_what_to_give(graph):
    with pytest.raises(RequestError, match="--max-drop needs data"):
        budget_of(graph, None, None, 0.01)
    assert budget_of(graph, None, None, None) is None
    with pytest.raises(RequestError, match="one sample"):
        budget_of(graph, _data(1, labels=True), None, 0.01)


def test_calibration_data_of_one_value_is_refused(graph, tmp_path):
    references = [{"y": np.zeros((2, CLASSES), np.float32)}]
    graph = dataclasses.replace(graph, references=references)
    path = tmp_path / "flat.npz"
    np.savez(path, x=np.ones((4, CLASSES), np.float32))
    with pytest.raises(RequestError, match="one value only"):
        calibration_data(graph, path)


def test_feeds_have_the_models_batch(graph):
    feeds = calibration_feeds(graph, _data(5, labels=False))
    assert [feed["x"].shape for feed in feeds] == [(2, CLASSES)] * 3


def test_a_judge_on_fewer_samples_does_not_run_the_source_again(graph):
    runs = []

    def source(feeds):
        runs.append(1)
        return _source(feeds)

    judge = Judge(dataclasses.replace(graph, run_source=source), _data(20, labels=False))
    whole = judge.expected
    before = len(runs)
    fewer = judge.first(6)
    assert fewer.data.samples == 6
    np.testing.assert_array_equal(fewer.expected, 2.0 * fewer.data.inputs["x"])
    assert len(runs) == before
    assert {tuple(row) for row in fewer.expected} <= {tuple(row) for row in whole}


@pytest.mark.parametrize(("wrong", "enough"), [(0.0, True), (0.3, True), (0.02, False)])
def test_a_search_looks_at_more_samples_only_until_they_tell_the_drop(graph, wrong, enough):
    data = _data(1200, labels=True)
    seen = []

    def source(feeds):
        seen.append(len(feeds["x"]))
        return _source(feeds)

    drawn = np.random.default_rng(3)
    flipped = {tuple(row) for row in data.inputs["x"] if drawn.random() < wrong}

    def engine(feeds):
        sign = np.array([-1.0 if tuple(row) in flipped else 1.0 for row in feeds["x"]], np.float32)
        return {"y": 2.0 * feeds["x"] * sign[:, None]}

    judge = Judge(dataclasses.replace(graph, run_source=source), data, told=0.02)
    scores = judge.scores(engine)
    assert (scores.samples == SEARCH_SAMPLES) is enough
    assert (scores.source, scores.drop) == (1.0, pytest.approx(wrong, abs=0.05))
    assert scores.samples == 1200 or abs(scores.drop - 0.02) >= scores.error
    ran = sum(seen)
    assert ran == scores.samples
    judge.scores(engine)
    assert sum(seen) == ran, "the source ran again on what it had seen"


@pytest.mark.parametrize("samples", [9, 3000])
def test_what_is_fitted_to_does_not_judge(graph, samples):
    data = _data(samples, labels=True)
    budget, fitting = fitting_parted(graph, Budget(0.01, Judge(graph, data, 0.01), Judge(graph, data)))
    fitted = np.concatenate([feeds["x"] for feeds in fitting])
    judged = budget.search.data.inputs["x"]
    assert not {tuple(row) for row in fitted} & {tuple(row) for row in judged}
    # The last feeds are filled up to the model's batch of 2.
    assert len(np.unique(fitted, axis=0)) + len(judged) == samples
    assert len(fitted) == (4 if samples == 9 else 274)


def test_one_sample_cannot_be_fitted_to_and_judge(graph):
    data = _data(1, labels=True)
    with pytest.raises(RequestError, match="one sample cannot serve to fit"):
        fitting_parted(graph, Budget(0.01, Judge(graph, data), Judge(graph, data)))


def test_outputs_that_are_no_numbers_are_refused_without_labels_too(graph):
    budget = budget_of(graph, _data(40, labels=False), None, 0.1)

    def broken(feeds):
        return {"y": np.where(feeds["x"][:, :1] > 1.0, np.nan, 2.0 * feeds["x"])}

    with pytest.raises(NumericsError, match="mean cosine to the source drops by"):
        budget.check(budget.held_out.scores(broken))


def test_masked_logits_that_both_have_in_the_same_place_are_no_difference():
    drawn = np.random.default_rng(3).standard_normal((4, CLASSES))
    drawn[:, 0] = -np.inf
    assert mean_cosine(drawn, drawn) == pytest.approx(1.0)
    assert mean_cosine(drawn, np.roll(drawn, 1, axis=1)) == 0.0


def test_a_label_is_not_found_among_values_that_are_no_numbers(graph):
    budget = budget_of(graph, _data(40, labels=True), None, 0.1)

    def broken(feeds):
        # NaN where the label is: numpy finds the largest value there.
        y = 2.0 * feeds["x"]
        return {"y": np.where(y == y.max(axis=1, keepdims=True), np.nan, y)}

    assert budget.held_out.scores(broken).engine == 0.0


def test_outputs_that_are_infinite_all_over_in_both_agree():
    infinite = np.full((2, CLASSES), -np.inf)
    assert mean_cosine(infinite, infinite) == 1.0
    assert mean_cosine(infinite, -infinite) == 0.0
