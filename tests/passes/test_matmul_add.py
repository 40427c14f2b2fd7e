import numpy as np
import pytest
from pass_graphs import build, check, f32, ops, reasons, weight

FOLD = ("fuse.matmul_add", "canonicalize.dead")
NAME = FOLD[0]
NUMBERS = {
    "w": weight(5, 4),
    "b": weight(4, seed=1),
    "c": weight(4, seed=2),
    "d": weight(4, seed=3),
    "k": f32(0.3),
}


@pytest.mark.parametrize(
    ("body", "matched", "left"),
    [
        ("m = MatMul(x, w)\n a = Add(m, b)\n s = Mul(a, c)\n y = Add(s, d)", 2, {"MatMul": 1, "Add": 1}),
        ("m = MatMul(x, w)\n a = Add(b, m)\n y = Mul(c, a)", 1, {"MatMul": 1, "Add": 1}),
        ("m = MatMul(x, w)\n y = Mul(m, k)", 1, {"MatMul": 1}),
        ("m = MatMul(x, w)\n a = Add(m, b)\n y = Div(a, k)", 1, {"MatMul": 1, "Add": 1}),
        ("m = MatMul(x, w)\n a = Add(m, b)\n y = Add(a, d)", 1, {"MatMul": 1, "Add": 1}),
        ("a = Add(x2, b)\n y = Add(a, d)", 1, {"Add": 1}),
        ("m = MatMul(x, w)\n a = Add(m, b)\n y = Mul(a, x2)", 0, {"MatMul": 1, "Add": 1, "Mul": 1}),
    ],
)
def test_what_follows_goes_in(body, matched, left):
    model = build(f"(float[2,3,5] x, float[2,3,4] x2) => (float[2,3,4] y) {{ {body} }}", **NUMBERS)
    assert check(model, *FOLD)[NAME].matched == matched
    assert ops(model) == left


def test_a_factor_a_row_stays():
    model = build(
        "(float[4,5] x) => (float[4,4] y) { m = MatMul(x, w)\n y = Mul(m, rows) }",
        rows=weight(4, 1),
        w=weight(5, 4),
    )
    assert check(model, *FOLD)[NAME].matched == 0


def test_a_layer_with_another_reader_is_left_with_the_reason():
    model = build("(float[3,5] x) => (y, z) { m = MatMul(x, w)\n y = Mul(m, c)\n z = Neg(m) }", **NUMBERS)
    report = check(model, *FOLD)[NAME]
    assert report.matched == 0
    assert "Neg" in reasons(report)


def test_a_layer_that_is_an_output_is_left():
    model = build(
        "(float[3,5] x) => (float[3,4] m, float[3,4] y) { m = MatMul(x, w)\n y = Mul(m, c) }", **NUMBERS
    )
    assert "output of the model" in reasons(check(model, *FOLD)[NAME])


def test_a_shared_weight_is_copied():
    model = build(
        "(float[3,5] x, float[3,5] x2) => (y, z) { m = MatMul(x, w)\n y = Mul(m, c)\n z = MatMul(x2, w) }",
        **NUMBERS,
    )
    assert check(model, *FOLD)[NAME].matched == 1
    assert sum(array.const_value.shape == [5, 4] for array in model.graph.initializers.values()) == 2


def test_offsets_along_different_axes_are_not_spread_out():
    model = build(
        "(float[6,4] x) => (float[6,4] y) { a = Add(x, rows)\n y = Add(a, columns) }",
        rows=weight(6, 1),
        columns=weight(1, 4),
    )
    assert check(model, *FOLD)[NAME].matched == 0
    assert np.prod(model.graph.initializers["rows"].shape.numpy()) == 6


def test_a_division_by_a_zero_stays():
    model = build(
        "(float[2,3] x) => (float[2,4] y) { a = MatMul(x, w)\n y = Div(a, d) }",
        w=weight(3, 4),
        d=f32(1, 2, 0, 4),
    )
    assert check(model, *FOLD)[NAME].matched == 0
    assert ops(model) == {"MatMul": 1, "Div": 1}


def test_offsets_of_crossing_shapes_are_not_added_up():
    model = build(
        "(float[4,4] x) => (float[4,4] y) { a = Add(x, row)\n y = Add(a, column) }",
        row=weight(1, 4),
        column=weight(4, 1),
    )
    assert check(model, *FOLD)[NAME].matched == 0


def test_a_factor_of_more_axes_stays():
    model = build(
        "(float[2,5] x) => (y) { m = MatMul(x, w)\n y = Mul(m, k) }", w=weight(5, 4), k=weight(1, 1, 4)
    )
    assert check(model, *FOLD)[NAME].matched == 0


@pytest.mark.parametrize("op", ["Mul(m, c)", "Div(m, c)"])
def test_a_product_that_others_read_stays_with_the_reason(op):
    model = build(
        "(float[2,3,5] x) => (float[2,3,4] y, float[2,3,4] z) "
        f"{{ m = MatMul(x, w)\n y = {op}\n z = Neg(m) }}",
        w=NUMBERS["w"],
        c=NUMBERS["c"],
    )
    report = check(model, *FOLD)[NAME]
    assert report.matched == 0
    assert "is read by Neg" in reasons(report)
