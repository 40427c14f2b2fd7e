"""Sums over a stack become additions."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_graphs import build, check, i64, ops, reasons

NAME = "fuse.stacked_sum"
RUN = (NAME, "canonicalize.dead")


def stacked(shape, axis, count, *, keepdims=0, view="Unsqueeze", more=""):
    """Unary branches of x, stacked along a new axis and summed."""
    branches = ["Neg", "Abs", "Exp", "Sigmoid", "Tanh", "Relu"][:count]
    view_of = "axes" if view == "Unsqueeze" else "stack_shape"
    lines = [f"b{i} = {op}(x)\n v{i} = {view}(b{i}, {view_of})" for i, op in enumerate(branches)]
    parts = ", ".join(f"v{i}" for i in range(count))
    outputs = "y, z" if more else "y"
    return build(
        f"(float[{','.join(map(str, shape))}] x) => ({outputs}) {{ " + "\n".join(lines) + "\n"
        f"s = Concat<axis={axis}>({parts})\n r = ReduceSum<keepdims={keepdims}>(s, axes)\n"
        f"y = Neg(r) {more} }}",
        axes=i64(axis),
        stack_shape=i64(*shape[:axis], 1, *shape[axis:]),
    )  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    data=st.data(),
    count=st.integers(2, 4),
    view=st.sampled_from(["Unsqueeze", "Reshape"]),
)
def test_a_stack_of_drawn_shape(shape, data, count, view):
    axis = data.draw(st.integers(0, len(shape)))
    model = stacked(shape, axis, count, view=view)
    assert check(model, *RUN)[NAME].matched == 1
    assert ops(model)["Add"] == count - 1
    assert not {"Concat", "ReduceSum", "Unsqueeze", "Reshape"} & set(ops(model))


def test_layers_that_keep_their_axis():
    model = stacked([2, 3], 1, 2, keepdims=1)
    assert check(model, *RUN)[NAME].matched == 1
    assert ops(model)["Add"] == 1
    assert "ReduceSum" not in ops(model)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"count": 5}, "more than 4"),
        ({"count": 2, "more": "\n z = Relu(s)"}, "s is read by Relu"),
    ],
)
def test_what_is_left_alone_has_a_reason(arguments, reason):
    report = check(stacked([2, 3], 0, **arguments), *RUN)[NAME]
    assert report.matched == 0
    assert reason in reasons(report)


def test_a_sum_along_another_axis_or_of_thick_parts_stays():
    model = build(
        "(float[2,3] x) => (y, z) { a = Neg(x)\n s = Concat<axis=0>(x, a)\n y = ReduceSum(s, zero)\n"
        "u = Unsqueeze(x, zero)\n v = Unsqueeze(a, zero)\n t = Concat<axis=0>(u, v)\n"
        "z = ReduceSum(t, one) }",
        zero=i64(0),
        one=i64(1),
    )
    before = ops(model)
    assert check(model, *RUN)[NAME].matched == 0
    assert ops(model) == before


def test_integers_are_added_too():
    model = build(
        "(int64[2,3] x) => (y) { a = Neg(x)\n u = Unsqueeze(x, zero)\n v = Unsqueeze(a, zero)\n"
        "t = Concat<axis=0>(u, v)\n y = ReduceSum<keepdims=0>(t, zero) }",
        zero=i64(0),
    )
    assert check(model, *RUN)[NAME].matched == 1
    assert ops(model) == {"Neg": 1, "Add": 1}


@pytest.mark.parametrize("axes", [(0, 1), (1,)])
def test_a_sum_over_another_axis_than_the_stacks_stays(axes):
    model = build(
        "(float[2,3] x) => (y) { a = Neg(x)\n b = Abs(x)\n u = Unsqueeze(a, first)\n"
        "v = Unsqueeze(b, first)\n s = Concat<axis=0>(u, v)\n y = ReduceSum<keepdims=0>(s, axes) }",
        first=i64(0),
        axes=i64(*axes),
    )
    report = check(model, *RUN)[NAME]
    assert (report.matched, report.missed) == (0, ())
    assert ops(model)["ReduceSum"] == 1


def test_parts_that_are_no_views_of_the_sum_are_told():
    model = build(
        "(float[2,1,3] x, float[2,1,3] z) => (float[2,3] y) { t = Transpose<perm=[1,0,2]>(x)\n"
        "u = Transpose<perm=[1,0,2]>(z)\n r = Reshape(t, other)\n w = Reshape(u, other)\n"
        "s = Concat<axis=0>(r, w)\n q = ReduceSum<keepdims=0>(s, first)\n y = Transpose<perm=[1,0]>(q) }",
        first=i64(0),
        other=i64(1, 3, 2),
    )
    report = check(model, *RUN)[NAME]
    assert report.matched == 0
    assert "is no view of a tensor of the sum's shape" in reasons(report)
