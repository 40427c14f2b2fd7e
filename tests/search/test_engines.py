"""The search within a budget, on a target whose engines' latency and error are formulas."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgec.core.errors import JobError, NumericsError, Terminated
from edgec.core.graph import Graph, Source, TensorSpec
from edgec.core.progress import Silent
from edgec.core.timing import Latency
from edgec.judging.accuracy import EvaluationData
from edgec.judging.budget import Budget, Judge
from edgec.runtime.engine import LayerTime
from edgec.search import bench, engines
from edgec.search import field as fields
from edgec.search.axes.high_precision_layers import Group, grouped, neighbouring, nested, ranked
from edgec.search.choice import choose
from edgec.search.deadline import Deadline
from edgec.search.held_out import HeldOut
from edgec.targets.base import Candidate, Offer

WIDTH = 64
LAYERS = ("stem", "blocks.0.fc1", "blocks.0.fc2", "head")

FEEDS = {"x": np.ones((1, WIDTH), np.float32)}

EXACT = Candidate("fast", "fp32", "plain")
HALF = Candidate("fast", "bf16", "plain")
INT8 = Candidate("fast", "int8", "plain", rest="bf16", scheme="static")
SLOW = Candidate("slow", "fp32", "plain")


def _source(feeds):
    return {"y": np.tanh(feeds["x"])}


class Engine:
    """Waits, and answers with the source's outputs and an error of a size."""

    def __init__(self, milliseconds: float, error: float) -> None:
        self._seconds, self._error = milliseconds / 1e3, error

    def run(self, feeds):
        time.sleep(self._seconds)
        right = _source(feeds)["y"]
        noise = np.random.default_rng(0).standard_normal(right.shape).astype(np.float32)
        return {"y": right + self._error * noise}

    def close(self):
        pass


@dataclasses.dataclass
class Formulas:
    """A target: latency in milliseconds and error by candidate; kept layers take their share of both."""

    milliseconds: dict[Candidate, float]
    errors: dict[Candidate, float]
    harm: dict[str, float] = dataclasses.field(default_factory=lambda: dict.fromkeys(LAYERS, 0.25))
    refused: dict[Candidate, str] = dataclasses.field(default_factory=dict)
    interrupt_at: Candidate | None = None
    interrupt: type[BaseException] = KeyboardInterrupt
    built: list[Candidate] = dataclasses.field(default_factory=list)
    wholes: dict[Path, Candidate] = dataclasses.field(default_factory=dict)
    name: str = "formulas"
    runs_here: bool = True

    def candidates(self, graph, precision):
        return [EXACT]

    def lossy_candidates(self, graph, precision):
        return [Offer(candidate, self.refused.get(candidate, "")) for candidate in self.milliseconds]

    def lower(self, graph, candidate):
        return graph

    def build(self, graph, candidate, folder):
        if candidate == self.interrupt_at:
            raise self.interrupt
        self.built.append(candidate)
        whole = dataclasses.replace(candidate, kept=(), rest=candidate.rest if candidate.scheme else "")
        if whole not in self.milliseconds:
            raise JobError("no such engine")
        cost = self.milliseconds[whole] + 0.3 * len(candidate.kept)
        fields = {"milliseconds": cost, "error": self._error(whole, candidate.kept)}
        (folder / "engine.json").write_text(json.dumps(fields))
        self.wholes[folder] = whole

    def open(self, folder):
        return Engine(**json.loads((folder / "engine.json").read_text()))

    def open_keeping(self, folder, layers):
        return Engine(0.0, self._error(self.wholes[folder], layers))

    def rounded_layers(self, folder):
        return LAYERS

    def profile(self, engine, feeds):
        return []

    def _error(self, candidate, kept):
        share = 1.0 - sum(self.harm[layer] for layer in kept) if candidate.rounds else 1.0
        return self.errors.get(candidate, 0.0) * share


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    for module in (bench, fields):
        monkeypatch.setattr(module, "BLOCK_SECONDS", 0.004)


@pytest.fixture
def graph() -> Graph:
    drawn = np.random.default_rng(1).standard_normal((2, 1, WIDTH)).astype(np.float32)
    model = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 23}), ir_version=10)
    examples = [{"x": row} for row in drawn]
    references = [_source(feeds) for feeds in examples]
    specs = (TensorSpec("x", (1, WIDTH), "float32"),)
    return Graph(model, Source("m", "onnx", "m", "0"), specs, examples, references, run_source=_source)


@pytest.fixture
def budget(graph) -> Budget:
    drawn = np.random.default_rng(2).standard_normal((20, WIDTH)).astype(np.float32)
    judge = Judge(graph, EvaluationData("drawn", {"x": drawn}, None))
    return Budget(0.01, judge, judge)


def _search(target, graph, budget, tmp_path, precision="auto", seconds=60.0):
    held_out = HeldOut(budget, target, Silent(), is_gated=True)
    return choose(target, graph, precision, tmp_path, Silent(), budget, held_out, Deadline(seconds))


def _why(choice, candidate):
    return next(trial.why for trial in choice.trials if trial.candidate == candidate)


def test_the_fastest_within_the_budget_wins(graph, budget, tmp_path):
    target = Formulas({EXACT: 6.0, HALF: 4.0, INT8: 2.0}, {HALF: 1e-3, INT8: 0.02})
    choice = _search(target, graph, budget, tmp_path)
    assert choice.chosen.candidate == INT8
    assert choice.chosen.scores.drop < 0.01
    assert {trial.folder.exists() for trial in choice.trials if trial is not choice.chosen} == {False}
    assert choice.search["stopped"] is None
    assert [entry["role"] for entry in choice.entries()].count("chosen") == 1


def test_what_is_slower_than_the_best_is_not_scored(graph, budget, tmp_path):
    target = Formulas({EXACT: 2.0, HALF: 5.0}, {HALF: 1e-3})
    choice = _search(target, graph, budget, tmp_path)
    assert choice.chosen.candidate == EXACT
    assert "times the latency of the fastest so far" in _why(choice, HALF)
    assert next(trial.scores for trial in choice.trials if trial.candidate == HALF) is None


def test_layers_that_break_the_budget_stay_unquantised(graph, budget, tmp_path):
    harm = {"stem": 0.02, "blocks.0.fc1": 0.02, "blocks.0.fc2": 0.95, "head": 0.01}
    target = Formulas({EXACT: 6.0, INT8: 2.0}, {INT8: 0.6}, harm)
    choice = _search(target, graph, budget, tmp_path)
    assert choice.chosen.candidate.kept == ("blocks.0.fc2",)
    assert choice.search["sensitivity"][0]["layers"] == ["blocks.0.fc2"]
    assert "more than 1.00%" in _why(choice, INT8)
    assert "1 layer kept" in choice.chosen.candidate.name


def test_layers_that_break_the_budget_in_bf16_stay_in_fp32(graph, budget, tmp_path):
    harm = {"stem": 0.003, "blocks.0.fc1": 0.99, "blocks.0.fc2": 0.004, "head": 0.003}
    # Beyond the budget and within bf16's gate; then beyond the gate too.
    for error, why in ((0.05, "more than 0.20%"), (1.0, "failed its gate")):
        folder = tmp_path / str(error)
        folder.mkdir()
        target = Formulas({EXACT: 6.0, HALF: 2.0}, {HALF: error}, harm)
        choice = _search(target, graph, dataclasses.replace(budget, max_drop=0.002), folder)
        assert choice.chosen.candidate == HALF.keeping(("blocks.0.fc1",))
        assert choice.chosen.candidate.name == "fast bf16+fp32 (plain, 1 layer kept)"
        assert choice.chosen.passed
        assert why in _why(choice, HALF)
        assert {entry["of"] for entry in choice.search["sensitivity"]} == {HALF.name}


def test_int8_beside_bf16_is_not_mended_where_bf16_breaks_the_budget_itself(graph, budget, tmp_path):
    target = Formulas({EXACT: 6.0, HALF: 4.0, INT8: 2.0}, {HALF: 2.0, INT8: 2.0})
    choice = _search(target, graph, budget, tmp_path)
    assert sorted(choice.chosen.candidate.kept) == sorted(LAYERS)
    assert choice.chosen.candidate.precision == "bf16"
    assert "to keep layers in bf16 is no help" in _why(choice, INT8)


def test_where_keeping_layers_of_the_fastest_is_no_help_the_next_is_mended(graph, budget, tmp_path):
    class Stubborn(Formulas):
        def _error(self, candidate, kept):
            return super()._error(candidate, () if candidate.precision == "int8" else kept)

    other = dataclasses.replace(INT8, rest="fp32")
    target = Stubborn({EXACT: 6.0, HALF: 3.0, other: 2.0}, {HALF: 2.0, other: 2.0})
    choice = _search(target, graph, budget, tmp_path)
    assert sorted(choice.chosen.candidate.kept) == sorted(LAYERS)
    assert choice.chosen.candidate.precision == "bf16"
    assert {entry["of"] for entry in choice.search["sensitivity"]} == {HALF.name, other.name}


def test_what_cannot_be_ranked_is_said_and_the_best_so_far_ships(graph, budget, tmp_path):
    class Refusing(Formulas):
        def open_keeping(self, folder, layers):
            raise JobError("openvino does not keep head")

    target = Refusing({EXACT: 6.0, HALF: 2.0}, {HALF: 2.0})
    choice = _search(target, graph, budget, tmp_path)
    assert choice.chosen.candidate == EXACT
    assert "its layers could not be ranked: openvino does not keep head" in _why(choice, HALF)


def test_what_is_slower_than_an_engine_within_the_budget_is_not_mended(graph, budget, tmp_path):
    target = Formulas({EXACT: 6.0, HALF: 4.0, INT8: 2.0}, {HALF: 2.0, INT8: 1e-3})
    choice = _search(target, graph, budget, tmp_path)
    assert choice.chosen.candidate == INT8
    assert choice.search["sensitivity"] == []
    assert "a faster engine keeps the budget" in _why(choice, HALF)


def test_int8_beside_bf16_is_mended_where_another_form_in_bf16_keeps_the_budget(graph, budget, tmp_path):
    other = dataclasses.replace(HALF, form="other")
    times = {EXACT: 6.0, other.exact: 5.9, HALF: 4.1, other: 4.0, INT8: 2.0}
    target = Formulas(times, {HALF: 2.0, INT8: 2.0})
    choice = _search(target, graph, budget, tmp_path)
    assert choice.chosen.candidate.precision == "int8"
    assert sorted(choice.chosen.candidate.kept) == sorted(LAYERS)


def test_a_network_that_gives_no_numbers_is_mended_by_the_layer_that_spoils_it(budget, tmp_path):
    class Overflowing(Formulas):
        def open_keeping(self, folder, layers):
            return Engine(0.0, 0.1 if "head" in layers else np.nan)

    target = Overflowing({HALF: 1.0}, {})
    target.build(None, HALF, tmp_path)
    groups = ranked(target, tmp_path, budget.search, FEEDS, Silent(), 60.0)
    assert groups[0].layers == ("head",)
    assert groups[0].relief > 0.9
    assert {group.relief for group in groups[1:]} == {0.0}


def test_a_form_that_fails_in_fp32_is_not_quantised(graph, budget, tmp_path):
    wrong = Candidate("fast", "int8", "wrong", rest="bf16", scheme="static")
    target = Formulas({EXACT: 4.0, wrong.exact: 2.0, wrong: 1.0}, {wrong.exact: 0.1})
    choice = _search(target, graph, budget, tmp_path)
    assert choice.chosen.candidate == EXACT
    assert wrong not in target.built
    assert "its gate" in _why(choice, wrong.exact)
    assert _why(choice, wrong).startswith("its form fails the fp32 gate")


def test_what_the_machine_lacks_is_named_and_not_built(graph, budget, tmp_path):
    target = Formulas({EXACT: 4.0, INT8: 1.0}, {}, refused={INT8: "int8 needs avx512_vnni"})
    choice = _search(target, graph, budget, tmp_path)
    assert INT8 not in target.built
    assert _why(choice, INT8) == "skipped: int8 needs avx512_vnni"


def test_an_interrupt_keeps_the_best_so_far(graph, budget, tmp_path):
    target = Formulas({EXACT: 4.0, HALF: 2.0, INT8: 1.0}, {}, interrupt_at=INT8)
    choice = _search(target, graph, budget, tmp_path)
    assert choice.chosen.candidate == HALF
    assert choice.search["stopped"].startswith("interrupted")
    assert choice.chosen.latency is not None
    assert _why(choice, INT8) == "not finished"


def test_an_interrupt_before_anything_passed_is_the_callers(graph, budget, tmp_path):
    target = Formulas({EXACT: 4.0}, {}, interrupt_at=EXACT)
    with pytest.raises(KeyboardInterrupt):
        _search(target, graph, budget, tmp_path)


def test_a_polite_kill_ends_the_search_whatever_has_passed(graph, budget, tmp_path):
    target = Formulas({EXACT: 4.0, INT8: 1.0}, {}, interrupt_at=INT8, interrupt=Terminated)
    with pytest.raises(Terminated):
        _search(target, graph, budget, tmp_path)


def test_the_time_is_kept_and_the_rest_named(graph, budget, tmp_path):
    target = Formulas({EXACT: 4.0, HALF: 2.0, INT8: 1.0}, {})
    choice = _search(target, graph, budget, tmp_path, seconds=0.0)
    assert choice.chosen.candidate == EXACT
    assert _why(choice, INT8) == "not tried: the search's time was over"
    assert "0 s were over" in choice.search["stopped"]


def test_what_a_user_would_have_run_is_tried_however_short_the_search_is(graph, budget, tmp_path):
    target = Formulas({EXACT: 4.0, HALF: 2.0, dataclasses.replace(INT8, plain=True): 1.0}, {})
    choice = _search(target, graph, budget, tmp_path, seconds=0.0)
    assert choice.chosen.candidate == INT8
    assert HALF not in target.built


def test_what_was_timed_on_a_busy_machine_is_measured_again_before_it_is_dropped(
    graph, budget, tmp_path, monkeypatch
):
    """The faster engine seems to be the slower one, and the machine is known to be busy then."""

    def measure(calls, patience, **_):
        patience.kept += 3
        return {name: Latency(((1.2 if name == "it" else 1.0),) * 3, (1.0,), disturbed=3) for name in calls}

    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(bench, "undisturbed", lambda latency: latency.p50)
    progress = Silent()
    target = Formulas({EXACT: 6.0, INT8: 1.5}, {})
    held_out = HeldOut(budget, target, progress, is_gated=True)
    choice = choose(target, graph, "auto", tmp_path, progress, budget, held_out, Deadline(60.0))
    assert choice.chosen.candidate == INT8
    assert choice.search["disturbed"] == 6
    assert progress.notes[-1].startswith("the machine was busy with something else")


def test_int8_alone_takes_no_other_and_says_what_each_lost(graph, budget, tmp_path):
    target = Formulas({EXACT: 1.0, INT8: 3.0}, {INT8: 0.01})
    assert _search(target, graph, budget, tmp_path, "int8").chosen.candidate == INT8
    hopeless = Formulas({EXACT: 1.0, INT8: 3.0}, {INT8: 5.0}, dict.fromkeys(LAYERS, 0.0))
    (tmp_path / "again").mkdir()
    with pytest.raises(NumericsError, match=r"no engine keeps the budget of 1.00%.*drops by") as caught:
        _search(hopeless, graph, budget, tmp_path / "again", "int8")
    assert caught.value.exit_status == 1


def test_a_slower_engine_is_tried_too(graph, budget, tmp_path):
    target = Formulas({EXACT: 5.0, SLOW: 2.0}, {})
    assert _search(target, graph, budget, tmp_path).chosen.candidate == SLOW


def test_layers_are_grouped_by_the_beginning_of_their_names():
    layers = [f"blocks.{block}.{part}" for block in range(12) for part in ("qkv", "fc1", "fc2")]
    groups = neighbouring(["stem", *layers, "head"], most=14)
    assert len(groups) == 14
    assert groups[1] == ("blocks.0.qkv", "blocks.0.fc1", "blocks.0.fc2")
    apart = neighbouring([f"layer{index}" for index in range(50)], most=10)
    assert len(apart) <= 10
    assert sum(map(len, apart)) == 50
    flat = neighbouring([f"blocks.{index}" for index in range(40)], most=24)
    assert len(flat) == 20
    assert flat[0] == ("blocks.0", "blocks.1")


def test_layers_are_grouped_with_their_like_in_other_blocks_too():
    layers = [f"blocks.{block}{part}" for block in range(6) for part in ("", ".qkv", ".fc1", ".fc2")]
    groups = grouped(["stem", *layers, "head"], most=24)
    assert tuple(f"blocks.{block}" for block in range(6)) in groups
    assert tuple(f"blocks.{block}.fc2" for block in range(6)) in groups
    assert tuple(f"blocks.{block}.fc1" for block in range(6)) in groups
    assert any("stem" in group and len(group) < 3 for group in groups)
    assert len(groups) <= 24
    few = grouped(["stem", *layers, "head"], most=7)
    assert len(few) <= 7
    assert {layer for group in few for layer in group} == {"stem", "head", *layers}


def test_what_is_kept_grows_by_new_layers_only_and_by_none_that_do_harm():
    groups = [
        Group(("a", "b"), 0.4),
        Group(("b",), 0.3),
        Group(("b", "c"), 0.2),
        Group(("d",), -0.1),
        Group(("e",), 0.1),
    ]
    steps = nested(groups)
    assert [step.layers for step in steps] == [("a", "b"), ("a", "b", "c"), ("a", "b", "c", "e")]
    assert [step.relief for step in steps] == pytest.approx([0.4, 0.5, 0.6])


def test_layers_that_cost_time_are_kept_after_cheap_ones_of_the_same_relief(budget, tmp_path):
    class Timed(Formulas):
        def profile(self, engine, feeds):
            cost = {"stem": 40.0, "blocks.0.fc1": 30.0, "blocks.0.fc2": 20.0, "head": 10.0}
            return [LayerTime(layer, layer, "MatMul", time) for layer, time in cost.items()]

    target = Timed({HALF: 1.0}, {HALF: 0.3})
    target.build(None, HALF, tmp_path)
    groups = ranked(target, tmp_path, budget.search, FEEDS, Silent(), 60.0)
    assert [group.layers[0] for group in groups] == ["head", "blocks.0.fc2", "blocks.0.fc1", "stem"]
    assert [group.share for group in groups] == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_as_few_layers_are_kept_as_the_budget_needs(graph, budget, tmp_path):
    layers = tuple(f"layer{index}" for index in range(32))

    class Many(Formulas):
        def rounded_layers(self, folder):
            return layers

    # Errors add up in squares: the drop is a quarter of the whole at half of the layers.
    target = Many({EXACT: 20.0, INT8: 2.0}, {INT8: 0.4}, dict.fromkeys(layers, 1 / 32))
    choice = _search(target, graph, dataclasses.replace(budget, max_drop=0.05), tmp_path)
    drop = next(trial.scores.drop for trial in choice.trials if trial.candidate == INT8)
    needed = next(kept for kept in range(33) if drop * (1 - kept / 32) ** 2 < 0.05)
    assert needed <= len(choice.chosen.candidate.kept) <= needed + 4


def test_another_form_is_not_tried_where_the_same_quantisation_broke_the_budget(graph, budget, tmp_path):
    other = Candidate("fast", "int8", "other", rest="bf16", scheme="static")
    target = Formulas({EXACT: 6.0, INT8: 2.0, other.exact: 6.0, other: 2.0}, {INT8: 5.0, other: 5.0})
    choice = _search(target, graph, budget, tmp_path)
    assert other not in target.built
    assert "the same quantisation loses" in _why(choice, other)


def test_a_quantisation_that_gained_nothing_in_one_form_is_not_tried_in_another(graph, budget, tmp_path):
    other = Candidate("fast", "int8", "other", rest="bf16", scheme="static")
    target = Formulas({EXACT: 3.0, other.exact: 3.1, INT8: 6.0, other: 6.2}, {})
    choice = _search(target, graph, budget, tmp_path)
    assert choice.chosen.candidate == EXACT
    assert INT8 in target.built
    assert other not in target.built
    assert "what fp32 takes in another form" in _why(choice, other)


def test_an_engine_far_behind_in_fp32_gets_no_second_form(graph, budget, tmp_path):
    second, faster = Candidate("slow", "fp32", "other"), Candidate("fast", "fp32", "other")
    below = Candidate("slow", "int8", "other", rest="fp32", scheme="static")
    target = Formulas({EXACT: 2.0, SLOW: 6.0, second: 1.0, faster: 1.8, below: 0.5}, {})
    choice = _search(target, graph, budget, tmp_path)
    assert choice.chosen.candidate == faster
    assert not {second, below} & set(target.built)
    assert "another form of the engine takes" in _why(choice, second)
    assert "its form was not tried in fp32" in _why(choice, below)


def test_forms_are_compared_in_one_scheme_and_not_across_schemes(graph, budget, tmp_path):
    def int8(form: str, scheme: str) -> Candidate:
        return Candidate("fast", "int8", form, rest="bf16", scheme=scheme)

    other = Candidate("fast", "fp32", "other")
    # The other form is the faster one in either scheme, but slower in the first than this form in the second.
    times = {
        EXACT: 6.0,
        other: 5.9,
        int8("plain", "first"): 5.0,
        int8("other", "first"): 4.9,
        int8("plain", "second"): 4.0,
        int8("other", "second"): 3.0,
    }
    choice = _search(Formulas(times, {}), graph, budget, tmp_path)
    assert choice.chosen.candidate == int8("other", "second")


def test_time_that_is_left_for_keeping_layers_is_not_kept_from_bf16(graph, budget, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "MIXING", 2.0)
    stuck = dict.fromkeys(LAYERS, 0.0)
    target = Formulas({EXACT: 4.0, INT8: 1.0, HALF: 2.0}, {INT8: 5.0}, stuck)
    assert _search(target, graph, budget, tmp_path).chosen.candidate == HALF


def test_layers_are_ranked_in_larger_groups_where_time_is_short(budget, tmp_path, monkeypatch):
    target = Formulas({INT8: 2.0}, {INT8: 0.1})
    target.build(None, INT8, tmp_path)
    layers = tuple(f"blocks.{index}" for index in range(40))
    monkeypatch.setattr(target, "rounded_layers", lambda folder: layers)
    opened = []

    def slow(folder, kept):
        opened.append(kept)
        time.sleep(0.03)
        return Engine(0.0, 0.1)

    monkeypatch.setattr(target, "open_keeping", slow)
    few = ranked(target, tmp_path, budget.search, FEEDS, Silent(), 0.05)
    assert len(opened) - 1 < 10
    assert all(group.layers for group in few)
    opened.clear()
    many = ranked(target, tmp_path, budget.search, FEEDS, Silent(), 60.0)
    assert {layer for group in many for layer in group.layers} == set(layers)
    assert len(many) > len(few)
