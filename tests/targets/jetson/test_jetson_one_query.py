"""An attention of a single query in a TensorRT that gets it wrong: not made, and written without products."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx_ir as ir
import pytest
from jetson_graphs import drawn, model

from edgec.core.dialect import is_op
from edgec.core.evaluation import Evaluator
from edgec.passes.infra import registered
from edgec.passes.pipeline import load_passes
from edgec.request import Request
from edgec.targets.jetson.lowering import lower
from edgec.targets.jetson.versions import dialects

WRONG = ("8.5", "8.6")

ATTENTIONS = {
    "plain": "y = Attention (q, k, v)",
    "masked": "y = Attention (q, k, v, m)",
    "scaled": """s = MatMul (q, t)
        half = Constant <value_float = 0.5> ()
        scaled = Mul (s, half)
        twice = Add (scaled, scaled)
        hidden = Add (twice, m)
        p = Softmax <axis = 3> (hidden)
        y = MatMul (p, v)""",
}


def attention(form: str, queries: int) -> ir.Model:
    turned = "t = Transpose <perm = [0, 1, 3, 2]> (k)" if form == "scaled" else ""
    return model(f"""attention (float[2, 3, {queries}, 8] q, float[2, 3, 50, 8] k, float[2, 3, 50, 8] v,
        float[2, 1, 1, 50] m) => (float[2, 3, {queries}, 8] y) {{
        {turned}
        {ATTENTIONS[form]}
    }}""")


def feed(queries: int) -> dict[str, np.ndarray]:
    return {
        "q": drawn(2, 3, queries, 8, seed=1),
        "k": drawn(2, 3, 50, 8, seed=2),
        "v": drawn(2, 3, 50, 8, seed=3),
        "m": drawn(2, 1, 1, 50, seed=4),
    }


@pytest.mark.parametrize("form", ATTENTIONS)
@pytest.mark.parametrize("version", dialects())
def test_one_query_has_no_products_where_they_come_out_wrong(form, version):
    for queries in (1, 2):
        given = attention(form, queries)
        found = lower(given, dialects()[version], native_attention=False)
        products = sum(is_op(node, "MatMul") for node in found.graph)
        assert products == (0 if queries == 1 and version in WRONG else 2)
        assert sum(is_op(node, "Softmax") for node in found.graph) == 1
        with (
            Evaluator(lower(given, dialects()["11.0"], native_attention=False)) as one,
            Evaluator(found) as other,
        ):
            assert np.abs(one.run(feed(queries))["y"] - other.run(feed(queries))["y"]).max() < 1e-6


def test_a_row_times_weights_stays_a_product():
    """A classifier's head behind a softmax is no attention."""
    text = "head (float[2, 1, 8] x) => (float[2, 1, 4] y) { p = Softmax <axis = 2> (x)\n y = MatMul (p, w) }"
    found = lower(model(text, {"w": drawn(8, 4)}), dialects()["8.6"], native_attention=False)
    assert [node.op_type for node in found.graph] == ["Softmax", "MatMul"]


@pytest.mark.parametrize(
    ("target", "left_out"),
    [("jetson:agx-orin-64gb:jetpack5", True), ("jetson:orin-nano-8gb", False), ("x86", False)],
)
def test_the_pass_that_makes_them_is_left_out_unless_it_is_asked_for(target, left_out):
    name = "canonicalize.sink_slice"
    assert (name in Request.checked(target).pipeline.names) is not left_out
    assert name in Request.checked(target, passes=[f"+{name}"]).pipeline.names
    assert name not in Request.checked(target, passes=[f"-{name}"]).pipeline.names


def test_every_pass_that_a_version_leaves_out_is_one():
    load_passes()
    for one in dialects().values():
        assert set(one.without_passes) <= registered().keys()
        # Whoever leaves the pass out also has no right product for a model's own.
        assert bool(one.without_passes) is not one.one_query


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx")
def test_the_real_parser_and_builder_take_the_sums():
    from edgec.targets.jetson.preview import preview

    found = lower(attention("masked", 1), dialects()["8.6"], native_attention=False)
    assert preview(found, [86], target="test").layers > 0
