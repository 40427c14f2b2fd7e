import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_graphs import build, check, f32, i64, ops, reasons, weight

MEAN = "m = ReduceMean<keepdims=1>(x, axes)\n d = Sub(x, m)\n"
ROOTS = {
    "div sqrt": "r = Sqrt(a)\n n = Div({0}, r)\n",
    "mul reciprocal": "r = Sqrt(a)\n i = Reciprocal(r)\n n = Mul({0}, i)\n",
    "reciprocal first": "i = Reciprocal(a)\n r = Sqrt(i)\n n = Mul(r, {0})\n",
    "pow -1/2": "r = Pow(a, minus_half)\n n = Mul({0}, r)\n",
    "pow 1/2": "r = Pow(a, half)\n n = Div({0}, r)\n",
    "one over": "r = Sqrt(a)\n i = Div(one, r)\n n = Mul({0}, i)\n",
}
SQUARES = {"mul": "q = Mul({0}, {0})\n", "pow": "q = Pow({0}, two)\n"}
AVERAGES = {
    "mean": "v = ReduceMean<keepdims=1>(q, axes)\n",
    "sum over count": "t = ReduceSum<keepdims=1>(q, axes)\n v = Div(t, count)\n",
}
NUMBERS = {
    "eps": f32(1e-5),
    "half": f32(0.5),
    "minus_half": f32(-0.5),
    "one": f32(1.0),
    "two": f32(2.0),
    "axes": i64(-1),
}


def norm(root, square, average, of, affine=""):
    return (
        SQUARES[square].format(of) + AVERAGES[average] + "a = Add(v, eps)\n" + ROOTS[root].format(of) + affine
    )


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("square", SQUARES)
@settings(max_examples=4, deadline=None)
@given(
    average=st.sampled_from(sorted(AVERAGES)),
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    width=st.integers(2, 9),
    left=st.booleans(),
)
def test_layer_norm_in_every_spelling(root, square, average, shape, width, left):
    affine = "s = Mul(w, n)\n y = Add(b, s)" if left else "s = Mul(n, w)\n y = Add(s, b)"
    size = ",".join(map(str, [*shape, width]))
    model = build(
        f"(float[{size}] x) => (float[{size}] y) {{ {MEAN}{norm(root, square, average, 'd', affine)} }}",
        w=weight(width),
        b=weight(width, seed=8),
        count=f32(width),
        **NUMBERS,
    )
    reports = check(model, "canonicalize.exporter", "fuse.layer_norm", "fuse.rms_norm", "canonicalize.dead")
    assert reports["fuse.layer_norm"].matched == 1
    assert reports["fuse.rms_norm"].matched == 0
    assert ops(model) == {"LayerNormalization": 1}


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("square", SQUARES)
def test_rms_norm_in_every_spelling(root, square):
    body = norm(root, square, "mean", "x", "y = Mul(w, n)")
    model = build(f"(float[2,3,8] x) => (float[2,3,8] y) {{ {body} }}", w=weight(8), **NUMBERS)
    reports = check(model, "fuse.layer_norm", "fuse.rms_norm", "canonicalize.dead")
    assert reports["fuse.rms_norm"].matched == 1
    assert reports["fuse.layer_norm"].matched == 0
    assert ops(model) == {"RMSNormalization": 1}


def test_a_norm_without_affine_gets_a_scale_of_ones():
    body = MEAN + norm("div sqrt", "mul", "mean", "d", "y = Identity(n)")
    model = build(f"(float[2,8] x) => (float[2,8] y) {{ {body} }}", **NUMBERS)
    assert check(model, "fuse.layer_norm", "canonicalize.dead")["fuse.layer_norm"].matched == 1
    node = next(n for n in model.graph if n.op_type == "LayerNormalization")
    np.testing.assert_array_equal(node.inputs[1].const_value.numpy(), np.ones(8, np.float32))


def test_several_axes():
    body = MEAN + norm("div sqrt", "mul", "mean", "d", "s = Mul(n, w)\n y = Add(s, b)")
    numbers = {**NUMBERS, "axes": i64(1, 2)}
    model = build(
        f"(float[2,4,5] x) => (float[2,4,5] y) {{ {body} }}", w=weight(4, 5), b=weight(5), **numbers
    )
    assert check(model, "fuse.layer_norm", "canonicalize.dead")["fuse.layer_norm"].matched == 1
    assert ops(model) == {"LayerNormalization": 1}


def test_a_second_subtraction_of_the_same_mean():
    body = MEAN + "d2 = Sub(x, m)\n" + norm("div sqrt", "pow", "mean", "d2").replace("Div(d2", "Div(d")
    model = build(f"(float[2,8] x) => (float[2,8] y) {{ {body} y = Mul(n, w) }}", w=weight(8), **NUMBERS)
    assert check(model, "fuse.layer_norm", "canonicalize.dead")["fuse.layer_norm"].matched == 1


def test_channels_of_a_map_are_left_with_the_reason():
    body = MEAN + norm("div sqrt", "mul", "mean", "d", "y = Mul(n, w)")
    model = build(
        f"(float[1,4,3,3] x) => (float[1,4,3,3] y) {{ {body} }}",
        w=weight(4, 1, 1),
        **{**NUMBERS, "axes": i64(1)},
    )
    report = check(model, "fuse.layer_norm")["fuse.layer_norm"]
    assert report.matched == 0
    assert "not the last ones" in reasons(report)


def test_a_mean_over_other_axes_is_no_layer_norm():
    body = "m = ReduceMean<keepdims=1>(x, other)\n d = Sub(x, m)\n" + norm("div sqrt", "mul", "mean", "d")
    model = build(
        f"(float[2,3,8] x) => (float[2,3,8] y) {{ {body} y = Mul(n, w) }}",
        w=weight(8),
        other=i64(0),
        **NUMBERS,
    )
    reports = check(model, "fuse.layer_norm", "fuse.rms_norm")
    assert reports["fuse.layer_norm"].matched == 0
    assert reports["fuse.rms_norm"].matched == 1  # of the differences from that mean, which it is


def test_a_wrong_count_is_no_mean():
    body = norm("div sqrt", "mul", "sum over count", "x", "y = Mul(n, w)")
    model = build(f"(float[2,8] x) => (float[2,8] y) {{ {body} }}", w=weight(8), count=f32(7.0), **NUMBERS)
    assert check(model, "fuse.rms_norm")["fuse.rms_norm"].matched == 0


def test_a_scale_along_the_rows_stays_outside():
    body = MEAN + norm("div sqrt", "mul", "mean", "d", "y = Mul(n, w)")
    model = build(f"(float[8,8] x) => (float[8,8] y) {{ {body} }}", w=weight(8, 1), **NUMBERS)
    assert check(model, "fuse.layer_norm", "canonicalize.dead")["fuse.layer_norm"].matched == 1
    assert ops(model) == {"LayerNormalization": 1, "Mul": 1}


def test_inner_values_with_other_readers_stay():
    body = MEAN + norm("div sqrt", "mul", "mean", "d", "s = Mul(n, w)\n y = Add(s, b)\n z = Neg(n)")
    model = build(
        f"(float[2,8] x) => (float[2,8] y, float[2,8] z) {{ {body} }}", w=weight(8), b=weight(8), **NUMBERS
    )
    check(model, "fuse.layer_norm", "canonicalize.dead")
    assert ops(model) == {"LayerNormalization": 1, "Mul": 1, "Add": 1, "Neg": 1}


def test_affine_behind_a_norm_that_is_there():
    body = "n = LayerNormalization<axis=-1>(x, g, h)\n s = Mul(n, w)\n y = Add(s, b)"
    model = build(
        f"(float[2,8] x) => (float[2,8] y) {{ {body} }}",
        g=weight(8, seed=1),
        h=weight(8, seed=2),
        w=weight(8, seed=3),
        b=weight(8, seed=4),
    )
    assert check(model, "fuse.layer_norm", "canonicalize.dead")["fuse.layer_norm"].matched == 1
    assert ops(model) == {"LayerNormalization": 1}


def test_casts_of_a_half_precision_rms_norm_go_inside():
    body = "f = Cast<to=1>(h)\n" + norm(
        "mul reciprocal", "pow", "mean", "f", "c = Cast<to=10>(n)\n y = Mul(w, c)"
    )
    model = build(
        f"(float16[2,8] h) => (float16[2,8] y) {{ {body} }}", w=weight(8).astype(np.float16), **NUMBERS
    )
    # One rounding to fp16 (4.9e-4) more or less.
    reports = check(model, "fuse.rms_norm", "canonicalize.dead", tolerance=2e-3)
    assert reports["fuse.rms_norm"].matched == 1
    assert ops(model) == {"RMSNormalization": 1}


def test_dividing_something_else_by_a_root_mean_square_is_no_norm():
    body = norm("div sqrt", "mul", "mean", "x", "y = Mul(n, w)").replace("Div(x", "Div(z")
    model = build(f"(float[2,8] x, float[2,8] z) => (float[2,8] y) {{ {body} }}", w=weight(8), **NUMBERS)
    assert check(model, "fuse.layer_norm", "fuse.rms_norm")["fuse.rms_norm"].matched == 0


def test_the_spread_of_something_else_is_no_layer_norm():
    body = MEAN + "m2 = ReduceMean<keepdims=1>(z, axes)\n d2 = Sub(z, m2)\n"
    body += norm("div sqrt", "mul", "mean", "d2", "y = Mul(n, w)").replace("n = Div(d2, r)", "n = Div(d, r)")
    model = build(f"(float[2,4] x, float[2,4] z) => (float[2,4] y) {{ {body} }}", w=weight(4), **NUMBERS)
    assert check(model, "fuse.layer_norm")["fuse.layer_norm"].matched == 0
    assert "LayerNormalization" not in ops(model)
