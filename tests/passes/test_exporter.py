import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_graphs import build, check, f32, i64, ops, reasons, weight

EXPORTER = ("canonicalize.exporter", "canonicalize.dead")


@settings(max_examples=16, deadline=None)
@given(
    trans_a=st.booleans(),
    trans_b=st.booleans(),
    alpha=st.sampled_from([1.0, 0.5]),
    beta=st.sampled_from([1.0, 2.0, 0.0]),
    bias=st.sampled_from([(), (4,), (1, 4), (3, 1), (3, 4), None]),
)
def test_gemm(trans_a, trans_b, alpha, beta, bias):
    a = "5,3" if trans_a else "3,5"
    numbers = {"w": weight(4, 5) if trans_b else weight(5, 4)}
    c = ""
    if bias is not None:
        numbers["c"], c = weight(*bias), ", c"
    attributes = f"transA={int(trans_a)}, transB={int(trans_b)}, alpha={alpha}, beta={beta}"
    model = build(f"(float[{a}] x) => (float[3,4] y) {{ y = Gemm<{attributes}>(x, w{c}) }}", **numbers)
    assert check(model, *EXPORTER)["canonicalize.exporter"].matched >= 1
    assert "Gemm" not in ops(model)
    assert ops(model)["Add"] == (bias is not None and beta != 0)


def test_gemm_of_two_inputs_and_a_scaled_bias_stays():
    model = build(
        "(float[3,5] x, float[5,4] w, float[4] c) => (float[3,4] y) { y = Gemm<beta=2.0>(x, w, c) }"
    )
    report = check(model, *EXPORTER)["canonicalize.exporter"]
    assert ops(model) == {"Gemm": 1}
    assert "alpha or beta" in reasons(report)


def test_a_large_shared_weight_is_not_copied_transposed():
    model = build(
        "(int64[3] i, float[3,512] x) => (float[3,512] e, float[3,1024] y) { e = Gather(w, i)\n"
        "y = Gemm<transB=1>(x, w) }",
        w=weight(1024, 512),
    )
    report = check(model, *EXPORTER, tolerance=1e-3)["canonicalize.exporter"]
    assert ops(model)["Gemm"] == 1
    assert "shared" in reasons(report)


@pytest.mark.parametrize(
    ("equation", "left", "right", "out"),
    [
        ("bhqd,bhkd->bhqk", "2,3,4,5", "2,3,6,5", "2,3,4,6"),
        ("bhqk,bhkd->bqhd", "2,3,4,6", "2,3,6,5", "2,4,3,5"),
        ("bnc,cd->bnd", "2,3,4", "4,5", None),
        ("ij,jk->ki", "3,4", "4,5", "5,3"),
        ("bqhd,bkhd->bhqk", "2,4,3,5", "2,6,3,5", "2,3,4,6"),
    ],
)
def test_einsum(equation, left, right, out):
    shape = out or "2,3,5"
    body = f'y = Einsum<equation="{equation}">(x, w)'
    model = build(f"(float[{left}] x, float[{right}] w) => (float[{shape}] y) {{ {body} }}")
    check(model, *EXPORTER)
    assert ("Einsum" in ops(model)) == (out is None)  # two free letters on the left stay


ARITHMETIC = {
    "y = Add(two, x)": {"Add": 1},
    "y = Mul(two, x)": {"Mul": 1},
    "y = Sub(x, two)": {"Add": 1},
    "y = Sub(two, x)": {"Sub": 1},
    "y = Div(x, eight)": {"Mul": 1},
    "y = Div(x, three)": {"Div": 1},
    "y = Div(one, x)": {"Reciprocal": 1},
    "y = Pow(x, two)": {"Mul": 1},
    "a = Abs(x)\n y = Pow(a, half)": {"Abs": 1, "Sqrt": 1},
    "a = Abs(x)\n y = Pow(a, minus_half)": {"Abs": 1, "Sqrt": 1, "Reciprocal": 1},
    "y = Pow(x, minus)": {"Reciprocal": 1},
    "y = Pow(x, three)": {"Pow": 1},
    "r = Reciprocal(x)\n y = Mul(r, w)": {"Div": 1},
    "r = Reciprocal(x)\n y = Mul(w, r)": {"Div": 1},
    "a = Mul(x, two)\n y = Mul(three, a)": {"Mul": 1},
    "a = Max(x, zero)\n y = Min(a, six)": {"Clip": 1},
    "a = Min(six, x)\n y = Max(zero, a)": {"Clip": 1},
    "y = Max(x, zero)": {"Relu": 1},
    "a = Min(x, zero)\n y = Max(a, six)": {"Min": 1, "Max": 1},
    "s = Add(x, three)\n c = Clip(s, zero, six)\n y = Div(c, six)": {"HardSigmoid": 1},
    "s = Add(x, three)\n c = Clip(s, zero, six)\n y = Mul(c, sixth)": {"HardSigmoid": 1},
    "s = Add(x, three)\n c = Clip(s, zero, six)\n d = Div(c, six)\n y = Mul(x, d)": {"HardSwish": 1},
    "s = Add(x, three)\n c = Clip(s, zero, six)\n d = Mul(x, c)\n y = Div(d, six)": {"HardSwish": 1},
    "s = Add(x, three)\n c = Clip(s, zero, six)\n d = Div(c, six)\n y = Mul(w, d)": {
        "HardSigmoid": 1,
        "Mul": 1,
    },
    "y = HardSigmoid(x)": {"HardSigmoid": 1},
}


@pytest.mark.parametrize("body", ARITHMETIC)
def test_arithmetic(body):
    numbers = {
        "one": 1.0,
        "two": 2.0,
        "three": 3.0,
        "six": 6.0,
        "eight": 8.0,
        "sixth": 1 / 6,
        "half": 0.5,
        "minus_half": -0.5,
        "minus": -1.0,
        "zero": 0.0,
    }
    # The values of w stand in for a tensor that is not constant.
    model = build(
        f"(float[4,6] x, float[4,6] w) => (float[4,6] y) {{ {body} }}",
        **{name: f32(number) for name, number in numbers.items() if name in body},
    )
    check(model, *EXPORTER)
    assert ops(model) == ARITHMETIC[body]


@pytest.mark.parametrize(
    "body",
    [
        "g = HardSigmoid<alpha=0.16666667, beta=0.7>(x)\n y = Mul(x, g)",
        "g = HardSigmoid<alpha=0.2, beta=0.5>(x)\n y = Mul(x, g)",
        "g = HardSigmoid<alpha=0.16666667, beta=0.5>(w)\n y = Mul(x, g)",
        "s = Add(x, three)\n c = Clip(s, zero, six)\n y = Div(c, nearly_six)",
        "s = Add(x, three)\n c = Clip(s, zero, six)\n d = Mul(x, c)\n y = Div(d, nearly_six)",
        "s = Add(x, three)\n c = Clip(s, zero, five)\n y = Div(c, six)",
        "s = Add(x, two)\n c = Clip(s, zero, six)\n y = Div(c, six)",
    ],
)
def test_what_is_nearly_a_hard_sigmoid_or_hard_swish_is_none(body):
    numbers = {"two": 2.0, "three": 3.0, "five": 5.0, "six": 6.0, "nearly_six": 6.004, "zero": 0.0}
    model = build(
        f"(float[4,6] x, float[4,6] w) => (float[4,6] y) {{ {body} }}",
        **{name: f32(number) for name, number in numbers.items() if name in body},
    )
    before = ops(model)
    check(model, *EXPORTER)
    assert ops(model) == before


def test_integers_are_not_made_into_floating_point_forms():
    model = build("(int64[4] x) => (int64[4] y) { d = Div(x, two)\n y = Sub(d, two) }", two=i64(2))
    check(model, *EXPORTER)
    assert ops(model) == {"Div": 1, "Sub": 1}


def test_an_inner_clip_that_is_read_elsewhere_stays():
    model = build(
        "(float[4] x) => (float[4] y, float[4] z) { a = Max(x, zero)\n y = Min(a, six)\n z = Neg(a) }",
        zero=f32(0.0),
        six=f32(6.0),
    )
    check(model, *EXPORTER)
    assert "Clip" not in ops(model)


def test_axes_are_counted_from_the_front():
    model = build(
        "(float[2,3,4] x) => (float[2,3,4] y, float[2,1,1] z) { y = Softmax<axis=-1>(x)\n"
        "z = ReduceMean<keepdims=1>(x, axes) }",
        axes=i64(-1, -2),
    )
    check(model, *EXPORTER)
    nodes = {node.op_type: node for node in model.graph}
    assert nodes["Softmax"].attributes["axis"].value == 2
    np.testing.assert_array_equal(nodes["ReduceMean"].inputs[1].const_value.numpy(), [1, 2])


def slices(*ranges):
    body, numbers = "", {"axes": i64(2)}
    for name, (start, end) in zip("abc", ranges, strict=True):
        body += f"{name} = Slice(x, {name}0, {name}1, axes)\n"
        numbers |= {f"{name}0": i64(start), f"{name}1": i64(end)}
    shapes = ", ".join(f"float[2,3,{end - start}] {n}" for n, (start, end) in zip("abc", ranges, strict=True))
    return build(f"(float[2,3,12] x) => ({shapes}) {{ {body} }}", **numbers)


@pytest.mark.parametrize("ranges", [((0, 4), (4, 8), (8, 12)), ((8, 12), (0, 2), (2, 8))])
def test_slices_that_are_all_of_a_tensor_become_a_split(ranges):
    model = slices(*ranges)
    check(model, *EXPORTER)
    assert ops(model) == {"Split": 1}


@pytest.mark.parametrize(
    "ranges", [((0, 4), (4, 8), (7, 12)), ((0, 4), (4, 8), (8, 11)), ((0, 4), (0, 8), (8, 12))]
)
def test_slices_with_a_gap_or_an_overlap_stay(ranges):
    model = slices(*ranges)
    check(model, *EXPORTER)
    assert ops(model) == {"Slice": 3}


def test_gathers_of_each_index_become_a_split():
    model = build(
        "(float[3,2,5] x) => (float[2,5] a, float[2,5] b, float[1,2,5] c) { a = Gather(x, zero)\n"
        "b = Gather(x, one)\n c = Gather(x, last) }",
        zero=np.array(0),
        one=np.array(1),
        last=i64(-1),
    )
    check(model, *EXPORTER)
    assert ops(model) == {"Split": 1, "Squeeze": 2}


def test_an_equal_split_says_its_sizes():
    model = build(
        "(float[2,7] x) => (float[2,4] a, float[2,3] b) { a, b = Split<axis=-1, num_outputs=2>(x) }"
    )
    check(model, *EXPORTER)
    (node,) = model.graph
    np.testing.assert_array_equal(node.inputs[1].const_value.numpy(), [4, 3])
