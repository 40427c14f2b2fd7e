import pytest
from pass_graphs import build, check, f32, ops


@pytest.mark.parametrize(
    "body",
    [
        "s = Sigmoid(x)\n y = Mul(s, x)",
        "s = Sigmoid(x)\n y = Mul(x, s)",
        "n = Neg(x)\n e = Exp(n)\n a = Add(e, one)\n y = Div(x, a)",
        "n = Neg(x)\n e = Exp(n)\n a = Add(e, one)\n r = Reciprocal(a)\n y = Mul(r, x)",
    ],
)
def test_forms_become_one_product(body):
    model = build(f"(float[2,3] x) => (float[2,3] y) {{ {body} }}", one=f32(1.0))
    report = check(model, "fuse.silu")["fuse.silu"]
    assert ops(model) == {"Sigmoid": 1, "Mul": 1}
    product = model.graph.outputs[0].producer()
    assert product.inputs[0].name == "x"
    assert report.matched >= 1


def test_a_gate_on_something_else_is_no_silu():
    model = build("(float[2,3] x, float[2,3] w) => (float[2,3] y) { s = Sigmoid(x)\n y = Mul(w, s) }")
    assert check(model, "fuse.silu")["fuse.silu"].matched == 0


def test_one_plus_exp_with_another_reader_stays():
    body = "n = Neg(x)\n e = Exp(n)\n a = Add(e, one)\n y = Div(x, a)\n z = Mul(a, a)"
    model = build(f"(float[2,3] x) => (float[2,3] y, float[2,3] z) {{ {body} }}", one=f32(1.0))
    assert check(model, "fuse.silu")["fuse.silu"].matched == 0


def test_another_number_than_one_is_no_sigmoid():
    model = build(
        "(float[2,3] x) => (float[2,3] y) { n = Neg(x)\n e = Exp(n)\n a = Add(e, two)\n y = Div(x, a) }",
        two=f32(2.0),
    )
    assert check(model, "fuse.silu")["fuse.silu"].matched == 0
