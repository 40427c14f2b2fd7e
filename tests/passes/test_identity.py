import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_graphs import apply, build, check, f32, i64, ops, reasons, run, weight

IDENTITY = ("canonicalize.identity", "canonicalize.dead")
NOTHING = [
    "Identity(x)",
    "Dropout(x)",
    "Cast<to=1>(x)",
    "Transpose<perm=[0,1]>(x)",
    "Reshape(x, shape)",
    "Flatten<axis=1>(x)",
    "Expand(x, shape)",
    "Slice(x, zeros, ends, axes)",
    "Pad(x, pads)",
    "Tile(x, ones)",
    "Resize(x, none, none, shape)",
    "Resize(x, none, unit)",
    "Concat<axis=0>(x)",
    "Mul(x, one)",
    "Mul(one, x)",
    "Mul(row_of_ones, x)",
    "Div(x, one)",
    "Pow(x, one)",
    "Add(x, zero)",
    "Add(zero, x)",
    "Sub(x, zero)",
    "Where(yes, x, zero)",
    "Where(no, zero, x)",
    "Max(x)",
]
NUMBERS = {
    "shape": i64(2, 3),
    "zeros": i64(0, 0),
    "ends": i64(9, 9),
    "axes": i64(0, 1),
    "pads": i64(0, 0, 0, 0),
    "ones": i64(1, 1),
    "none": np.zeros(0, np.float32),
    "unit": f32(1.0, 1.0),
    "one": f32(1.0),
    "row_of_ones": np.ones((1, 3), np.float32),
    "zero": f32(0.0),
    "yes": np.array(True),
    "no": np.array(False),
}


@pytest.mark.parametrize("call", NOTHING)
def test_what_changes_nothing_goes(call):
    call = call.replace("(x", "(a").replace(", x", ", a")
    model = build(f"(float[2,3] x) => (float[2,3] y) {{ a = Relu(x)\n b = {call}\n y = Neg(b) }}", **NUMBERS)
    assert check(model, *IDENTITY)["canonicalize.identity"].matched == 1
    assert ops(model) == {"Relu": 1, "Neg": 1}


@pytest.mark.parametrize(
    "call",
    [
        "Mul(a, two)",
        "Slice(a, minus, least, last, minus)",
        "Transpose<perm=[1,0]>(a)",
        "Add(a, wide)",
        "Pad(a, shift)",
        "Where(mixed, a, two)",
        "Where(mixed, twos, a)",
        "Resize(a, none, near)",
    ],
)
def test_what_changes_something_stays(call):
    numbers = {
        **NUMBERS,
        "two": f32(2.0),
        "twos": np.full((3, 3), 2, np.float32),
        "minus": i64(-1),
        "least": i64(-9),
        "last": i64(1),
        "wide": np.zeros((1, 3, 3), np.float32),
        "shift": i64(1, 0, -1, 0),
        "mixed": np.array([True, False, True]),
        "near": f32(1.0, 1.1),
    }
    model = build(f"(float[3,3] x) => (y) {{ a = Relu(x)\n b = {call}\n y = Neg(b) }}", **numbers)
    assert check(model, *IDENTITY)["canonicalize.identity"].matched == 0


def test_outputs_keep_their_names_and_inputs_are_not_renamed():
    model = build(
        "(float[2] x) => (float[2] y, float[2] z) { y = Identity(x)\n a = Neg(x)\n z = Identity(a) }"
    )
    check(model, *IDENTITY)
    assert [value.name for value in model.graph.outputs] == ["y", "z"]
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert ops(model) == {"Identity": 1, "Neg": 1}


def test_a_value_read_twice_as_an_output():
    model = build("(float[2] x) => (float[2] y, float[2] z) { y = Neg(x)\n z = Identity(y) }")
    check(model, *IDENTITY)
    assert [value.name for value in model.graph.outputs] == ["y", "z"]


def test_dropout_whose_mask_is_read_stays():
    model = build("(float[4] x) => (float[4] y, bool[4] m) { y, m = Dropout(x) }")
    report = check(model, *IDENTITY)["canonicalize.identity"]
    assert ops(model) == {"Dropout": 1}
    assert "mask" in reasons(report)


def test_dropout_that_may_train_stays():
    model = build("(float[4] x, bool t) => (float[4] y) { d = Dropout(x, r, t)\n y = Neg(d) }", r=f32(0.0))
    load = check(model, *IDENTITY)["canonicalize.identity"]
    assert ops(model)["Dropout"] == 1
    assert "training" in reasons(load)


def test_dropout_that_trains_stays():
    model = build(
        "(float[4] x) => (float[4] y) { d = Dropout(x, r, t)\n y = Neg(d) }", r=f32(0.5), t=np.array(True)
    )
    report = apply(model, *IDENTITY)["canonicalize.identity"]
    assert ops(model)["Dropout"] == 1
    assert "training" in reasons(report)


def test_a_sum_that_is_divided_goes():
    model = build(
        "(float[2] x) => (float[2] y) { a = Add(x, zero)\n y = Div(a, two) }", two=f32(2.0), **NUMBERS
    )
    check(model, *IDENTITY)
    assert ops(model) == {"Div": 1}


def test_a_sum_that_clears_a_zeros_sign_stays_before_a_division():
    model = build("(float[2] x) => (float[2] y) { a = Add(x, zero)\n y = Reciprocal(a) }", **NUMBERS)
    report = check(model, *IDENTITY)["canonicalize.identity"]
    assert ops(model)["Add"] == 1
    assert "-0.0" in reasons(report)
    assert run(model, {"x": f32(-0.0, 1.0)})["y"][0] == np.inf


@pytest.mark.parametrize(("there", "back"), [(11, 1), (1, 10)])
def test_casts_there_and_back(there, back):
    start = {1: "float", 10: "float16"}[back]
    model = build(
        f"({start}[4] x) => ({start}[4] y) {{ a = Neg(x)\n b = Cast<to={there}>(a)\n "
        f"c = Cast<to={back}>(b)\n y = Neg(c) }}"
    )
    check(model, *IDENTITY)
    assert ops(model) == {"Neg": 2}


def test_a_cast_that_rounds_stays():
    model = build("(float[4] x) => (float[4] y) { b = Cast<to=10>(x)\n c = Cast<to=1>(b)\n y = Neg(c) }")
    check(model, *IDENTITY)
    assert ops(model)["Cast"] == 2


def test_duplicates_merge_down_a_chain_and_over_equal_constants():
    model = build(
        "(float[2,3] x) => (float[2,3] y) { a = Mul(x, c1)\n b = Mul(x, c2)\n "
        "n = Neg(a)\n m = Neg(b)\n y = Add(n, m) }",
        c1=f32(2.0),
        c2=f32(2.0),
    )
    assert check(model, *IDENTITY)["canonicalize.identity"].matched == 2
    assert ops(model) == {"Mul": 1, "Neg": 1, "Add": 1}


def test_outputs_are_not_merged():
    model = build("(float[2] x) => (float[2] y, float[2] z) { y = Neg(x)\n z = Neg(x) }")
    check(model, *IDENTITY)
    assert ops(model)["Neg"] == 2


def test_draws_are_not_merged():
    model = build(
        "(float[2] x) => (float[2] y) { r = RandomUniformLike(x)\n s = RandomUniformLike(x)\n y = Sub(r, s) }"
    )
    apply(model, *IDENTITY)
    assert ops(model)["RandomUniformLike"] == 2


@settings(max_examples=10, deadline=None)
@given(
    calls=st.lists(
        st.sampled_from(["Identity({})", "Mul({}, one)", "Neg({})", "Add(zero, {})", "Relu({})"]), max_size=6
    )
)
def test_chains(calls):
    lines, last = [], "x"
    for index, call in enumerate(calls):
        lines.append(f"v{index} = {call.format(last)}")
        last = f"v{index}"
    model = build(
        f"(float[2,3] x) => (float[2,3] y) {{ {chr(10).join(lines)}\n y = Mul({last}, w) }}",
        w=weight(3),
        **NUMBERS,
    )
    check(model, *IDENTITY)
    assert not {"Identity", "Add"} & set(ops(model))


def test_constants_of_one_content_and_two_shapes_are_two():
    model = build(
        "(float[4,4] x) => (float[4,4] y) { a = Add(x, row)\n b = Add(x, column)\n y = Sub(a, b) }",
        row=np.arange(4, dtype=np.float32).reshape(1, 4),
        column=np.arange(4, dtype=np.float32).reshape(4, 1),
    )
    assert check(model, *IDENTITY)["canonicalize.identity"].matched == 0
    assert ops(model) == {"Add": 2, "Sub": 1}


def test_nodes_of_other_attributes_are_two():
    model = build(
        "(float[3,3] x) => (float[3,3] y) { a = Softmax<axis=0>(x)\n b = Softmax<axis=1>(x)\n y = Sub(a, b) }"
    )
    check(model, *IDENTITY)
    assert ops(model) == {"Softmax": 2, "Sub": 1}


def test_an_int32_does_not_survive_fp32():
    model = build(
        "(int32[3] x) => (int32[3] y) { n = Neg(x)\n f = Cast<to=1>(n)\n i = Cast<to=6>(f)\n y = Neg(i) }"
    )
    check(model, *IDENTITY)
    assert ops(model) == {"Neg": 2, "Cast": 2}


@pytest.mark.parametrize("call", ["Sub(zero, a)", "Div(one, a)", "Pow(one, a)"])
def test_what_is_neutral_on_the_right_is_not_on_the_left(call):
    model = build(f"(float[2,3] x) => (float[2,3] y) {{ a = Relu(x)\n b = {call}\n y = Neg(b) }}", **NUMBERS)
    # 1 / 0 and 0 / 0 are what they are; the op stays.
    apply(model, "canonicalize.shapes", *IDENTITY)
    assert ops(model) == {"Relu": 1, "Neg": 1, call[:3]: 1}
