"""Sizes that must fit other inputs are found by asking the source."""

import numpy as np
import onnx
import pytest

from edgec.core.graph import TensorSpec
from edgec.frontends import load
from edgec.frontends.fitting import fitting_sizes

HEAD = '<ir_version: 9, opset_import: ["": 20]> g '

GRID = """(float[1, 196, 8] x, int64 h, int64 w) => (float[1, 8, H, W] y)
<int64[1] first = {0}, int64[2] front = {1, 8}>
{
  t = Transpose <perm = [0, 2, 1]> (x)
  a = Unsqueeze (h, first)
  b = Unsqueeze (w, first)
  s = Concat <axis = 0> (front, a, b)
  y = Reshape (t, s)
}"""

ADDED = """(float[1, 16, 8] x, int64 n) => (float[1, 16, 8] y)
<int64 zero = {0}, int64 one = {1}, int64[1] last = {1}>
{
  r = Range (zero, n, one)
  f = Cast <to = 1> (r)
  u = Unsqueeze (f, last)
  y = Add (x, u)
}"""


@pytest.mark.parametrize(("body", "sizes"), [(GRID, {"h": 14, "w": 14}), (ADDED, {"n": 16})])
def test_sizes_that_the_file_takes_are_found_and_said(tmp_path, body, sizes):
    onnx.save(onnx.parser.parse_model(HEAD + body), tmp_path / "m.onnx")
    graph = load(str(tmp_path / "m.onnx"))
    for feed in graph.examples:
        assert {name: int(feed[name]) for name in sizes} == sizes
    said = {item.name: item.what for item in graph.drawn}
    for name, size in sizes.items():
        assert said[name] == f"{size}, which fits the other inputs"


def test_what_the_source_takes_is_left_and_what_it_never_takes_is_given_up():
    specs = [TensorSpec("x", (1, 6), "float32"), TensorSpec("n", (), "int64")]
    feed = {"x": np.zeros((1, 6), np.float32), "n": np.array(3)}
    assert fitting_sizes(dict, specs, ["n"], feed) == {}
    assert fitting_sizes(dict, specs, [], feed) == {}
    tried = []

    def refuses(feeds):
        tried.append(int(feeds["n"]))
        raise ValueError("no")

    assert fitting_sizes(refuses, specs, ["n"], feed) == {}
    assert {6, 3, 2, 1} <= set(tried)


def test_two_sizes_are_tried_together():
    specs = [TensorSpec("x", (1, 12, 5), "float32"), TensorSpec("hw", (2,), "int64")]
    feed = {"x": np.zeros((1, 12, 5), np.float32), "hw": np.array([2, 2])}

    def takes(feeds):
        assert feeds["hw"][0] * feeds["hw"][1] == 12
        assert feeds["hw"][0] == 3
        return {}

    found = fitting_sizes(takes, specs, ["hw"], feed)["hw"]
    assert found.kind == "fixed"
    np.testing.assert_array_equal(found.like, [3, 4])


def test_the_shape_of_another_input_is_tried_as_it_is():
    specs = [TensorSpec("x", (1, 3, 17, 19), "float32"), TensorSpec("size", (4,), "int64")]
    feed = {"x": np.zeros((1, 3, 17, 19), np.float32), "size": np.array([2, 2, 2, 2])}

    def takes(feeds):
        assert tuple(feeds["size"]) == (1, 3, 17, 19)
        return {}

    np.testing.assert_array_equal(fitting_sizes(takes, specs, ["size"], feed)["size"].like, (1, 3, 17, 19))
