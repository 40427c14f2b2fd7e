import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_graphs import build, check, f32, ops, reasons

ERF = "d = Div(x, root)\n e = Erf(d)\n a = Add(e, one)\n"
CONSTANTS = {
    "root": f32(math.sqrt(2)),
    "one": f32(1.0),
    "half": f32(0.5),
    "three": f32(3.0),
    "c": f32(0.044715),
    "k": f32(math.sqrt(2 / math.pi)),
    "k2": f32(2 * math.sqrt(2 / math.pi)),
    "inverse": f32(math.sqrt(0.5)),
    "q": f32(1.702),
}
TANH = "p = Pow(x, three)\n m = Mul(p, c)\n s = Add(x, m)\n z = Mul(s, k)\n t = Tanh(z)\n a = Add(t, one)\n"

FORMS = {
    "(x · (1 + erf)) · ½": ("none", ERF + "b = Mul(x, a)\n y = Mul(b, half)"),
    "x · (½ · (1 + erf))": ("none", ERF + "b = Mul(half, a)\n y = Mul(x, b)"),
    "(½ · x) · (1 + erf)": ("none", ERF + "b = Mul(half, x)\n y = Mul(b, a)"),
    "x · (½ · erf + ½)": (
        "none",
        "d = Mul(x, inverse)\n e = Erf(d)\n b = Mul(e, half)\n a = Add(b, half)\n y = Mul(a, x)",
    ),
    "x · (1 + erf) / 2": ("none", ERF + "b = Mul(x, a)\n two = Add(one, one)\n y = Div(b, two)"),
    "tanh, x³ by Pow": ("tanh", TANH + "b = Mul(x, half)\n y = Mul(b, a)"),
    "tanh, x · (1 + c · x²)": (
        "tanh",
        "u = Mul(x, x)\n v = Mul(u, c)\n w = Add(v, one)\n s = Mul(x, w)\n z = Mul(s, k)\n t = Tanh(z)\n"
        "a = Add(t, one)\n b = Mul(a, half)\n y = Mul(x, b)",
    ),
    "x · sigmoid(2z)": (
        "tanh",
        "u = Mul(x, x)\n v = Mul(u, x)\n w = Mul(v, c)\n s = Add(x, w)\n z = Mul(s, k2)\n t = Sigmoid(z)\n"
        "y = Mul(x, t)",
    ),
}


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=4, deadline=None)
@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_forms_become_one_node(form, shape):
    approximate, body = FORMS[form]
    size = ",".join(map(str, shape))
    model = build(f"(float[{size}] x) => (float[{size}] y) {{ {body} }}", **CONSTANTS)
    reports = check(model, "canonicalize.constants", "fuse.gelu", "canonicalize.dead")
    assert reports["fuse.gelu"].matched == 1
    assert ops(model) == {"Gelu": 1}
    assert model.graph.node(0).attributes["approximate"].value == approximate
    assert model.graph.node(0).metadata_props["edgec.pass"] == "fuse.gelu"


def test_quick_gelu_is_ordered():
    model = build(
        "(float[2,3] x) => (float[2,3] y) { a = Mul(x, q)\n s = Sigmoid(a)\n y = Mul(s, x) }", **CONSTANTS
    )
    assert check(model, "fuse.gelu")["fuse.gelu"].matched == 1
    product = model.graph.outputs[0].producer()
    assert product.inputs[0].name == "x"
    assert product.inputs[1].producer().op_type == "Sigmoid"


def test_a_gelu_that_is_there_counts():
    model = build('(float[2,3] x) => (float[2,3] y) { y = Gelu<approximate="tanh">(x) }')
    assert check(model, "fuse.gelu")["fuse.gelu"].matched == 1


def test_half_precision_constants():
    half = {name: array.astype(np.float16) for name, array in CONSTANTS.items()}
    body = FORMS["(x · (1 + erf)) · ½"][1]
    model = build(f"(float16[2,8] x) => (float16[2,8] y) {{ {body} }}", **half)
    # fp16 rounds at 4.9e-4, five roundings against one.
    assert check(model, "fuse.gelu", tolerance=5e-3)["fuse.gelu"].matched == 1


@pytest.mark.parametrize(
    ("body", "outputs", "reason"),
    [
        (ERF + "b = Mul(x, a)\n y = Mul(b, half)\n z = Neg(e)", "float[2,3] y, float[2,3] z", "Neg"),
        (ERF + "b = Mul(x, a)\n y = Mul(b, one)", "float[2,3] y", "not those of GELU"),
        (ERF + "y = Mul(w, a)", "float[2,3] y", "no factor"),
        (
            "d = Mul(x, half)\n e = Erf(d)\n a = Add(e, one)\n b = Mul(x, a)\n y = Mul(b, half)",
            "float[2,3] y",
            "no factor",
        ),
        (
            ERF + "b = Mul(x, a)\n y = Mul(b, half)\n z = Identity(a)",
            "float[2,3] y, float[2,3] z",
            "Identity",
        ),
    ],
)
def test_near_misses_say_why(body, outputs, reason):
    model = build(f"(float[2,3] x, float[2,3] w) => ({outputs}) {{ {body} }}", **CONSTANTS)
    report = check(model, "fuse.gelu")["fuse.gelu"]
    assert report.matched == 0
    assert reason in reasons(report)


def test_a_tanh_that_is_no_gelu_is_no_miss():
    model = build("(float[2,3] x) => (float[2,3] y) { t = Tanh(x)\n y = Mul(t, half) }", **CONSTANTS)
    report = check(model, "fuse.gelu")["fuse.gelu"]
    assert (report.matched, report.missed) == (0, ())


def test_a_constant_that_adds_an_axis_is_left():
    wide = {**CONSTANTS, "half": np.full((1, 1, 1), 0.5, np.float32)}
    model = build(f"(float[2,3] x) => (float[1,2,3] y) {{ {ERF} b = Mul(x, a)\n y = Mul(b, half) }}", **wide)
    assert check(model, "fuse.gelu")["fuse.gelu"].matched == 0


@pytest.mark.parametrize(
    "body",
    [
        "d = Div(x, root)\n e = Erf(d)\n b = Mul(e, minus_half)\n a = Add(b, half)\n y = Mul(x, a)",
        "d = Div(x, root)\n e = Erf(d)\n b = Mul(e, half)\n a = Sub(b, half)\n y = Mul(x, a)",
        ERF + "b = Mul(x, a)\n y = Mul(b, q)",
        "e = Erf(x)\n a = Add(e, one)\n b = Mul(x, a)\n y = Mul(b, half)",
    ],
)
def test_a_gelu_of_another_sign_or_factor_is_none(body):
    numbers = {**CONSTANTS, "minus_half": f32(-0.5)}
    model = build(f"(float[2,3] x) => (float[2,3] y) {{ {body} }}", **numbers)
    assert check(model, "fuse.gelu")["fuse.gelu"].matched == 0
    assert "Gelu" not in ops(model)


def test_a_constant_that_gives_more_axes_is_kept():
    body = ERF.replace("root", "wide") + "b = Mul(x, a)\n y = Mul(b, half)"
    wide = np.full((1, 1), math.sqrt(2), np.float32)
    model = build(f"(float[3] x) => (float[1,3] y) {{ {body} }}", wide=wide, **CONSTANTS)
    report = check(model, "fuse.gelu")["fuse.gelu"]
    assert report.matched == 0
    assert "a constant gives y more axes than x" in reasons(report)
