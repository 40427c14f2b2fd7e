"""Control flow that constants decide, against ONNX Runtime on the same graph before."""

import numpy as np
import pytest
from pass_graphs import build, check, f32, i64, ops, reasons

FOLD = "canonicalize.constants"
DEAD = "canonicalize.dead"


def test_an_if_on_a_shape_is_its_branch_alone():
    model = build(
        "(float[2,3] x) => (float[2,3] y, float[2,3] z) { s = Shape(x)\n n = Size(s)\n c = Equal(n, two)\n"
        "y, z = If(c) <then_branch = one () => (float[2,3] a, float[2,3] b)"
        "{ a = Relu(x)\n b = Identity(x) },"
        "else_branch = other () => (float[2,3] a, float[2,3] b) { b = Neg(x)\n a = Exp(b) }> }",
        two=np.array(2, np.int64),
    )
    check(model, FOLD, DEAD)
    assert ops(model) == {"Relu": 1, "Identity": 1}


def test_branches_whose_values_have_the_same_names_are_told_apart():
    model = build(
        "(float[2] x) => (float[2] y) {"
        "p = If(yes) <then_branch = a () => (float[2] r) { h = Exp(x)\n r = Neg(h) },"
        "else_branch = b () => (float[2] r) { h = Abs(x)\n r = Neg(h) }>\n"
        "q = If(no) <then_branch = a () => (float[2] r) { h = Sin(p)\n r = Neg(h) },"
        "else_branch = b () => (float[2] r) { h = Cos(p)\n r = Neg(h) }>\n y = Add(p, q) }",
        yes=np.array(True),
        no=np.array(False),
    )
    check(model, FOLD, DEAD)
    assert ops(model) == {"Exp": 1, "Cos": 1, "Neg": 2, "Add": 1}


def test_an_if_that_an_input_decides_stays():
    model = build(
        "(bool c, float[2] x) => (float[2] y) { y = If(c) <then_branch = a () => (float[2] r) { r = Neg(x) },"
        "else_branch = b () => (float[2] r) { r = Abs(x) }> }"
    )
    check(model, FOLD, DEAD)
    assert ops(model) == {"If": 1, "Neg": 1, "Abs": 1}


_STEP = "(int64 i, bool c, float[2] h) => (bool c2, float[2] h2, float[2] told)"


def test_a_loop_of_a_constant_count_is_its_turns_and_stacks_what_they_tell():
    model = build(
        "(float[2] x, float[5,2] f) => (float[2] y, float[3,2] z) {"
        f"y, z = Loop(three, yes, x) <body = b {_STEP} {{ c2 = Identity(c)\n row = Gather(f, i)\n"
        "s = Add(h, row)\n h2 = Tanh(s)\n told = Neg(h2) }> }",
        three=np.array(3, np.int64),
        yes=np.array(True),
    )
    check(model, FOLD, DEAD)
    found = ops(model)
    assert (found["Tanh"], found["Concat"], found["Loop"]) == (3, 1, 0)


def test_a_loop_that_counts_itself_ends_where_its_own_condition_says():
    body = (
        "(int64 i, bool c, int64 n, float[2] h) => (bool c2, int64 n2, float[2] h2)"
        "{ n2 = Add(n, two)\n c2 = Less(n2, nine)\n h2 = Exp(h) }"
    )
    model = build(
        f"(float[2] x) => (float[2] y) {{ n, y = Loop(, yes, zero, x) <body = b {body}> }}",
        two=np.array(2, np.int64),
        nine=np.array(9, np.int64),
        zero=np.array(0, np.int64),
        yes=np.array(True),
    )
    check(model, FOLD, DEAD)
    assert ops(model) == {"Exp": 5}  # n is 2, 4, 6, 8 and 10 after the turns


def test_a_loop_whose_condition_hangs_on_values_stays():
    model = build(
        "(float[2] x) => (float[2] y) { y = Loop(three, yes, x) <body = b (int64 i, bool c, float[2] h) =>"
        "(bool c2, float[2] h2) { h2 = Mul(h, h)\n m = ReduceMax<keepdims=0>(h2)\n c2 = Less(m, ten) }> }",
        three=np.array(3, np.int64),
        yes=np.array(True),
        ten=f32(10.0).reshape(()),
    )
    check(model, FOLD, DEAD)
    assert ops(model)["Loop"] == 1


def test_a_loop_of_many_turns_stays_and_says_why():
    model = build(
        "(float[2] x) => (float[2] y) { y = Loop(many, yes, x) <body = b (int64 i, bool c, float[2] h) =>"
        "(bool c2, float[2] h2) { c2 = Identity(c)\n h2 = Tanh(h) }> }",
        many=np.array(10_000, np.int64),
        yes=np.array(True),
    )
    reports = check(model, FOLD, DEAD)
    assert ops(model)["Loop"] == 1
    assert "10000 turns" in reasons(reports[FOLD])


@pytest.mark.parametrize("backwards", [0, 1])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_scan_is_its_turns_along_any_axis_and_either_way(axis, backwards):
    shape, told = ("3,2", "3,2") if axis == 0 else ("2,3", "2,3")
    model = build(
        f"(float[2] h0, float[{shape}] x) => (float[2] y, float[{told}] z) {{ y, z = Scan <num_scan_inputs=1,"
        f"scan_input_axes=[{axis}], scan_input_directions=[{backwards}], scan_output_axes=[{axis}],"
        f"scan_output_directions=[{backwards}], body = b (float[2] h, float[2] r) =>"
        "(float[2] h2, float[2] t) { s = Add(h, r)\n h2 = Tanh(s)\n t = Exp(h2) }>(h0, x) }"
    )
    check(model, FOLD, DEAD)
    assert ops(model)["Tanh"] == 3


def test_an_if_inside_a_loop_is_decided_turn_by_turn():
    model = build(
        f"(float[2] x) => (float[2] y, float[3,2] z) {{ y, z = Loop(three, yes, x) <body = b {_STEP} {{"
        "c2 = Identity(c)\n first = Equal(i, zero)\n"
        "h2 = If(first) <then_branch = t () => (float[2] r) { r = Exp(h) },"
        "else_branch = e () => (float[2] r) { r = Tanh(h) }>\n told = Identity(h2) }> }",
        three=np.array(3, np.int64),
        zero=np.array(0, np.int64),
        yes=np.array(True),
    )
    check(model, FOLD, DEAD, "canonicalize.identity")
    found = ops(model)
    assert (found["Exp"], found["Tanh"]) == (1, 2)


def test_no_turn_gives_what_went_in():
    model = build(
        "(float[2] x) => (float[2] y) { h = Loop(none, yes, x) <body = b (int64 i, bool c, float[2] h) =>"
        "(bool c2, float[2] h2) { c2 = Identity(c)\n h2 = Tanh(h) }>\n y = Neg(h) }",
        none=i64(0).reshape(()),
        yes=np.array(True),
    )
    check(model, FOLD, DEAD)
    assert ops(model) == {"Neg": 1}
