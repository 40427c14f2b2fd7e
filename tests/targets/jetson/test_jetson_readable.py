"""What a parser would misread is written another way, or refused: Constant, Shape, defaults that differ."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from jetson_graphs import drawn, model

from edgec.core.errors import UnsupportedError
from edgec.core.evaluation import Evaluator
from edgec.targets.jetson.bodies import with_bodies
from edgec.targets.jetson.lowering import check, lower
from edgec.targets.jetson.readable import misread
from edgec.targets.jetson.versions import defaults_differ, dialects

OLD = ("8.5", "8.6")

TOKEN_OPS = {
    "TokenMerge": "z, t, a = ai.edgec.TokenMerge <r = 2, protected = 1> (d, m, s)",
    "TokenMergeEnergy": "z, t, a = ai.edgec.TokenMergeEnergy <r = 2, protected = 1> (d, m, s)",
    "TokenPrune": """c = ReduceSum <keepdims = 0> (m, heads)
        e = ReduceMax <keepdims = 0> (c, last)
        z, t, a = ai.edgec.TokenPrune <r = 2, protected = 1> (d, e, m, s)""",
}


def overlooked(found: ir.Model, version: str) -> list[str]:
    """Nodes that the version's parser would misread, by the importers' own rule, not by edgec's table."""
    names = {"Constant": {"value_int", "value_ints"}, "Shape": {"start", "end"}}
    return [
        node.name or ""
        for node in found.graph.all_nodes()
        if version in OLD and names.get(node.op_type, set()) & node.attributes.keys()
    ]


def reduction(op_type: str, batch: str | int, length: str | int) -> ir.Model:
    text = f"""tokens (float[{batch}, {length}, 4] x, float[{batch}, 2, {length}, 4] m,
        float[{batch}, {length}, 1] s)
        => (float[{batch}, L, 4] y) {{
        d = Mul (x, x)
        {TOKEN_OPS[op_type]}
        y = Tanh (z)
    }}"""
    return model(text, {"heads": np.array([1]), "last": np.array([-1])} if op_type == "TokenPrune" else None)


@pytest.mark.parametrize("version", dialects())
@pytest.mark.parametrize("op_type", TOKEN_OPS)
@pytest.mark.parametrize("sizes", [(2, 9), ("N", 9), ("N", "T")], ids=str)
def test_bodies_of_token_ops_hold_nothing_that_is_misread(version, op_type, sizes):
    given = reduction(op_type, *sizes)
    feed = {"x": drawn(2, 9, 4), "m": drawn(2, 2, 9, 4, seed=1), "s": np.ones((2, 9, 1), np.float32)}
    found = lower(given, dialects()[version], native_attention=False)
    onnx.checker.check_model(ir.to_proto(found))
    assert not overlooked(found, version)
    # Elsewhere they are as the definition has them: the check above is of something.
    assert version in OLD or any("value_ints" in node.attributes for node in found.graph)
    with (
        Evaluator(lower(given, dialects()["11.0"], native_attention=False)) as one,
        Evaluator(found) as other,
    ):
        assert np.abs(one.run(feed)["y"] - other.run(feed)["y"]).max() < 1e-6


@pytest.mark.parametrize("version", OLD)
def test_bodies_that_stand_for_plugins_hold_nothing_that_is_misread(version):
    kept = lower(
        reduction("TokenMerge", 2, 9),
        dialects()[version],
        native_attention=False,
        keep=frozenset({"TokenMerge"}),
    )
    assert "TokenMerge" in {node.op_type for node in kept.graph}
    assert not overlooked(with_bodies(kept), version)


@pytest.mark.parametrize(
    "attributes", ["", "<end = 2>", "<start = 1>", "<start = -2, end = -1>", "<start = 3>"]
)
@pytest.mark.parametrize("shape", ["2, 3, 4", "N, 3, 4", "N, T, 4"])
def test_a_part_of_a_shape_is_that_part(attributes, shape):
    given = model(f"parts (float[{shape}] x) => (int64[K] y) {{ y = Shape {attributes} (x) }}")
    feed = {"x": drawn(2, 3, 4)}
    for version in OLD:
        found = lower(given, dialects()[version], native_attention=False)
        assert not overlooked(found, version)
        with Evaluator(given) as one, Evaluator(found) as other:
            assert one.run(feed)["y"].tolist() == other.run(feed)["y"].tolist()


def test_numbers_in_a_branch_are_rewritten_too():
    text = """branches (bool p, float[4] x) => (float[K] y) {
        y = If (p) <
            then_branch = a () => (float[K] u) {
                s = Shape <start = 0, end = 1> (x)
                n = Constant <value_ints = [2]> ()
                z = Constant <value_ints = [0]> ()
                u = Slice (x, z, n)
            }, else_branch = b () => (float[K] w) { w = Identity (x) }
        >
    }"""
    given = model(text)
    found = lower(given, dialects()["8.6"], native_attention=False)
    assert not overlooked(found, "8.6")
    for taken in (True, False):
        feed = {"p": np.array(taken), "x": drawn(4)}
        with Evaluator(given) as one, Evaluator(found) as other:
            assert np.array_equal(one.run(feed)["y"], other.run(feed)["y"])


def test_numbers_keep_their_rank_and_value():
    text = """numbers (int64[2] x) => (int64[2] y, int64[2] z) {
        one = Constant <value_int = -7> ()
        many = Constant <value_ints = [9223372036854775807, -1]> ()
        y = Add (x, one)
        z = Min (x, many)
    }"""
    feed = {"x": np.array([3, 1 << 40])}
    found = lower(model(text), dialects()["8.5"], native_attention=False)
    assert not overlooked(found, "8.5")
    with Evaluator(found) as evaluator:
        assert evaluator.run(feed)["y"].tolist() == [-4, (1 << 40) - 7]
        assert evaluator.run(feed)["z"].tolist() == [3, -1]


@pytest.mark.parametrize("version", dialects())
def test_defaults_that_a_parser_has_of_its_own_are_written_out(version):
    found = lower(
        model("g (float[3, 3] x) => (float[3, 3] y) { t = Trilu (x)\n y = Selu (t) }"),
        dialects()[version],
        native_attention=False,
    )
    triangle, selu = found.graph
    assert triangle.attributes["upper"].as_int() == 1
    assert selu.attributes["alpha"].as_float() == pytest.approx(1.6732632, abs=1e-7)
    assert selu.attributes["gamma"].as_float() == pytest.approx(1.0507010, abs=1e-7)
    assert set(defaults_differ()) == {"RoiAlign", "Selu", "Trilu"}


def test_what_has_no_other_form_is_refused_and_named():
    text = """g (float[1, 2, 3] x, float[1, 16, 3] w, float[1, 16, 4] r) => (float[1, 2, 1, 4] y) {
        y = LSTM <hidden_size = 4, layout = 1> (x, w, r)
    }"""
    for version in dialects():
        with pytest.raises(UnsupportedError, match=r"LSTM .*layers\.y.* overlooks its layout"):
            lower(model(text), dialects()[version], native_attention=False)


def test_what_slips_in_behind_the_lowering_is_refused():
    """The device's parser would say nothing, so the last word before the model is written is this check."""
    found = lower(
        model("g (float[2, 3] x) => (int64[2] y) { y = Shape (x) }"),
        dialects()["8.6"],
        native_attention=False,
    )
    check(found, dialects()["8.6"])
    next(iter(found.graph)).attributes["start"] = ir.AttrInt64("start", 1)
    check(found, dialects()["10.3"])
    with pytest.raises(UnsupportedError, match="overlooks its start"):
        check(found, dialects()["8.6"])


def test_an_attribute_that_says_the_default_is_no_obstacle():
    node = ir.Node("", "LSTM", [], ir.convenience.convert_attributes({"layout": 0}))
    assert misread(node, dialects()["8.5"], 17) == []
