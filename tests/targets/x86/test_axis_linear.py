"""Linear layers along an axis before the last, by a product from the left."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "passes"))
from pass_graphs import build, check, ops, reasons, weight

import edgec.targets.x86.axis_linear

NAME = edgec.targets.x86.axis_linear.AxisLinear.name


def turned(shape, axis, outputs, *, bias=True, there=None, back=None, more=""):
    """A linear layer over an axis of x, as torch exports `linear(x.movedim(axis, -1)).movedim(-1, axis)`."""
    rank = len(shape)
    there = there or [*(place for place in range(rank) if place != axis), axis]
    back = back or [there.index(place) for place in range(rank)]
    sizes = ",".join(map(str, shape))
    added = "a = Add(m, b)\n" if bias else "a = Identity(m)\n"
    results = "y, z" if more else "y"
    return build(
        f"(float[{sizes}] x) => ({results}) {{ t = Transpose<perm={there}>(x)\n m = MatMul(t, w)\n {added}"
        f"u = Transpose<perm={back}>(a)\n y = Neg(u) {more} }}",
        w=weight(shape[there[-1]], outputs),
        **({"b": weight(outputs)} if bias else {}),
    )


@settings(max_examples=25, deadline=None)
@given(data=st.data(), bias=st.booleans(), outputs=st.integers(1, 5))
def test_any_axis_but_the_last(data, bias, outputs):
    shape = data.draw(st.lists(st.integers(1, 5), min_size=2, max_size=5))
    axis = data.draw(st.integers(0, len(shape) - 2))
    model = turned(shape, axis, outputs, bias=bias)
    assert check(model, "canonicalize.identity", NAME, "canonicalize.dead")[NAME].matched == 1
    assert "Transpose" not in ops(model)
    assert ops(model)["MatMul"] == 1


def test_an_open_batch():
    model = turned(["N", 3, 4, 5], 1, 2)
    assert check(model, NAME)[NAME].matched == 1
    assert "Transpose" not in ops(model)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"outputs": 65}, "is larger than 64"),
        ({"outputs": 3, "more": "\n z = Relu(t)"}, "t is read by Relu"),
    ],
)
def test_what_is_left_alone_has_a_reason(arguments, reason):
    report = check(turned([1, 3, 4, 5], 1, **arguments), NAME)[NAME]
    assert report.matched == 0
    assert reason in reasons(report)


@pytest.mark.parametrize(
    ("there", "back"),
    [([0, 3, 2, 1], [0, 3, 2, 1]), ([0, 2, 3, 1], [0, 3, 2, 1]), ([0, 1, 3, 2], [0, 1, 3, 2])],
    ids=["the others turned too", "another way home", "the axis before the last"],
)
def test_other_turns(there, back):
    model = turned([1, 3, 4, 3], 1, 3, there=there, back=back)
    matched = check(model, NAME)[NAME].matched
    assert matched == (there == [0, 1, 3, 2])
