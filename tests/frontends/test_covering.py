"""Samples are added until every side of every branch is taken; what is not found is said."""

import numpy as np
import onnx
import pytest

from edgec.core.progress import Silent
from edgec.frontends import load
from edgec.search.branch_latency import branch_report

HEAD = '<ir_version: 8, opset_import: ["": 17]> g'

NESTED = """ (float[2, 16] x, int64[1] mode) => (float[2, 16] y)
<float zero = {0.0}, float five = {5.0}, int64 two = {2}>
{
  s = ReduceMean <keepdims = 0> (x)
  c = Greater (s, zero)
  y = If (c) <
    then_branch = g1 () => (float[2, 16] a) {
      m = ReduceMax <keepdims = 0> (x)
      d = Greater (m, five)
      a = If (d) <
        then_branch = g2 () => (float[2, 16] p) { p = Exp (x) },
        else_branch = g3 () => (float[2, 16] q) { q = Tanh (x) }
      >
    },
    else_branch = g4 () => (float[2, 16] b) {
      mm = Squeeze (mode)
      e = Equal (mm, two)
      b = If (e) <
        then_branch = g5 () => (float[2, 16] r) { r = Relu (x) },
        else_branch = g6 () => (float[2, 16] t) { t = Neg (x) }
      >
    }
  >
}"""

LOOP = """ (float[4] x, int64 n) => (float[4] y)
<bool t = {1}, float big = {6.0}, float two = {2.0}>
{
  y = Loop (n, t, x) <body = b (int64 i, bool again, float[4] v) => (bool on, float[4] o) {
    s = ReduceSum <keepdims = 0> (v)
    c = Greater (s, big)
    o = If (c) <
      then_branch = g1 () => (float[4] p) { p = Div (v, two) },
      else_branch = g2 () => (float[4] q) { q = Mul (v, two) }
    >
    on = Identity (again)
  }>
}"""

SCAN = """ (float[4] start, float[%s] x) => (float[4] y, float[%s] z)
<float half = {0.5}>
{
  y, z = Scan <num_scan_inputs = 1 %s, body =
  b (float[4] state, float[4] slice) => (float[4] next, float[4] out) {
    s = ReduceSum <keepdims = 0> (slice)
    c = Greater (s, half)
    next = If (c) <
      then_branch = g1 () => (float[4] p) { p = Add (state, slice) },
      else_branch = g2 () => (float[4] q) {
        r = ReduceSum <keepdims = 0> (state)
        d = Greater (r, half)
        q = If (d) <
          then_branch = g3 () => (float[4] t) { t = Neg (state) },
          else_branch = g4 () => (float[4] u) { u = Identity (state) }
        >
      }
    >
    out = Mul (next, half)
  }> (start, x)
}"""

NEVER = """ (float[2, 8] x) => (float[2, 8] y)
<float zero = {0.0}>
{
  a = Abs (x)
  s = ReduceMin <keepdims = 0> (a)
  c = Less (s, zero)
  y = If (c) <
    then_branch = g1 () => (float[2, 8] p) { p = Exp (x) },
    else_branch = g2 () => (float[2, 8] q) { q = Neg (x) }
  >
}"""

FAR = """ (float[2, 8] x) => (float[2, 8] y)
<float far = {70.0}>
{
  s = ReduceMean <keepdims = 0> (x)
  c = Greater (s, far)
  y = If (c) <
    then_branch = g1 () => (float[2, 8] p) { p = Sqrt (x) },
    else_branch = g2 () => (float[2, 8] q) { q = Neg (x) }
  >
}"""

SHAPED = """ (float[2, 8] x) => (float[2, 8] y)
<int64 two = {2}, int64 first = {0}>
{
  h = Shape (x)
  n = Gather (h, first)
  c = Equal (n, two)
  y = If (c) <
    then_branch = g1 () => (float[2, 8] p) { p = Exp (x) },
    else_branch = g2 () => (float[2, 8] q) { q = Neg (x) }
  >
}"""


def loaded(tmp_path, body):
    onnx.save(onnx.parser.parse_model(HEAD + body), tmp_path / "m.onnx")
    return load(str(tmp_path / "m.onnx"))


def coverage(graph):
    return graph.branches.coverage(map(graph.branches.follow, graph.examples))


def test_nested_sides_are_all_taken(tmp_path):
    graph = loaded(tmp_path, NESTED)
    found = coverage(graph)
    assert [site["kind"] for site in found] == ["If"] * 3
    assert all(site["taken"] == ["else", "then"] and not site["missed"] for site in found)
    assert len(graph.examples) == len(graph.references)
    for feed, outputs in zip(graph.examples, graph.references, strict=True):
        np.testing.assert_array_equal(graph.run_source(feed)["y"], outputs["y"])


def test_what_is_followed_is_what_the_condition_says(tmp_path):
    graph = loaded(tmp_path, NESTED)
    for feed in graph.examples:
        outer, positive, negative = graph.branches.follow(feed)
        is_positive = feed["x"].mean(dtype=np.float32) > 0
        assert outer == (int(is_positive),)
        assert positive == ((int(feed["x"].max() > 5),) if is_positive else ())
        assert negative == (() if is_positive else (int(feed["mode"][0] == 2),))


def test_the_same_seed_adds_the_same_samples(tmp_path):
    first, second = loaded(tmp_path, NESTED), loaded(tmp_path, NESTED)
    assert len(first.examples) == len(second.examples)
    for one, other in zip(first.examples, second.examples, strict=True):
        np.testing.assert_array_equal(one["x"], other["x"])


def test_a_loop_tells_its_turns_and_the_sides_in_them(tmp_path):
    graph = loaded(tmp_path, LOOP)
    loop, inner = coverage(graph)
    assert loop["kind"] == "Loop"
    assert len(loop["taken"]) > 1
    assert inner["taken"] == ["else", "then"]
    feed = {"x": np.ones(4, np.float32), "n": np.array(3)}
    # 4 is doubled to 8, which is halved to 4, which is doubled.
    assert graph.branches.follow(feed) == ((3,), (0, 1, 0))


def test_a_far_side_is_found(tmp_path):
    assert not coverage(loaded(tmp_path, FAR))[0]["missed"]


def test_a_side_that_nothing_takes_is_said(tmp_path):
    graph = loaded(tmp_path, NEVER)
    assert coverage(graph)[0]["missed"] == ["then"]
    assert graph.branches.tried > 100


@pytest.mark.parametrize("body", [SHAPED, " (float[2] x) => (float[2] y) { y = Exp (x) }"])
def test_what_no_value_decides_is_no_branch(tmp_path, body):
    graph = loaded(tmp_path, body)
    assert graph.branches is None
    assert len(graph.examples) == 3


def test_the_report_times_each_way_and_says_its_share(tmp_path):
    graph = loaded(tmp_path, NESTED)
    report = branch_report(graph, graph.run_source, Silent())
    assert len(report["paths"]) == len(set(map(graph.branches.follow, graph.examples)))
    times = [path["p50"] for path in report["paths"]]
    assert times == sorted(times)
    assert 0 < sum(path["share"] for path in report["paths"]) <= 1 + 1e-9
    assert branch_report(graph, None, Silent())["paths"][0]["p50"] is None


@pytest.mark.parametrize(
    ("axis", "attributes"),
    [
        (0, ""),
        (1, ", scan_input_axes = [1], scan_output_axes = [1]"),
        (-1, ", scan_input_axes = [-1], scan_output_axes = [-1]"),
        (0, ", scan_input_directions = [1], scan_output_directions = [1]"),
    ],
)
def test_the_sides_within_a_scan_are_told_turn_by_turn(tmp_path, axis, attributes):
    shape = "3, 4" if axis == 0 else "4, 3"
    graph = loaded(tmp_path, SCAN % (shape, shape, attributes))
    outer, inner = coverage(graph)
    assert outer["taken"] == inner["taken"] == ["else", "then"]
    rows = np.array([[0, 0, 0, 1], [1, 1, 1, 1], [-9, 0, 0, 0]], np.float32)
    given = rows[::-1] if "directions" in attributes else rows
    feed = {"start": np.zeros(4, np.float32), "x": np.ascontiguousarray(given if axis == 0 else given.T)}
    assert graph.branches.follow(feed) == ((1, 1, 0), (1,))


def test_what_follows_a_scan_reads_its_outputs(tmp_path):
    # The condition comes of what the Scan stacked, backwards and along the last axis.
    body = SCAN % (
        "4, 3",
        "4, 3",
        ", scan_input_axes = [1], scan_output_axes = [1], scan_output_directions = [1]",
    )
    body = (
        body.replace("float[4, 3] z)", "float[4] w)").rstrip("}")
        + """
      first = Constant <value = int64 {0}> ()
      row = Gather <axis = 1> (z, first)
      sum = ReduceSum <keepdims = 0> (row)
      e = Greater (sum, half)
      w = If (e) <
        then_branch = g5 () => (float[4] m) { m = Identity (row) },
        else_branch = g6 () => (float[4] n) { n = Neg (row) }
      >
    }"""
    )
    graph = loaded(tmp_path, body)
    for feed, outputs in zip(graph.examples, graph.references, strict=True):
        # The last turn's output stands first.
        assert graph.branches.follow(feed)[-1] == (int(outputs["y"].sum() * 0.5 > 0.5),)
