"""A plan in the compiler's hands: its text, its references, its gates, and what long inputs lose."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent / "passes" / "tokens"))
from encoders import CHANNELS, Encoder, run

from edgec.accuracy import EvaluationData
from edgec.core.errors import RequestError
from edgec.core.evaluation import Evaluator
from edgec.core.graph import Graph, Source, TensorSpec
from edgec.core.numerics import GATES, Difference, compare
from edgec.passes.tokens.schedule import Schedule
from edgec.token_auto import sample_losses
from edgec.token_methods import METHODS, Plan, check_words, read_plan
from edgec.token_padding import filled, typical_first
from edgec.token_reduction import apply, coarse_gates, describe, sites_of, with_references
from edgec.verification import check


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
    sites, log = sites_of(graph)
    reduced = with_references(apply(graph, read_plan("0:6+1:3", sites)))
    assert reduced.reports[0].matched == 2
    own = check(
        reduced.graph, lambda feeds: {"result": run(reduced.graph.model, feeds)}, stage="", precision="fp32"
    )
    assert own.passed
    assert compare(graph.references, reduced.graph.references).scaled > GATES["fp32"].scaled
    fields = describe(graph, reduced, sites, log, asked="0:6+1:3")
    assert (fields["before"], fields["after"]) == (17, 8)
    assert [(site["r"], site["before"], site["after"]) for site in fields["sites"]][:2] == [
        (6, 17, 11),
        (3, 11, 8),
    ]
    assert fields["work"] < 1.0


def test_a_plan_that_takes_nothing_leaves_the_graph_as_it_is(graph: Graph) -> None:
    reduced = with_references(apply(graph, Plan(METHODS["merge"], Schedule({}))))
    assert compare(graph.references, reduced.graph.references).scaled <= GATES["fp32"].scaled
    assert sites_of(graph)[0] == sites_of(graph)[0]


def test_coarse_gates_allow_what_reduction_itself_moved_and_fp32_allows_no_more(graph: Graph) -> None:
    near = coarse_gates(Difference(output="y"))["bf16"]
    assert dataclasses.replace(near, why=GATES["bf16"].why) == GATES["bf16"]
    far = coarse_gates(Difference(scaled=0.3, rms=0.1, slice_rms=0.5, unequal=0.02, output="y"))["bf16"]
    assert far.scaled == pytest.approx(GATES["bf16"].scaled + 0.6)
    assert far.rms == pytest.approx(GATES["bf16"].rms + 0.2)
    assert far.slice_rms == pytest.approx(GATES["bf16"].slice_rms + 1.0)
    assert far.unequal == pytest.approx(GATES["bf16"].unequal + 0.04)
    reduced = with_references(apply(graph, read_plan("r=4", sites_of(graph)[0])))
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
    sites, _ = sites_of(graph)
    reduced = with_references(apply(graph, read_plan("0:5", sites)))
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
