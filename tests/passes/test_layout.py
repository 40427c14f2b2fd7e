import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_graphs import build, check, f32, i64, ops, weight

LAYOUT = ("canonicalize.layout", "canonicalize.dead")


@settings(max_examples=20, deadline=None)
@given(perms=st.lists(st.permutations(range(4)), min_size=2, max_size=4), ones=st.booleans())
def test_transposes_in_turn(perms, ones):
    shape = [2, 1, 3, 1] if ones else [2, 5, 3, 4]
    lines, last, sizes = [], "x", shape
    for index, perm in enumerate(perms):
        lines.append(f"v{index} = Transpose<perm={list(perm)}>({last})")
        last, sizes = f"v{index}", [sizes[axis] for axis in perm]
    text = ",".join(map(str, shape))
    moves = "\n".join(lines).replace("(x)", "(a)")
    model = build(f"(float[{text}] x) => (y) {{ a = Relu(x)\n {moves}\n y = Neg({last}) }}")
    check(model, "canonicalize.identity", *LAYOUT)
    # Axes of size one may leave a Reshape, which moves nothing.
    assert ops(model)["Transpose"] <= 1
    assert ops(model)["Reshape"] <= (1 if ones else 0)


@settings(max_examples=20, deadline=None)
@given(
    steps=st.lists(st.sampled_from(["Flatten", "Unsqueeze", "Reshape", "Squeeze"]), min_size=2, max_size=5)
)
def test_reshapes_in_turn(steps):
    lines, last = [], "a"
    for index, step in enumerate(steps):
        call = {
            "Flatten": f"Flatten<axis=1>({last})",
            "Unsqueeze": f"Unsqueeze({last}, zero)",
            "Reshape": f"Reshape({last}, shape)",
            "Squeeze": f"Squeeze({last})",
        }[step]
        lines.append(f"v{index} = {call}")
        last = f"v{index}"
    model = build(
        f"(float[1,2,12] x) => (y) {{ a = Relu(x)\n {chr(10).join(lines)}\n y = Neg({last}) }}",
        zero=i64(0),
        shape=i64(2, 3, -1),
    )
    check(model, *LAYOUT)
    assert ops(model)["Reshape"] <= 1
    assert sum(ops(model).values()) <= 3


def test_an_open_batch_is_reshaped_by_what_is_left():
    model = build(
        "(float[batch,2,6] x) => (y) { f = Flatten<axis=1>(x)\n r = Reshape(f, shape)\n y = Neg(r) }",
        shape=i64(0, 3, 4),
    )
    check(model, *LAYOUT)
    assert ops(model) == {"Reshape": 1, "Neg": 1}


@pytest.mark.parametrize("chain", ["Relu", "Relu Add", "Add Mul", "Where"])
def test_a_transpose_is_carried_to_the_one_that_cancels_it(chain):
    calls = {"Relu": "Relu({})", "Add": "Add({}, c)", "Mul": "Mul(d, {})", "Where": "Where(mask, {}, zero)"}
    lines, last = ["t = Transpose<perm=[0,2,3,1]>(x)"], "t"
    for index, op in enumerate(chain.split()):
        lines.append(f"v{index} = {calls[op].format(last)}")
        last = f"v{index}"
    model = build(
        f"(float[2,3,4,5] x) => (float[2,3,4,5] y) {{ {chr(10).join(lines)}\n"
        f"y = Transpose<perm=[0,3,1,2]>({last}) }}",
        c=weight(3),
        d=weight(4, 1, 3),
        mask=weight(5, 1) > 0,
        zero=f32(0.0),
    )
    check(model, *LAYOUT)
    assert "Transpose" not in ops(model)


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ("t = Transpose<perm=[1,2,0]>(x)\n r = Relu(t)\n y = Transpose<perm=[1,2,0]>(r)", "float[4,2,3] y"),
        (
            "t = Transpose<perm=[1,0,2]>(x)\n r = Relu(t)\n y = Transpose<perm=[1,0,2]>(r)\n z = Neg(r)",
            "y, z",
        ),
        ("t = Transpose<perm=[1,0,2]>(x)\n r = Softmax<axis=1>(t)\n y = Transpose<perm=[1,0,2]>(r)", "y"),
    ],
)
def test_a_transpose_that_would_not_cancel_stays(body, outputs):
    model = build(f"(float[2,3,4] x) => ({outputs}) {{ {body} }}")
    check(model, *LAYOUT)
    assert ops(model)["Transpose"] == 2


@pytest.mark.parametrize("perm", [[2, 0, 3, 1, 4], [2, 0, 3, 4, 1]])
@pytest.mark.parametrize("batch", [1, 2])
def test_packed_projections_are_parted_where_they_are_packed(perm, batch):
    model = build(
        f"(float[{batch},5,8] x) => (q, k, v) {{ m = MatMul(x, w)\n a = Add(m, b)\n r = Reshape(a, shape)\n"
        f"t = Transpose<perm={perm}>(r)\n s0, s1, s2 = Split<axis=0>(t, parts)\n"
        "q0 = Squeeze(s0, zero)\n k0 = Squeeze(s1, zero)\n v0 = Squeeze(s2, zero)\n"
        "q = Neg(q0)\n k = Neg(k0)\n v = Neg(v0) }",
        w=weight(8, 24),
        b=weight(24),
        shape=i64(batch, 5, 3, 2, 4),
        parts=i64(1, 1, 1),
        zero=i64(0),
    )
    check(model, *LAYOUT)
    split = next(node for node in model.graph if node.op_type == "Split")
    assert split.inputs[0].producer().op_type == "Add"
    np.testing.assert_array_equal(split.inputs[1].const_value.numpy(), [8, 8, 8])
    assert ops(model) == {"MatMul": 1, "Add": 1, "Split": 1, "Reshape": 3, "Transpose": 3, "Neg": 3}


def test_heads_that_are_packed_each_stay():
    model = build(
        "(float[1,5,8] x) => (q, k) { m = MatMul(x, w)\n r = Reshape(m, shape)\n"
        "s0, s1 = Split<axis=3>(r, parts)\n q = Neg(s0)\n k = Neg(s1) }",
        w=weight(8, 24),
        shape=i64(1, 5, 2, 12),
        parts=i64(4, 8),
    )
    check(model, *LAYOUT)
    assert next(n for n in model.graph if n.op_type == "Split").inputs[0].producer().op_type == "Reshape"


def test_axes_of_size_one_stand_where_engines_look_for_them():
    model = build(
        "(float[1,7,6] x) => (float[1,2,7,3] y) { a = Relu(x)\n r = Reshape(a, shape)\n"
        "t = Transpose<perm=[3,1,0,2]>(r)\n y = Neg(t) }",
        shape=i64(7, 2, 3, 1),
    )
    check(model, *LAYOUT)
    transpose = next(node for node in model.graph if node.op_type == "Transpose")
    assert list(transpose.attributes["perm"].value) == [0, 2, 1, 3]
    assert transpose.inputs[0].shape == [1, 7, 2, 3]
