"""What a rounding costs: the switched graph is the fp16 graph, and a cost is that of one class alone."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from edgec.core.evaluation import Evaluator
from edgec.passes.manager import Pipeline
from edgec.passes.precision.errors import nudged, rms_error
from edgec.passes.precision.half import HalfPrecision
from edgec.passes.precision.judge import spelled_out
from edgec.passes.precision.roundings import FIXED, SWITCH, costs, switched_roundings

BLOCK = """block (float[3, 8] x) => (float[3, 4] y) {
    a = Add (x, bias)
    b = Erf (a)
    t = Transpose <perm = [1, 0]> (b)
    u = Transpose <perm = [1, 0]> (t)
    c = Add (u, x)
    m = MatMul (c, w)
    y = Tanh (m)
}"""
COMPUTING = ("a", "b", "c", "y")


def drawn(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def block():
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]>\n{BLOCK}')
    # fp16 holds these weights exactly: rounding them is another pass's.
    weights = drawn(8, 4, seed=2).astype(np.float16).astype(np.float32)
    for name, array in {"bias": drawn(8, seed=1), "w": weights}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for node in proto.graph.node:
        node.name = node.output[0]
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def run(built, **feeds):
    with Evaluator(built) as evaluator:
        return evaluator.run(feeds)


@pytest.mark.parametrize("count", range(len(COMPUTING) + 1))
def test_switches_of_what_is_not_kept_give_the_typed_graph(count):
    built, x = block(), drawn(3, 8, seed=3)
    switched, classes = switched_roundings(built, {name: name for name in COMPUTING}, ())
    onnx.checker.check_model(ir.to_proto(switched), full_check=True)
    for kept in itertools.combinations(COMPUTING, count):
        typed = built.clone()
        Pipeline([HalfPrecision(frozenset(kept))]).run(typed)
        on = np.asarray([not between <= set(kept) for between in classes], np.float32)
        np.testing.assert_array_equal(
            run(switched, x=x, **{SWITCH: on})["y"], run(spelled_out(typed), x=x)["y"], err_msg=str(kept)
        )


def test_a_rounding_lies_between_those_that_compute():
    _, classes = switched_roundings(block(), {name: name for name in COMPUTING}, ())
    assert set(classes) == {
        frozenset(ends) for ends in (["a"], ["c"], ["a", "b"], ["b", "c"], [FIXED], ["y"])
    }


def test_what_is_kept_has_no_rounding_of_its_own():
    _, classes = switched_roundings(block(), {"c": "sums"}, ("a", "b", "y"))
    assert set(classes) == {frozenset({"sums"}), frozenset({FIXED})}


def test_costs_are_of_one_class_alone():
    built, x = block(), drawn(3, 8, seed=3)
    found = costs(built, {name: name for name in COMPUTING}, (), [{"x": x}])
    typed = built.clone()
    Pipeline([HalfPrecision(frozenset({"a", "b", "c", "m"}))]).run(typed)
    # y alone in fp16 rounds the product's result and its own.
    both = rms_error(run(built, x=x), run(spelled_out(typed), x=x))
    assert found[frozenset({"y"})] <= both
    assert all(cost > 0 for cost in found.values())


def test_nudged_feeds_are_near_and_leave_integers():
    feed = {"x": drawn(3, 8), "ids": np.arange(3)}
    found = nudged([feed], 2)
    assert len(found) == 2
    assert not np.array_equal(found[0]["x"], found[1]["x"])
    np.testing.assert_allclose(found[0]["x"], feed["x"], rtol=0.1)
    np.testing.assert_array_equal(found[0]["ids"], feed["ids"])
    assert nudged([{"ids": np.arange(3)}], 2) == []
