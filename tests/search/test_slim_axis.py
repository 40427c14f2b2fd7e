"""The axis slim on a small network: what it offers, what it predicts, and what it does to a graph."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "passes" / "tokens"))
from encoders import Encoder, run

from edgec.core.errors import JobError, RequestError
from edgec.core.graph import Graph, Source, TensorSpec
from edgec.core.progress import Silent
from edgec.judging.accuracy import mean_cosine
from edgec.passes.inspection import inspect_model
from edgec.search.axes import slim as slims
from edgec.search.axes.slim import Slim, check_words
from edgec.search.axes.tokens import Tokens
from edgec.search.deadline import Deadline
from edgec.search.plan import Plan
from edgec.search.plans import apply, with_references
from edgec.search.trials import Trial
from edgec.targets.base import Candidate

BLOCKS = 3


@pytest.fixture(scope="module")
def graph() -> Graph:
    encoder = Encoder(patches=16, blocks=BLOCKS)
    model = encoder.model()
    inputs = tuple(
        TensorSpec(value.name or "", tuple(value.shape or ()), "float32")  # type: ignore[arg-type]
        for value in model.graph.inputs
    )
    examples = [encoder.feeds(seed) for seed in range(24)]
    references = [{"result": run(model, feeds)} for feeds in examples]
    return Graph(model, Source("e.onnx", "onnx", "e", "0"), inputs, examples[:3], references[:3])


@pytest.fixture(scope="module")
def fitting() -> list[dict[str, np.ndarray]]:
    encoder = Encoder(patches=16, blocks=BLOCKS)
    return [encoder.feeds(seed) for seed in range(100, 132)]


class ByWork:
    """Engines take as long as their multiply-accumulates; outputs are the graph's own."""

    target = None

    def __init__(self, graph: Graph, axis: Slim) -> None:
        self._graph, self._axis = graph, axis
        self.baseline = self.probe(Plan())

    def probe(self, plan: Plan) -> Trial:
        graph = apply(self._graph, [self._axis], plan).graph
        trial = Trial(Candidate("formula", "fp32", "plain"), Path("nowhere"), plan)
        macs = inspect_model(graph.model).macs / inspect_model(self._graph.model).macs
        trial.work = trial.ratio = trial.milliseconds = macs
        found = np.concatenate([run(graph.model, feeds) for feeds in graph.examples])
        expected = np.concatenate([each["result"] for each in self._graph.references])
        trial.degradation = 1.0 - mean_cosine(expected, found)
        return trial


@pytest.fixture(scope="module")
def probed(graph: Graph, fitting: list[dict[str, np.ndarray]]) -> tuple[Slim, ByWork]:
    axis = Slim(graph, Silent(), fitting)
    bench = ByWork(graph, axis)
    # No latency table of a formula: savings are told by work.
    patch = pytest.MonkeyPatch()
    patch.setattr(slims, "TIMING", 0.0)
    axis.probe(bench, Deadline())  # type: ignore[arg-type]
    patch.undo()
    return axis, bench


def test_predictions_are_near_what_their_networks_come_to(probed: tuple[Slim, ByWork]) -> None:
    axis, bench = probed
    predictions = axis.predictions()
    assert len({each.plan.name for each in predictions}) == len(predictions) > 5
    for each in predictions[:: max(1, len(predictions) // 5)]:
        assert each.ratio == pytest.approx(bench.probe(each.plan).ratio, abs=0.12)


def test_more_is_predicted_to_cost_more(probed: tuple[Slim, ByWork]) -> None:
    axis, _ = probed
    half, quarter = (axis._predicted(axis.read(f"mlp={share}")) for share in (0.5, 0.25))
    assert quarter.ratio < half.ratio < 1.0
    assert quarter.degradation > half.degradation > 0.0


def test_a_setting_reads_back_from_its_name_and_is_told_by_layers(probed: tuple[Slim, ByWork]) -> None:
    axis, _ = probed
    setting = axis.read("mlp=0.5")
    assert axis.read(setting.name) == setting
    told = axis.describe(setting, 0.7)
    cut = [unit for unit in told["units"] if unit["kept"] < unit["size"]]
    assert len(cut) == BLOCKS
    assert all(unit["kind"] == "mlp" and 2 * unit["kept"] == unit["size"] for unit in cut)
    assert axis.describe(None, 1.0)["name"] == "none"
    with pytest.raises(RequestError):
        axis.read("mlp:nowhere=3")


def test_slimming_and_tokens_compose_and_the_exporters_file_is_no_form_of_it(
    graph: Graph, fitting: list[dict[str, np.ndarray]]
) -> None:
    graph = dataclasses.replace(graph, exported="exported.onnx")
    axes = [Slim(graph, Silent(), fitting), Tokens(graph, Silent())]
    plan = Plan.of(slim=axes[0].read("mlp=0.5"), tokens=axes[1].read("0:4"))
    assert plan.name.startswith("slim ")
    reduced = with_references(graph, apply(graph, axes, plan))
    assert [report.name for report in reduced.reports][:2] == ["slim.cut", "tokens.merge"]
    assert reduced.graph.is_reduced
    assert not graph.is_reduced
    own = np.concatenate([each["result"] for each in reduced.graph.references])
    assert np.isfinite(own).all()
    assert own.shape == np.concatenate([each["result"] for each in graph.references]).shape


def test_a_network_that_was_healed_is_not_healed_again_for_a_combination(
    graph: Graph, fitting: list[dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    axis = Slim(graph, Silent(), fitting)
    first, reports = axis.apply(graph, axis.read("mlp=0.5"))
    monkeypatch.setattr(axis._slimmer, "apply", lambda setting: pytest.fail("healed again"))
    outputs = run(first.model, graph.examples[0])
    # What other passes do to a copy that was given out does not reach the next.
    Tokens(first, Silent()).apply(first, Tokens(first, Silent()).read("0:4"))
    first.model.graph.outputs.clear()
    again, same = axis.apply(graph, axis.read("mlp=0.5"))
    np.testing.assert_array_equal(run(again.model, graph.examples[0]), outputs)
    assert same == reports


def test_without_inputs_to_fit_to_or_units_it_is_refused(graph: Graph) -> None:
    with pytest.raises(RequestError, match="--calib"):
        Slim(graph, Silent(), [])


@pytest.mark.parametrize("text", ["mlp", "mlp=", "=3", "mlp=half", "mlp=0.5+"])
def test_words_that_are_no_plan_are_refused_before_there_is_a_graph(text: str) -> None:
    with pytest.raises(RequestError, match="KIND=SHARE"):
        check_words(text)


def test_a_probe_without_any_unit_to_narrow_is_refused(probed: tuple[Slim, ByWork]) -> None:
    axis, bench = probed
    bare = object.__new__(Slim)
    bare.__dict__ |= {**axis.__dict__, "units": [], "_scales": {}, "probes": []}
    with pytest.raises(JobError, match="leave --slim off"):
        bare.probe(bench, Deadline())  # type: ignore[arg-type]
