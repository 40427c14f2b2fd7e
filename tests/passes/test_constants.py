import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_graphs import apply, build, check, draw, f32, i64, ops, reasons, run, weight

from edgec.core.dialect import SOURCE_KEY

FOLD = "canonicalize.constants"


def test_constants_become_initializers_of_the_same_name():
    model = build("(float[2,3] x) => (float[2,3] y) { c = Constant<value_float=2.0>()\n y = Mul(x, c) }")
    assert check(model, FOLD)[FOLD].matched == 1
    assert ops(model) == {"Mul": 1}
    assert model.graph.initializers["c"].const_value.numpy() == np.float32(2)
    assert SOURCE_KEY in model.graph.initializers["c"].metadata_props


@settings(max_examples=10, deadline=None)
@given(shape=st.lists(st.integers(1, 5), min_size=2, max_size=4))
def test_shape_arithmetic_of_fixed_sizes_folds(shape):
    size, rest = ",".join(map(str, shape)), int(np.prod(shape[1:]))
    model = build(
        f"(float[{size}] x) => (float[{shape[0]},{rest}] y) {{ s = Shape(x)\n g = Gather(s, zero)\n"
        "u = Unsqueeze(g, first)\n t = Concat<axis=0>(u, rest)\n y = Reshape(x, t) }",
        zero=np.array(0, np.int64),
        first=i64(0),
        rest=i64(-1),
    )
    assert check(model, FOLD, "canonicalize.dead")[FOLD].matched == 4
    assert ops(model) == {"Reshape": 1}


def test_an_open_batch_becomes_the_reshapes_own():
    model = build(
        "(float[batch,6] x) => (float[batch,2,3] y) { s = Shape(x)\n g = Gather(s, zero)\n"
        "u = Unsqueeze(g, first)\n t = Concat<axis=0>(u, rest)\n y = Reshape(x, t) }",
        zero=np.array(0, np.int64),
        first=i64(0),
        rest=i64(2, 3),
    )
    check(model, FOLD, "canonicalize.dead")
    assert ops(model) == {"Reshape": 1}
    for batch in (1, 5):
        feeds = {"x": np.arange(batch * 6, dtype=np.float32).reshape(batch, 6)}
        np.testing.assert_array_equal(run(model, feeds)["y"], feeds["x"].reshape(batch, 2, 3))


def test_a_relative_position_bias_folds():
    index = np.random.default_rng(0).integers(0, 25, (9 * 9,))
    model = build(
        "(float[2,4,9,9] x) => (float[2,4,9,9] y) { g = Gather(table, index)\n r = Reshape(g, shape)\n"
        "t = Transpose<perm=[2,0,1]>(r)\n u = Unsqueeze(t, first)\n y = Add(x, u) }",
        table=weight(25, 4),
        index=index.astype(np.int64),
        shape=i64(9, 9, 4),
        first=i64(0),
    )
    check(model, FOLD, "canonicalize.dead")
    assert ops(model) == {"Add": 1}
    assert set(model.graph.initializers) == {"u"}


@pytest.mark.parametrize("fill", ["", "<value=float[1] {3.5}>"])
def test_constant_of_an_empty_shape_is_a_scalar(fill):
    model = build(
        f"(float[2,3] x) => (float[2,3] y) {{ c = ConstantOfShape{fill}(shape)\n y = Add(x, c) }}",
        shape=np.zeros(0, np.int64),
    )
    check(model, FOLD, "canonicalize.dead")
    assert ops(model) == {"Add": 1}
    assert model.graph.initializers["c"].const_value.numpy().shape == ()


def test_what_would_grow_the_model_is_left_with_the_reason():
    model = build(
        "(float[1] x) => (float[2048,1024] y) { e = Expand(c, shape)\n y = Add(e, x) }",
        c=f32(1.0, 2.0)[:1],
        shape=i64(2048, 1024),
    )
    report = check(model, FOLD)[FOLD]
    assert ops(model)["Expand"] == 1
    assert "would add 8388" in reasons(report)


def test_quantised_weights_stay_quantised():
    model = build(
        "(float[2,4] x) => (float[2,3] y) { t = Transpose<perm=[1,0]>(q)\n "
        "w = DequantizeLinear(t, scale, zero)\n y = MatMul(x, w) }",
        q=np.arange(12, dtype=np.int8).reshape(3, 4),
        scale=f32(0.1),
        zero=np.array(0, np.int8),
    )
    check(model, FOLD, "canonicalize.dead")
    assert ops(model) == {"DequantizeLinear": 1, "MatMul": 1}


def test_draws_are_never_folded():
    model = build("(float[4] x) => (float[4] y) { r = RandomNormalLike(c)\n y = Add(x, r) }", c=weight(4))
    apply(model, FOLD)
    assert ops(model)["RandomNormalLike"] == 1


def test_an_output_that_is_constant_keeps_its_name():
    model = build("(float[2] x) => (float[2] y, float[2] z) { y = Neg(x)\n z = Add(a, a) }", a=weight(2))
    check(model, FOLD, "canonicalize.identity", "canonicalize.dead")
    assert [value.name for value in model.graph.outputs] == ["y", "z"]


def test_an_initializer_that_is_an_input_is_only_a_default():
    model = build("(float[2] x, float[2] w) => (float[2] y) { n = Neg(w)\n y = Add(x, n) }", w=weight(2))
    check(model, FOLD, "canonicalize.dead")
    assert ops(model) == {"Neg": 1, "Add": 1}
    feeds = {"x": f32(1, 2), "w": f32(5, 7)}
    np.testing.assert_array_equal(run(model, feeds)["y"], f32(-4, -5))


def test_a_value_that_a_body_captures_stays_reachable():
    model = build(
        "(bool c, float[2] x) => (float[2] y) { k = Constant<value_floats=[1.0,2.0]>()\n"
        "y = If<then_branch = t () => (float[2] a) { a = Add(x, k) },"
        "else_branch = e () => (float[2] b) { b = Mul(x, k) }>(c) }"
    )
    check(model, FOLD, "canonicalize.identity", "canonicalize.sink_slice", "canonicalize.dead")
    assert ops(model) == {"If": 1, "Add": 1, "Mul": 1}


@settings(max_examples=15, deadline=None)
@given(
    op=st.sampled_from(["Add", "Mul", "Div", "Pow", "Sub"]),
    kind=st.sampled_from([np.float32, np.float64, np.int64, np.int32]),
    seed=st.integers(0, 9),
)
def test_folded_arithmetic_is_the_engines(op, kind, seed):
    generator = np.random.default_rng(seed)
    a, b = (generator.integers(1, 5, 6).astype(kind) * kind(1) for _ in range(2))
    if np.issubdtype(kind, np.floating):
        a = a + generator.random(6).astype(kind)
    name = ir.DataType.from_numpy(np.dtype(kind)).name.lower()
    body = f"({name}[6] x) => ({name}[6] y) {{ c = {op}(a, b)\n y = Add(x, c) }}"
    model = build(body, a=a.astype(kind), b=b)
    reference = build(body, a=a.astype(kind), b=b)
    feeds = draw(model)
    assert check(model, FOLD)[FOLD].matched == 1
    np.testing.assert_array_equal(run(model, feeds)["y"], run(reference, feeds)["y"])


def test_a_reshape_that_takes_zeros_for_sizes_is_left():
    """With allowzero, 0 is a size: the form with -1 would copy it from the input instead."""
    model = build(
        "(float[batch,3,4] x) => (float[a,b] y) { s = Shape<start=0, end=1>(x)\n "
        "t = Concat<axis=0>(s, twelve)\n y = Reshape<allowzero=1>(x, t) }",
        twelve=i64(12),
    )
    check(model, FOLD)
    assert ops(model) == {"Shape": 1, "Concat": 1, "Reshape": 1}
    assert run(model, {"x": np.ones((0, 3, 4), np.float32)})["y"].shape == (0, 12)
