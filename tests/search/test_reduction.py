"""A plan in the compiler's hands: its text, its references, its gates, and what long inputs lose."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent / "passes" / "tokens"))
from encoders import CHANNELS, Encoder, run

from edgec.core.errors import NumericsError, RequestError
from edgec.core.evaluation import Evaluator
from edgec.core.graph import Graph, Source, TensorSpec
from edgec.core.numerics import GATES, Difference, compare
from edgec.core.progress import Silent
from edgec.core.timing import Latency
from edgec.judging.accuracy import EvaluationData, mean_cosine, sample_losses
from edgec.judging.budget import Budget, Judge
from edgec.judging.gates import check
from edgec.judging.padding import filled, typical_first
from edgec.passes.inspection import inspect_model
from edgec.passes.tokens.schedule import Schedule
from edgec.search import bench, reduction
from edgec.search import deadline as deadlines
from edgec.search.axes.token_methods import METHODS, TokenPlan, check_words, read_plan
from edgec.search.axes.tokens import Tokens, sites_of
from edgec.search.deadline import SECONDS, Deadline
from edgec.search.goal import Goal
from edgec.search.held_out import HeldOut
from edgec.search.plan import Plan
from edgec.search.plans import apply, coarse_gates, with_references
from edgec.search.reduction import reduce_as_named, reduce_by_search
from edgec.search.shipping import Choose, Lossy, Reduction
from edgec.search.trials import Choice, Trial
from edgec.targets.base import Candidate


def _graph(encoder: Encoder) -> Graph:
    model = encoder.model()
    inputs = tuple(
        TensorSpec(value.name or "", tuple(value.shape or ()), "float32")  # type: ignore[arg-type]
        for value in model.graph.inputs
        if value.name in ("patches", "mask")
    )
    examples = [encoder.feeds(seed) for seed in range(3)]
    references = [{"result": run(model, feeds)} for feeds in examples]
    return Graph(model, Source("e.onnx", "onnx", "e", "0"), inputs, examples, references)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return _graph(Encoder(patches=16, blocks=3))


def _reduced(graph: Graph, text: str):
    axis = Tokens(graph, Silent())
    return with_references(graph, apply(graph, [axis], Plan.of(tokens=axis.read(text))))


@pytest.mark.parametrize("method", METHODS)
def test_a_plan_reads_back_from_its_name(graph: Graph, method: str) -> None:
    sites, _ = sites_of(graph)
    for text in (f"{method}:r=3", f"{method}:keep=0.7", f"{method}:0:4+1:2"):
        plan = read_plan(text, sites)
        assert plan.method.name == method
        assert read_plan(plan.name, sites) == plan
    assert read_plan("none", sites).name == "none"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("r=9", "at most half at a time"),
        ("prune:r=16", "cannot all leave"),
        ("0:4+7:2", "choose layers from 0 to"),
        ("1:9", "choose at most 8"),
        ("keep=1.5", "no fraction"),
        ("squash:r=3", "choose from merge"),
    ],
)
def test_a_plan_that_the_graph_cannot_do_says_what_it_can(graph: Graph, text: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        read_plan(text, sites_of(graph)[0])


@given(st.text(max_size=12))
def test_any_words_are_a_plan_or_refused_and_nothing_else_happens(text: str) -> None:
    with contextlib.suppress(RequestError):
        check_words(text)


def test_the_reduced_graph_is_its_own_reference_and_not_the_sources(graph: Graph) -> None:
    axis = Tokens(graph, Silent())
    plan = Plan.of(tokens=axis.read("0:6+1:3"))
    reduced = with_references(graph, apply(graph, [axis], plan))
    assert reduced.reports[0].matched == 2
    own = check(
        reduced.graph, lambda feeds: {"result": run(reduced.graph.model, feeds)}, stage="", precision="fp32"
    )
    assert own.passed
    assert compare(graph.references, reduced.graph.references).scaled > GATES["fp32"].scaled
    fields = axis.describe(plan.on("tokens"), work=0.5)
    assert (fields["before"], fields["after"]) == (17, 8)
    assert [(site["r"], site["before"], site["after"]) for site in fields["sites"]][:2] == [
        (6, 17, 11),
        (3, 11, 8),
    ]
    assert fields["name"] == "0:6+1:3"


def test_a_plan_that_takes_nothing_leaves_the_graph_as_it_is(graph: Graph) -> None:
    axis = Tokens(graph, Silent())
    assert not Plan.of(tokens=TokenPlan(METHODS["merge"], Schedule({})))
    reduced, _ = axis.apply(graph, TokenPlan(METHODS["merge"], Schedule({})))
    found = [{"result": run(reduced.model, feeds)} for feeds in reduced.examples]
    assert compare(graph.references, found).scaled <= GATES["fp32"].scaled
    assert sites_of(graph)[0] == sites_of(graph)[0]


def test_coarse_gates_allow_what_reduction_itself_moved_and_fp32_allows_no_more(graph: Graph) -> None:
    near = coarse_gates(Difference(output="y"))["bf16"]
    assert dataclasses.replace(near, why=GATES["bf16"].why) == GATES["bf16"]
    far = coarse_gates(Difference(scaled=0.3, rms=0.1, slice_rms=0.5, unequal=0.02, output="y"))["bf16"]
    assert far.scaled == pytest.approx(GATES["bf16"].scaled + 0.6)
    assert far.rms == pytest.approx(GATES["bf16"].rms + 0.2)
    assert far.slice_rms == pytest.approx(GATES["bf16"].slice_rms + 1.0)
    assert far.unequal == pytest.approx(GATES["bf16"].unequal + 0.04)
    reduced = _reduced(graph, "r=4")
    assert "fp32" not in reduced.graph.gates

    def off(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"result": run(reduced.graph.model, dict(feeds)) + np.float32(0.01)}

    assert not check(reduced.graph, off, stage="", precision="fp32").passed
    assert check(reduced.graph, off, stage="", precision="bf16").passed


def test_losses_are_signed_and_of_each_sample() -> None:
    expected = np.eye(4, dtype=np.float32)
    found = expected.copy()
    found[0] = [0, 1, 0, 0]
    labelled = EvaluationData("d", {"x": expected}, np.array([0, 1, 2, 0]))
    found[3] = [1, 0, 0, 0]
    assert sample_losses(labelled, expected, found).tolist() == [1.0, 0.0, 0.0, -1.0]
    assert sample_losses(EvaluationData("d", {"x": expected}, None), expected, found).tolist() == [1, 0, 0, 1]


def test_what_both_have_at_infinity_costs_a_sample_nothing() -> None:
    expected = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    expected[:, 4:] = -np.inf  # masked logits, in every sample
    expected[4] = -np.inf
    found = expected.copy()
    found[1, :4] *= -1
    found[2, 4] = 0.0
    found[3, 0] = np.nan
    drawn = {"x": np.zeros((5, 1), np.float32)}
    unlabelled = EvaluationData("d", drawn, None)
    losses = sample_losses(unlabelled, expected, found)
    # The same, the opposite, finite where the source is infinite, NaN, and infinite all over in both.
    assert losses.tolist() == pytest.approx([0.0, 2.0, 1.0, 1.0, 0.0])
    assert losses.mean() == pytest.approx(1.0 - mean_cosine(expected, found))
    labels = expected.argmax(axis=1)
    labelled = EvaluationData("d", drawn, labels)
    assert sample_losses(labelled, expected, expected).tolist() == [0.0] * 5
    assert sample_losses(labelled, expected, found).tolist()[2:] == [1.0, 1.0, 0.0]


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.integers(9, 14),
)
def test_filled_inputs_have_no_padding_and_real_tokens_only(lengths: list[int], of: int) -> None:
    samples = len(lengths)
    real = np.arange(of)[None] < np.array(lengths)[:, None]
    ids = np.where(real, np.arange(1, samples * of + 1).reshape(samples, of), 0)
    made = filled({"ids": ids, "mask": real.astype(np.int64), "other": np.arange(samples)}, real)
    assert made["ids"].shape == made["mask"].shape == (samples, of)
    assert (made["mask"] == 1).all()
    assert (made["ids"] != 0).all()
    assert [row[0] for row in made["ids"]] == [row[0] for row in ids]
    assert (made["other"] == np.arange(samples)).all()


def test_bodies_are_what_a_reduced_graph_means(graph: Graph) -> None:
    encoder = Encoder(patches=16, blocks=3)
    reduced = _reduced(graph, "0:5")
    for feeds, reference in zip(reduced.graph.examples, reduced.graph.references, strict=True):
        expected = encoder.with_tome(feeds["patches"], {0: 5})
        np.testing.assert_allclose(reference["result"], expected, rtol=1e-4, atol=1e-4)
    assert reference["result"].shape == (1, CHANNELS)
    with Evaluator(graph.model) as evaluator:
        source = evaluator.run(graph.examples[0])["result"]
    assert np.abs(source - reduced.graph.references[0]["result"]).max() > 1e-3


def test_latencies_are_taken_on_an_input_of_the_datas_median_length() -> None:
    encoder = Encoder(patches=16, learned=0, masked=True, head="mean")
    graph = _graph(encoder)
    masked = dataclasses.replace(graph.inputs[1], semantics="mask")
    graph = dataclasses.replace(graph, inputs=(graph.inputs[0], masked))
    graph.run_source = lambda feeds: {"result": run(graph.model, dict(feeds))}
    feeds = [encoder.feeds(seed, padding=padding) for seed, padding in enumerate((15, 12, 9, 3, 1))]
    data = EvaluationData(
        "d", {name: np.concatenate([each[name] for each in feeds]) for name in feeds[0]}, None
    )
    first = typical_first(graph, data)
    np.testing.assert_array_equal(first.examples[0]["patches"], feeds[2]["patches"])
    assert len(first.references) == len(first.examples) == 4
    assert typical_first(dataclasses.replace(graph, inputs=graph.inputs[:1]), data).examples == graph.examples


EXACT = Candidate("formula", "fp32", "plain")


class Answering:
    """An engine that answers what the source does and an error, and says how long it takes."""

    def __init__(self, source: Callable, milliseconds: float, error: float) -> None:
        self.source, self.milliseconds, self.error = source, milliseconds, error

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        result = self.source(feeds)["result"]
        noise = np.random.default_rng(0).standard_normal(result.shape).astype(np.float32)
        return {"result": result + np.float32(self.error) * noise}

    def close(self) -> None:
        pass


@dataclasses.dataclass
class ByWork:
    """A target whose engines take a millisecond for a thousand multiply-accumulates, as the search sees it.

    Attributes:
        source: what its engines compute, beside an error.
        whole: multiply-accumulates of the unreduced network.
        error: of an engine without any work left; others have it in proportion to what they leave out.
        last: what the last measurements say of the reduced engine's time over the unreduced one's, in turn;
            the last of them from then on.
    """

    source: Callable
    whole: int
    error: float = 0.05
    last: list[float] = dataclasses.field(default_factory=list)
    runs_here: bool = True

    def candidates(self, graph: Graph, precision: str) -> list[Candidate]:
        return [EXACT]

    def lower(self, graph: Graph, candidate: Candidate) -> Graph:
        return graph

    def build(self, graph: Graph, candidate: Candidate, folder: Path) -> None:
        macs = inspect_model(graph.model).macs
        fields = {"milliseconds": macs / 1e3, "error": self.error * (1 - macs / self.whole)}
        (folder / "engine.json").write_text(json.dumps(fields))

    def open(self, folder: Path) -> Answering:
        return Answering(self.source, **json.loads((folder / "engine.json").read_text()))

    def choose(self, held_out: HeldOut) -> Choose:
        def choose_engine(graph: Graph, folder: Path, deadline: Deadline, whole: Choice | None) -> Choice:
            trial = Trial(EXACT, folder / "engine")
            trial.folder.mkdir()
            self.build(graph, EXACT, trial.folder)
            return Choice(held_out.first([trial]), [trial], {}, None)

        return choose_engine

    def measure(self, calls: Mapping[str, functools.partial], **options: object) -> dict[str, Latency]:
        if "blocks" not in options:
            return self.measure_last()
        times = {name: call.func.__self__.milliseconds for name, call in calls.items()}
        return {name: Latency((ms,) * 5, (ms,) * 5) for name, ms in times.items()}

    def measure_last(self) -> dict[str, Latency]:
        ratio = self.last.pop(0) if len(self.last) > 1 else self.last[0]
        return {name: Latency((ms,) * 5, (ms,) * 5) for name, ms in (("other", 4.0), ("it", 4.0 * ratio))}


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def by_work(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> Iterator[ByWork]:
    with Evaluator(graph.model) as evaluator:
        target = ByWork(evaluator.run, inspect_model(graph.model).macs)
        monkeypatch.setattr(bench, "measure", target.measure)
        yield target


def _searched(
    target: ByWork,
    graph: Graph,
    scratch: Path,
    notes: Notes,
    budget: Budget | None = None,
) -> Reduction:
    graph = dataclasses.replace(graph, run_source=target.source)
    drawn = np.concatenate([example["patches"] for example in graph.examples])
    judge = Judge(graph, EvaluationData("drawn", {"patches": drawn}, None))
    budget, goal = budget or Budget(0.01, judge, judge), Goal(max_drop=0.01)
    whole = target.choose(HeldOut(None, target, notes, is_gated=False))  # type: ignore[arg-type]
    held_out = HeldOut(budget, target, notes, is_gated=True)  # type: ignore[arg-type]
    judged = target.choose(held_out)
    return reduce_by_search(
        graph,
        [Tokens(graph, notes)],
        {"tokens": "auto"},
        goal,
        target,  # type: ignore[arg-type]
        judged,
        whole,
        held_out.holds,
        budget,
        scratch,
        notes,
        Deadline(),
    )


def test_what_is_measured_to_be_slower_last_does_not_ship_and_the_next_best_does(
    graph: Graph, by_work: ByWork, tmp_path: Path
) -> None:
    by_work.last, notes = [1.5, 1.0, 0.5], Notes()
    found = _searched(by_work, graph, tmp_path, notes)
    report = found.sections["tokens"]
    looks = report["held_out"]["looks"]
    assert [(look["ratio"], look["kept"]) for look in looks] == [(1.5, False), (1.0, False), (0.5, True)]
    # Best first, as the search saw them.
    assert [look["name"] for look in looks] == [point["name"] for point in report["frontier"][:3]]
    assert report["name"] == found.reduced.plan.name == looks[2]["name"] != "none"
    assert [point["name"] for point in report["frontier"] if point["chosen"]] == [report["name"]]
    assert report["baseline"]["ratio"] == 0.5
    for look in looks[:2]:
        assert any(f"{look['name']} is no faster: {look['ratio']:.2f}" in note for note in notes.notes)
    shipped = by_work.open(found.choice.chosen.folder).milliseconds
    assert shipped == inspect_model(found.reduced.graph.model).macs / 1e3


def test_where_all_are_measured_to_be_slower_the_unreduced_engine_ships(
    graph: Graph, by_work: ByWork, tmp_path: Path
) -> None:
    by_work.last, notes = [2.0], Notes()
    report = _searched(by_work, graph, tmp_path, notes).sections["tokens"]
    *refused, shipped = report["held_out"]["looks"]
    assert [look["name"] for look in (*refused, shipped)] == [point["name"] for point in report["frontier"]]
    assert len(refused) > 1
    assert {(look["ratio"], look["kept"]) for look in refused} == {(2.0, False)}
    assert (shipped["name"], shipped["ratio"], shipped["kept"]) == ("none", None, True)
    assert (report["name"], report["before"], report["after"]) == ("none", 17, 17)
    assert report["baseline"] is None
    assert "nothing was reduced" in notes.notes[-1]
    assert by_work.open(tmp_path / "chosen").milliseconds == inspect_model(graph.model).macs / 1e3


def test_the_unreduced_engine_ships_too_where_reduction_costs_nothing(
    graph: Graph, by_work: ByWork, tmp_path: Path
) -> None:
    # As where only padding leaves: the unreduced engine is then slower in the search, and better in nothing.
    by_work.error, by_work.last = 0.0, [2.0]
    report = _searched(by_work, graph, tmp_path, Notes()).sections["tokens"]
    assert report["name"] == "none"
    assert [look["name"] for look in report["held_out"]["looks"]][-1] == "none"


def test_once_the_time_is_over_no_other_schedule_is_measured_last(
    graph: Graph, by_work: ByWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(deadlines, "time", clock)

    measure_last = by_work.measure_last

    def slowly() -> dict[str, Latency]:
        clock.now += 2 * SECONDS
        return measure_last()

    by_work.measure_last = slowly  # type: ignore[method-assign]
    by_work.last = [2.0, 0.5]
    report = _searched(by_work, graph, tmp_path, Notes()).sections["tokens"]
    looks = report["held_out"]["looks"]
    assert [(look["name"], look["kept"]) for look in looks] == [
        (report["frontier"][0]["name"], False),
        ("none", True),
    ]


def test_where_the_reduced_engine_loses_nothing_of_its_own_the_whole_ones_is_looked_at_too(
    graph: Graph, by_work: ByWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is left is not quantised after all, so the whole network's quantised engine may be faster.
    by_work.last = [0.5]
    monkeypatch.setattr(reduction, "_lossy", lambda exact, ships: Lossy(gain=0.05))
    report = _searched(by_work, graph, tmp_path, Notes()).sections["tokens"]
    assert report["held_out"]["looks"][-1]["name"] == "none"


def test_a_plan_that_no_engine_computes_is_followed_by_the_next_best(
    graph: Graph, by_work: ByWork, tmp_path: Path
) -> None:
    by_work.last, notes = [0.5], Notes()
    plain, asked = by_work.choose, []

    def choosing(held_out: HeldOut) -> Choose:
        choose_engine = plain(held_out)

        def first_fails(graph: Graph, folder: Path, deadline: Deadline, whole: Choice | None) -> Choice:
            asked.append(whole)
            if sum(each is not None for each in asked) == 1:
                (folder / "half built").touch()
                raise NumericsError("no engine computes what the source computes")
            return choose_engine(graph, folder, deadline, whole)

        return first_fails

    by_work.choose = choosing  # type: ignore[method-assign]
    found = _searched(by_work, graph, tmp_path, notes)
    failed, shipped = found.sections["tokens"]["held_out"]["looks"][:2]
    assert (failed["drop"], failed["kept"]) == (None, False)
    assert shipped["kept"]
    assert found.sections["tokens"]["name"] == shipped["name"] != "none"
    assert any("no engine computes" in note and "next best" in note for note in notes.notes)
    assert not list(tmp_path.glob("attempt-*"))


def test_a_schedule_that_was_named_ships_though_it_is_slower(
    graph: Graph, by_work: ByWork, tmp_path: Path
) -> None:
    by_work.last = [2.0]
    choose = by_work.choose(HeldOut(None, by_work, Silent(), is_gated=False))  # type: ignore[arg-type]
    axes, asked = [Tokens(graph, Silent())], {"tokens": "0:6+1:3"}
    found = reduce_as_named(graph, axes, asked, by_work, choose, tmp_path, Silent(), Deadline())  # type: ignore[arg-type]
    assert found.sections["tokens"]["name"] == "0:6+1:3"
    assert found.sections["tokens"]["baseline"]["ratio"] == 2.0
    assert found.choice.chosen.folder.exists()


def test_where_held_out_data_refuses_the_plans_the_whole_network_ships(
    graph: Graph, by_work: ByWork, tmp_path: Path
) -> None:
    by_work.last, notes = [0.5], Notes()
    graph = dataclasses.replace(graph, run_source=by_work.source)
    drawn = np.concatenate([example["patches"] for example in graph.examples])
    seen, unseen = (
        Judge(graph, EvaluationData(name, {"patches": sign * drawn}, None))
        for name, sign in (("seen", 1.0), ("unseen", -1.0))
    )
    plain_open = by_work.open

    def wrong_on_unseen(folder: Path) -> Answering:
        engine = plain_open(folder)
        if engine.error:
            right = engine.source
            engine.source = lambda feeds: (
                right(feeds)
                if (feeds["patches"] == drawn).all(axis=(1, 2)).any()
                else right({"patches": 0 * drawn[:1]})
            )
        return engine

    by_work.open = wrong_on_unseen  # type: ignore[method-assign]
    found = _searched(by_work, graph, tmp_path, notes, Budget(0.01, seen, unseen))
    report = found.sections["tokens"]
    assert report["name"] == "none"
    *refused, whole = report["held_out"]["looks"]
    assert refused
    assert all(look["drop"] > 0.01 and not look["kept"] for look in refused)
    assert (whole["name"], whole["kept"], whole["drop"]) == ("none", True, pytest.approx(0.0, abs=1e-6))
