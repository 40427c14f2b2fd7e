"""Biases gathered from a table of relative positions, and window masks, are one constant when they run."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1]))
from pass_graphs import build, draw, i64, run, weight

from edgec.core.dialect import is_op
from edgec.passes.decompose import load_passes
from edgec.passes.editing import constant
from edgec.passes.manager import Pipeline
from edgec.passes.pipeline import default_pipeline

DEPTH = 4


def windows(side, heads, count, *, masked, dtype="float"):
    """Swin's attention within windows: scores, a bias from a table, a mask for each window."""
    tokens, table = side * side, (2 * side - 1) ** 2
    places = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij")).reshape(2, -1)
    apart = places[:, :, None] - places[:, None, :] + side - 1
    index = (apart[0] * (2 * side - 1) + apart[1]).reshape(-1)
    size = f"float[{count},{heads},{tokens},{DEPTH}]"
    scores = "s"
    lines = [
        "kt = Transpose<perm=[0,1,3,2]>(k)\n l = MatMul(q, kt)\n s0 = Mul(l, scale)",
        "g = Gather(table, index)\n gs = Reshape(g, square)\n gt = Transpose<perm=[2,0,1]>(gs)",
        f"gh = Cast<to={10 if dtype == 'float16' else 1}>(gt)\n gf = Cast<to=1>(gh)",
        "gu = Unsqueeze(gf, zero)",
        "s = Add(s0, gu)",
    ]
    if masked:
        lines.append("mu = Unsqueeze(mask, one)\n sm = Add(s, mu)")
        scores = "sm"
    lines.append(f"p = Softmax<axis=-1>({scores})\n y = MatMul(p, v)")
    mask = np.where(np.random.default_rng(2).random((count, tokens, tokens)) < 0.3, -100.0, 0.0)
    return build(
        f"({size} q, {size} k, {size} v) => (y) {{ " + "\n".join(lines) + " }",
        scale=np.array(DEPTH**-0.5, np.float32),
        table=weight(table, heads),
        index=index.astype(np.int64),
        square=i64(tokens, tokens, heads),
        zero=i64(0),
        one=i64(1),
        mask=mask.astype(np.float32),
    )


@settings(max_examples=10, deadline=None)
@given(
    side=st.integers(2, 3),
    heads=st.integers(1, 3),
    count=st.integers(1, 4),
    masked=st.booleans(),
    dtype=st.sampled_from(["float", "float16"]),
)
def test_bias_and_mask_are_one_constant(side, heads, count, masked, dtype):
    model = windows(side, heads, count, masked=masked, dtype=dtype)
    feeds = draw(model)
    expected = run(model, feeds)["y"]
    default_pipeline().run(model)
    [node] = model.graph
    assert is_op(node, "Attention")
    bias = constant(node.inputs[3])
    assert bias is not None
    assert bias.shape[1:] in {(heads, side**2, side**2), (1, side**2, side**2)}
    load_passes()
    Pipeline.named(["decompose.attention"]).run(model)
    np.testing.assert_allclose(run(model, feeds)["y"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_a_table_that_is_an_input_is_still_gathered(masked):
    """The constant is folded because it is one, not because of its place."""
    model = windows(2, 2, 3, masked=masked)
    table = model.graph.initializers.pop("table")
    table.const_value = None
    model.graph.inputs.append(table)
    default_pipeline().run(model)
    assert any(is_op(node, "Gather") for node in model.graph)
