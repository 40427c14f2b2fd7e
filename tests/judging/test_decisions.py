"""Decisions are found behind what only maps their elements, and the rows that a TopK ordered."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from edgec.core.evaluation import Evaluator
from edgec.core.graph import Graph, Source, tensor_spec
from edgec.core.numerics import GATES
from edgec.judging.decisions import with_ties

HEAD = '<ir_version: 11, opset_import: ["" : 23]> agraph '


def graph_of(text: str, **feeds: np.ndarray) -> Graph:
    model = ir.from_proto(onnx.parser.parse_model(HEAD + text))
    with Evaluator(model) as evaluator:
        references = [evaluator.run(feeds)]
    inputs = tuple(tensor_spec(value) for value in model.graph.inputs)
    return Graph(model, Source("m.onnx", "onnx", "m", "0"), inputs, [feeds], references)


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


DETECTOR = """(float[1,50,4] boxes, float[1,50] scores)
    => (float[1,10,4] y, float[1,10] v, int64[1,10] labels) {
    k = Constant<value = int64[1] {10}>()
    c = Constant<value = int64 {7}>()
    two = Constant<value = int64[1] {2}>()
    wide = Constant<value = int64[3] {1, 1, 4}>()
    v, i = TopK(scores, k)
    labels = Mod(i, c)
    u = Unsqueeze(i, two)
    e = Expand(u, wide)
    y = GatherElements<axis = 1>(boxes, e)
}"""


def test_rows_behind_a_topk_are_ranked_by_their_scores() -> None:
    scores = drawn(1, 50)
    graph = with_ties(graph_of(DETECTOR, boxes=drawn(1, 50, 4, seed=1), scores=scores))
    [ranking] = graph.ties[0].rankings
    assert ranking.axes == {"y": 1, "labels": 1}
    ordered = np.sort(scores[0])[::-1] / scores.std()
    np.testing.assert_allclose(ranking.scores[0], ordered[:10], rtol=1e-6)
    np.testing.assert_allclose(ranking.left_out, ordered[10:11], rtol=1e-6)


@pytest.mark.parametrize(("count", "left_out"), [(3, 4.0), (8, np.inf)])
def test_the_best_that_was_left_out_of_the_smallest_is_the_next(count: int, left_out: float) -> None:
    x = np.arange(1, 9, dtype=np.float32)[None, ::-1].copy()
    text = f"""(float[1,8] x) => (float[1,{count}] v, int64[1,{count}] y) {{
        k = Constant<value = int64[1] {{{count}}}>()
        v, y = TopK<largest = 0>(x, k)
    }}"""
    [ranking] = with_ties(graph_of(text, x=x)).ties[0].rankings
    np.testing.assert_allclose(ranking.left_out, [left_out / x.std()], rtol=1e-6)


def test_nearly_equal_scores_may_change_places_and_others_may_not() -> None:
    boxes, scores = drawn(1, 50, 4, seed=1), drawn(1, 50)
    order = np.argsort(-scores[0])
    for gap, allowed in ((1e-4, True), (0.5, False)):
        scores[0, order[4]] = scores[0, order[3]] - gap
        graph = with_ties(graph_of(DETECTOR, boxes=boxes, scores=scores))
        other = scores.copy()
        other[0, order[[3, 4]]] = scores[0, order[[4, 3]]]
        with Evaluator(graph.model) as evaluator:
            found = evaluator.run({"boxes": boxes, "scores": other})
        gate = GATES["fp16"]
        assert gate.accepts(graph.expected.difference([found], gate)) is allowed


@pytest.mark.parametrize(
    "body",
    [
        "best = ArgMax<axis = 1>(x)  y = Cast<to = 6>(best)",
        "best = ArgMin<axis = 1, keepdims = 0>(x)  a = Unsqueeze(best, one)  y = Cast<to = 6>(a)",
        "h = Slice(x, zero, one, one)  b = Greater(h, half)  y = Cast<to = 6>(b)",
        "h = Slice(x, zero, one, one)  b = Floor(h)  y = Cast<to = 6>(b)",
    ],
)
def test_the_margin_of_each_element_is_known(body: str) -> None:
    constants = """zero = Constant<value = int64[1] {0}>()  one = Constant<value = int64[1] {1}>()
        half = Constant<value = float {0.5}>()"""
    x = drawn(3, 5, 8)
    graph = with_ties(graph_of(f"(float[3,5,8] x) => (int32[3,1,8] y) {{ {constants} {body} }}", x=x))
    margins = graph.ties[0].margins["y"]
    assert margins.shape == (3, 1, 8)
    if "Arg" in body:
        ordered = np.sort(x if "Max" in body else -x, axis=1)
        np.testing.assert_allclose(margins[:, 0], (ordered[:, -1] - ordered[:, -2]) / x.std(), rtol=1e-5)
    elif "Greater" in body:
        first = x[:, :1]
        np.testing.assert_allclose(margins, np.abs(first - 0.5) / first.std(), rtol=1e-5)
    # Moving every score by less than the margin changes no decision; the widest are clear, none is negative.
    assert margins.min() >= 0.0


def test_a_step_of_a_rounding_is_told_in_the_output_s_numbers() -> None:
    x = 40 * drawn(2, 8)
    text = """(float[2,8] x) => (int64[2,8] y) {
        five = Constant<value = int64 {5}>()  f = Floor(x)  i = Cast<to = 7>(f)  y = Mul(i, five)
    }"""
    np.testing.assert_allclose(
        with_ties(graph_of(text, x=x)).ties[0].steps["y"], (5.0, 5 * x.std()), rtol=1e-6
    )


@pytest.mark.parametrize(
    "text",
    [
        "(float[2,8] x) => (float[2,8] y) { y = Exp(x) }",
        # The rows are summed: their order does not show.
        """(float[2,8] x) => (float[2,1] y) {
            k = Constant<value = int64[1] {3}>()  a = Constant<value = int64[1] {1}>()
            v, i = TopK(x, k)  y = ReduceSum(v, a)
        }""",
        # A class taken from a table is no element of its own any more.
        """(float[2,8] x) => (int64[2,3] y) {
            t = Constant<value = int64[8] {0, 1, 2, 3, 4, 5, 6, 7}>()
            s = Constant<value = int64[2] {2, 3}>()
            b = ArgMax<axis = 1>(x)  g = Gather(t, b)  y = Expand(g, s)
        }""",
    ],
)
def test_a_network_without_such_an_output_has_none(text: str) -> None:
    graph = graph_of(text, x=drawn(2, 8))
    assert not with_ties(graph).ties


def test_the_scores_that_a_topk_kept_are_never_excused() -> None:
    scores = drawn(1, 50) * np.float32(1e-4)
    scores[0, :3] = 9.0, 8.0, 7.0
    graph = with_ties(graph_of(DETECTOR, boxes=drawn(1, 50, 4, seed=1), scores=scores))
    wrong = {name: array.copy() for name, array in graph.references[0].items()}
    wrong["v"][0, 5:] = 1.0
    gate = GATES["fp16"]
    assert gate.accepts(graph.expected.difference(graph.references, gate))
    assert not gate.accepts(graph.expected.difference([wrong], gate))


def test_a_near_tie_is_the_runner_up_and_no_other_class():
    x = (1 + 1e-3 * drawn(1, 21, 16, 16)).astype(np.float32)
    x[:, 20] = -50
    body = "(float[1,21,16,16] x) => (int64[1,1,16,16] y) { y = ArgMax<axis=1>(x) }"
    graph = with_ties(graph_of(body, x=x))
    gate = GATES["fp16"]
    far = {"y": np.full((1, 1, 16, 16), 20)}
    assert not gate.accepts(graph.expected.difference([far], gate))
    second = {"y": np.argsort(x, axis=1)[:, -2][:, None]}
    found = graph.expected.difference([second], gate)
    assert gate.accepts(found)
    assert found.near_ties == 256


def test_a_topk_that_orders_no_rows_of_the_output_is_no_ranking():
    # A router of two experts and an output of two classes have the same shape.
    body = """(float[1,64,8] gate, float[1,64,2] w) => (float[1,64,2] y) {
        k = Constant<value = int64[1] {2}>()
        axis = Constant<value = int64[1] {2}>()
        v, i = TopK(gate, k)
        s = ReduceMean<keepdims = 1>(v, axis)
        y = Add(w, s)
    }"""
    graph = graph_of(body, gate=drawn(1, 64, 8), w=drawn(1, 64, 2, seed=1))
    assert not with_ties(graph).ties


NEAR_WHOLE = np.array([[3.0, 2.9999998, 7.0000005, -4.0000005, 0.4, 0.0000001, -0.2, 12.6]], np.float32)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("y = Cast<to = 7>(x)", "int64"),
        ("c = Cast<to = 6>(x)  f = Cast<to = 7>(c)  y = Mul(f, five)", "int64"),
        ("f = Floor(x)  y = Cast<to = 7>(f)", "int64"),
        ("h = Add(x, half)  r = Round(h)  y = Cast<to = 7>(r)", "int64"),
        ("f = Floor(x)  y = Mul(f, quarter)", "float"),
        ("c = Ceil(x)  y = Identity(c)", "float"),
    ],
)
def test_a_number_nearly_whole_may_be_rounded_the_other_way(body: str, kind: str) -> None:
    constants = """five = Constant<value = int64 {5}>()  half = Constant<value = float {0.5}>()
        quarter = Constant<value = float {0.25}>()"""
    text = f"(float[1,8] x) => ({kind}[1,8] y) {{ {constants} {body} }}"
    graph = with_ties(graph_of(text, x=NEAR_WHOLE))
    gate = GATES["fp32"]
    with Evaluator(graph.model) as evaluator:
        for moved, allowed in ((4e-7, True), (-4e-7, True), (0.5, False)):
            found = evaluator.run({"x": NEAR_WHOLE + np.float32(moved)})
            difference = graph.expected.difference([found], gate)
            assert gate.accepts(difference) is allowed
            if allowed:
                assert difference.near_ties
        clear = {"y": graph.references[0]["y"].copy()}
        clear["y"][0, 7] += clear["y"].dtype.type(np.ptp(clear["y"]) / 16)
        assert not gate.accepts(graph.expected.difference([clear], gate))
        two = {"y": graph.references[0]["y"].copy()}
        two["y"][0, 0] = two["y"][0, 7]
        assert not gate.accepts(graph.expected.difference([two], gate))


@pytest.mark.parametrize(("off", "allowed"), [(0.045, False), (0.015, True)])
def test_a_rounded_quantity_that_is_off_everywhere_is_off(off: float, allowed: bool) -> None:
    """Pixels in whole numbers: an error that fp16 allows at single ones is no near-tie of all of them."""
    x = np.clip(40 * drawn(1, 400) + 128, 20, 235)
    graph = with_ties(graph_of("(float[1,400] x) => (uint8[1,400] y) { y = Cast<to = 2>(x) }", x=x))
    gate = GATES["fp16"]
    signs = np.sign(drawn(1, 400, seed=2))
    moved = graph.references[0]["y"] + np.round(off * x.std() * signs)
    assert gate.accepts(graph.expected.difference([{"y": moved.astype(np.uint8)}], gate)) is allowed


def test_a_truncation_has_no_edge_at_zero() -> None:
    x = np.array([[1e-7, -1e-7, 0.9999999, -0.9999999, 0.5]], np.float32)
    margins = with_ties(graph_of("(float[1,5] x) => (int64[1,5] y) { y = Cast<to = 7>(x) }", x=x)).ties[0]
    near = margins.margins["y"] * np.std(x) < 1e-6
    np.testing.assert_array_equal(near, [[False, False, True, True, False]])


def test_what_is_counted_is_no_near_tie() -> None:
    text = """(float[1,6] x) => (int64[1,1] y) {
        zero = Constant<value = float {0.0}>()  axis = Constant<value = int64[1] {1}>()
        b = Greater(x, zero)  f = Cast<to = 1>(b)  s = ReduceSum(f, axis)  y = Cast<to = 7>(s)
    }"""
    graph = with_ties(graph_of(text, x=drawn(1, 6)))
    gate = GATES["fp32"]
    off = {"y": graph.references[0]["y"] + 1}
    assert not gate.accepts(graph.expected.difference([off], gate))


def test_one_number_that_is_rounded_is_near_whole_by_its_own_size() -> None:
    x = np.full((1, 1), 99999.992, np.float32)
    graph = with_ties(graph_of("(float[1,1] x) => (int64[1,1] y) { y = Cast<to = 7>(x) }", x=x))
    gate = GATES["fp32"]
    for value, allowed in ((100000, True), (99900, False)):
        assert gate.accepts(graph.expected.difference([{"y": np.array([[value]])}], gate)) is allowed


def test_a_comparison_given_in_floats_is_the_other_number_or_none() -> None:
    x = drawn(1, 40)
    x[0, 0] = 1e-6
    text = """(float[1,40] x) => (float[1,40] y) {
        zero = Constant<value = float {0.0}>()  b = Greater(x, zero)  y = Cast<to = 1>(b)
    }"""
    graph = with_ties(graph_of(text, x=x))
    gate = GATES["fp32"]
    for value, allowed in ((0.0, True), (0.7, False)):
        found = {"y": graph.references[0]["y"].copy()}
        found["y"][0, 0] = value
        assert gate.accepts(graph.expected.difference([found], gate)) is allowed
