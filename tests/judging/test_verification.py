"""Gates on a whole graph: each sample, at the precision's bounds, or the graph's own where it has some."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from edgec.core.errors import NumericsError
from edgec.core.graph import Graph, Source, TensorSpec
from edgec.core.numerics import GATES
from edgec.judging.gates import check, observe

SAMPLES, WIDTH = 3, 64


def source(feeds):
    return {"y": np.tanh(feeds["x"])}


@pytest.fixture
def graph():
    drawn = np.random.default_rng(1).standard_normal((SAMPLES, 1, WIDTH)).astype(np.float32)
    model = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 23}), ir_version=10)
    examples = [{"x": row} for row in drawn]
    specs = (TensorSpec("x", (1, WIDTH), "float32"),)
    references = [source(feeds) for feeds in examples]
    return Graph(model, Source("m", "onnx", "m", "0"), specs, examples, references, run_source=source)


def off_by(part):
    """The source with an error of that part of the spread."""

    def run(feeds):
        right = source(feeds)["y"]
        return {"y": right + np.float32(part) * right.std() * np.sign(right)}

    return run


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_each_precision_has_its_own_bounds(graph, precision):
    gate = GATES[precision]
    # The error is the same everywhere, so that its root mean square is what breaks the gate first.
    assert check(graph, off_by(0.5 * gate.rms), stage="engine", precision=precision).passed
    assert not check(graph, off_by(2.0 * gate.rms), stage="engine", precision=precision).passed


def test_every_sample_runs_on_its_own_inputs(graph):
    seen = []
    result = check(graph, lambda feeds: seen.append(feeds) or source(feeds), stage="engine", precision="fp32")
    assert [id(feeds) for feeds in seen] == [id(feeds) for feeds in graph.examples]
    assert result.passed
    assert result.samples == SAMPLES


def of_another_shape(feeds):
    return {"y": source(feeds)["y"][0]}


def refusing(feeds):
    raise RuntimeError("\nthe kernel cannot be run\nat line 3")


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (of_another_shape, r"engine: output 'y': shape \(64,\), the source's is \(1, 64\)"),
        (lambda feeds: {}, "engine: output 'y' is missing"),
        (refusing, "engine does not run the source's samples: the kernel cannot be run$"),
    ],
)
def test_an_engine_that_gives_other_outputs_or_none_is_told_in_a_sentence(graph, run, said):
    for judge in (
        lambda: check(graph, run, stage="engine", precision="fp32"),
        lambda: observe(graph, run, stage="engine"),
    ):
        with pytest.raises(NumericsError, match=said):
            judge()


@pytest.mark.parametrize("wrong", range(SAMPLES))
def test_one_wrong_sample_of_several_is_enough(graph, wrong):
    def run(feeds):
        return off_by(0.05 if feeds is graph.examples[wrong] else 0.0)(feeds)

    assert not check(graph, run, stage="engine", precision="fp32").passed


def test_a_graph_may_have_gates_of_its_own(graph):
    wide = dataclasses.replace(GATES["fp16"], scaled=1.0, rms=1.0, slice_rms=10.0)
    own = dataclasses.replace(graph, gates={"fp16": wide})
    assert check(own, off_by(0.3), stage="engine", precision="fp16").passed
    assert not check(own, off_by(0.3), stage="engine", precision="fp32").passed


def test_what_a_lossy_engine_showed_is_its_bound_later(graph):
    first = observe(graph, off_by(0.3), stage="int8")
    assert first.passed
    later = dataclasses.replace(graph, gates={"fp32": first.gate})
    assert check(later, off_by(0.3), stage="int8", precision="fp32").passed
    assert not check(later, off_by(3.0), stage="int8", precision="fp32").passed


def test_a_lossy_engine_that_gives_no_numbers_fails(graph):
    result = observe(graph, lambda feeds: {"y": source(feeds)["y"] * np.nan}, stage="int8")
    assert not result.passed
    assert result.gate == GATES["bf16"]


def quantised(feeds):
    """A source that quantises: a tenth of the spread to a step."""
    return {"y": np.round(np.tanh(feeds["x"]) / 0.06).astype(np.float32) * np.float32(0.06)}


def in_fp16(feeds):
    """The same with fp16 in front of the quantiser: what lies near a step's edge falls on its other side."""
    half = np.tanh(feeds["x"].astype(np.float16)).astype(np.float32)
    return {"y": np.round(half / 0.06).astype(np.float32) * np.float32(0.06)}


def test_what_rounding_the_inputs_moves_in_the_source_is_not_the_engine_s_fault(graph):
    near = np.arctanh(0.06 * (np.arange(WIDTH) % 20 - 9.5)).astype(np.float32)
    examples = [{"x": row["x"].copy()} for row in graph.examples]
    for feeds in examples:
        feeds["x"][0, :20] = near[:20]
    steps = dataclasses.replace(
        graph, examples=examples, references=[quantised(feeds) for feeds in examples], run_source=quantised
    )
    result = check(steps, in_fp16, stage="engine", precision="fp16")
    assert result.passed
    assert result.rounded_inputs
    assert result.difference.scaled > GATES["fp16"].scaled
    # An engine in fp32 has no such excuse, and what is off without any flip has none either.
    assert not check(steps, in_fp16, stage="engine", precision="fp32").passed

    def wrong(feeds):
        return {"y": in_fp16(feeds)["y"][:, ::-1].copy()}

    assert not check(steps, wrong, stage="engine", precision="fp16").passed


def test_a_source_that_rounding_hardly_moves_excuses_nothing(graph):
    result = check(graph, off_by(0.06), stage="engine", precision="fp16")
    assert not result.passed
    assert not result.rounded_inputs


def dividing(feeds):
    """A source that is sensitive in its first eight numbers: it takes two apart that are nearly the same."""
    x = feeds["x"].astype(np.float64)
    y = np.tanh(x)
    y[:, :8] = np.tanh(100 * (x[:, :8] - 1.0))
    return {"y": y.astype(np.float32)}


def test_what_one_place_is_sensitive_to_hides_no_error_at_another(graph):
    examples = [{"x": row["x"].copy()} for row in graph.examples]
    for feeds in examples:
        feeds["x"][:, :8] = 1.0 + np.linspace(0, 4e-3, 8)
    references = [dividing(feeds) for feeds in examples]
    own = dataclasses.replace(graph, examples=examples, references=references, run_source=dividing)

    def off_at(places, part):
        def run(feeds):
            y = dividing(feeds)["y"]
            y[:, places] += np.float32(part) * y.std()
            return {"y": y}

        return run

    assert check(own, off_at(slice(0, 8), 0.15), stage="engine", precision="fp16").rounded_inputs
    assert not check(own, off_at(slice(40, 41), 0.15), stage="engine", precision="fp16").passed


def test_what_a_reduced_graph_decides_by_a_hair_may_fall_otherwise_in_fp32(graph):
    def reduced(feeds):
        x = feeds["x"]
        y = np.tanh(x)
        y[:, :8] += np.float32(0.02) * (x[:, 8:16] > 1.0)  # which of two, nearly the same, is kept
        return {"y": y}

    examples = [{"x": row["x"].copy()} for row in graph.examples]
    for feeds in examples:
        feeds["x"][:, 8:16] = 1.0 + np.float32(1e-7)
    references = [reduced(feeds) for feeds in examples]
    own = dataclasses.replace(
        graph, examples=examples, references=references, is_reduced=True, run_reduced=reduced
    )

    def otherwise(feeds):
        return reduced({"x": np.where(feeds["x"] == np.float32(1.0 + 1e-7), np.float32(1.0), feeds["x"])})

    assert check(own, otherwise, stage="engine", precision="fp32").rounded_inputs
    assert not check(dataclasses.replace(own, is_reduced=False), otherwise, stage="", precision="fp32").passed

    def elsewhere(feeds):
        y = otherwise(feeds)["y"]
        y[:, 40] += np.float32(0.02)
        return {"y": y}

    assert not check(own, elsewhere, stage="engine", precision="fp32").passed


def test_what_was_taken_of_a_source_excuses_no_engine_of_what_is_left(graph):
    def reduced(feeds):
        return {"y": np.float32(0.92) * source(feeds)["y"]}

    references = [reduced(feeds) for feeds in graph.examples]
    own = dataclasses.replace(graph, references=references, is_reduced=True, run_reduced=reduced)
    for precision in ("fp32", "fp16"):
        # As the source computes, of which a part was taken: that is another graph.
        assert not check(own, off_by(0.0), stage="engine", precision=precision).passed


def test_an_output_in_fp16_may_be_moved_by_its_inputs_too(graph):
    def half(feeds):
        return {"y": quantised(feeds)["y"].astype(np.float16)}

    own = dataclasses.replace(graph, references=[half(feeds) for feeds in graph.examples], run_source=half)
    rounded = own.expected_of_rounded("fp16")
    assert rounded.moves[0]["y"].max() == pytest.approx(0.06, rel=1e-2)
