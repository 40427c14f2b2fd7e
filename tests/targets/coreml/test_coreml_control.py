"""If and Loop as cond and while_loop, run from the saved package, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from coreml_graphs import make_model, ops_of, packaged
from onnx import helper

from edgec.core.errors import UnsupportedError
from edgec.targets.coreml.lowering.program import lower
from edgec.targets.coreml.neural_engine.operations import operations
from edgec.targets.coreml.versions import release

node = helper.make_node
CONSTANTS = {
    "zero": np.float32(0),
    "eps": np.float32(1e-2),
    "most": np.int64(40),
    "yes": np.bool_(True),
    "first": np.zeros((2, 6), np.float32),
}


def body(text: str) -> onnx.GraphProto:
    return onnx.parser.parse_graph(text)


def confident(weights: np.ndarray) -> ir.Model:
    """A classifier that asks its second half only where the first is not sure."""
    later = body("later () => (float[2,6] a) { h = MatMul(s, w)\n t = Tanh(h)\n a = Add(t, s) }")
    now = body("now () => (float[2,6] b) { b = Identity(s) }")
    return make_model(
        [
            node("Softmax", ["x"], ["p"], axis=-1),
            node("ReduceMax", ["p"], ["sure"], keepdims=0),
            node("Less", ["sure", "bound"], ["unsure"]),
            node("Neg", ["x"], ["s"]),
            node("If", ["unsure"], ["d"], then_branch=later, else_branch=now),
            node("MatMul", ["d", "w"], ["y"]),
        ],
        {"x": ("float32", [2, 6])},
        {"y": ("float32", [2, 6])},
        {**CONSTANTS, "w": weights, "bound": np.float32(0.6)},
    )


def settling(weights: np.ndarray, *, most: str = "most", stacked: bool = False) -> ir.Model:
    """A fixed point: how many turns it takes is the data's."""
    more = ", float[2,6] row" if stacked else ""
    turn = body(
        f"turn (int64 i, bool g, float[2,6] s) => (bool on, float[2,6] z{more}) {{ h = MatMul(s, w)\n"
        " u = Add(h, x)\n z = Tanh(u)\n d = Sub(z, s)\n a = Abs(d)\n m = ReduceMax<keepdims=0>(a)\n"
        " on = Greater(m, eps)" + ("\n row = Identity(z)" if stacked else "") + " }"
    )
    outputs = ["y", "rows"] if stacked else ["y"]
    return make_model(
        [node("Loop", [most, "yes", "first"], outputs, body=turn)],
        {"x": ("float32", [2, 6])},
        {name: ("float32", [2, 6] if name == "y" else None) for name in outputs},
        {**CONSTANTS, "w": weights},
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_branch_that_the_data_decides(tmp_path: Path, rng, precision: str) -> None:  # type: ignore[no-untyped-def]
    feeds = [{"x": (by * rng.standard_normal((2, 6))).astype(np.float32)} for by in (0.01, 0.1, 8.0, 20.0)]
    weights = (0.3 * rng.standard_normal((6, 6))).astype(np.float32)
    package, source = packaged(confident(weights), feeds, tmp_path / "engine", precision=precision)
    assert "cond" in ops_of(package.interpreter)
    taken = set()
    for feed in feeds:
        wanted = source(feed)["y"]
        assert np.abs(package.run(feed)["y"] - wanted).max() < (3e-6 if precision == "fp32" else 2e-2)
        taken.add(bool(np.allclose(wanted, -feed["x"] @ weights, atol=1e-4)))
    assert taken == {True, False}
    assert "tanh" in {operation.op for operation in operations(tmp_path / "engine")}


@pytest.mark.parametrize("most", ["most", ""])
def test_a_loop_whose_turns_the_data_counts(tmp_path: Path, rng, most: str) -> None:  # type: ignore[no-untyped-def]
    weights = rng.standard_normal((6, 6)).astype(np.float32)
    weights *= 0.8 / np.linalg.norm(weights, 2)
    feeds = [{"x": (by * rng.standard_normal((2, 6))).astype(np.float32)} for by in (0.001, 0.3, 1.0)]
    package, source = packaged(settling(weights, most=most), feeds, tmp_path / "engine", precision="fp32")
    for feed in feeds:
        assert np.abs(package.run(feed)["y"] - source(feed)["y"]).max() < 3e-6


def test_a_loop_stops_where_its_count_says(tmp_path: Path, rng) -> None:  # type: ignore[no-untyped-def]
    turn = body(
        "turn (int64 i, bool g, float[2,6] s) => (bool on, float[2,6] z) { on = Identity(g)\n"
        " f = Cast<to=1>(i)\n t = Add(s, f)\n z = Mul(t, half) }"
    )
    model = make_model(
        [node("ReduceMax", ["n"], ["most"], keepdims=0), node("Loop", ["most", "", "x"], ["y"], body=turn)],
        {"x": ("float32", [2, 6]), "n": ("int64", [2])},
        {"y": ("float32", [2, 6])},
        {"half": np.float32(0.5)},
    )
    feeds = [
        {"x": rng.standard_normal((2, 6)).astype(np.float32), "n": np.array([0, count])}
        for count in (0, 1, 5)
    ]
    package, source = packaged(model, feeds, tmp_path / "engine", precision="fp32")
    for feed in feeds:
        np.testing.assert_allclose(package.run(feed)["y"], source(feed)["y"], rtol=1e-6)


def test_what_a_loop_stacks_up_is_refused(rng) -> None:  # type: ignore[no-untyped-def]
    model = settling(rng.standard_normal((6, 6)).astype(np.float32), stacked=True)
    with pytest.raises(UnsupportedError, match="stacks up one result a turn"):
        lower(model, release("ios18"))


def test_sides_of_two_shapes_are_refused(rng) -> None:  # type: ignore[no-untyped-def]
    model = make_model(
        [
            node(
                "If",
                ["c"],
                ["y"],
                then_branch=body("one () => (float[1] a) { a = Identity(x) }"),
                else_branch=body("two () => (float[2] b) { b = Concat<axis=0>(x, x) }"),
            )
        ],
        {"x": ("float32", [1]), "c": ("bool", [])},
        {"y": ("float32", ["n"])},
    )
    with pytest.raises(UnsupportedError, match=r"its sides give fp32\[1\] and fp32\[2\]"):
        lower(model, release("ios18"))


def test_what_a_body_cannot_do_is_named(rng) -> None:  # type: ignore[no-untyped-def]
    turn = body("t (int64 i, bool g, float[3] s) => (bool g2, float[3] z) { g2 = Identity(g)\n z = Det2(s) }")
    turn.node[1].op_type, turn.node[1].domain, turn.node[1].name = "Odd", "com.example", "odd"
    model = helper.make_model(
        helper.make_graph(
            [node("Loop", ["n", "", "x"], ["y"], body=turn, name="again")],
            "g",
            [helper.make_tensor_value_info("x", 1, [3]), helper.make_tensor_value_info("n", 7, [])],
            [helper.make_tensor_value_info("y", 1, [3])],
        ),
        opset_imports=[helper.make_opsetid("", 23), helper.make_opsetid("com.example", 1)],
    )
    with pytest.raises(UnsupportedError, match=r"com\.example::Odd 'odd'") as caught:
        lower(ir.from_proto(model), release("ios18"))
    assert str(caught.value).count("'odd'") == 1
