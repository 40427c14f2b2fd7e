"""Summed branches of one input become one convolution: drawn kernels, groups, strides and sums."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_graphs import build, check, ops, reasons, weight

MERGE = ("fuse.conv_batchnorm", "fuse.conv_branches", "canonicalize.dead")
NAME = MERGE[1]
CHANNELS = 4


def statistics(stem: str, seed: int) -> dict[str, np.ndarray]:
    return {
        f"{stem}g": weight(CHANNELS, seed=seed),
        f"{stem}h": weight(CHANNELS, seed=seed + 1),
        f"{stem}m": weight(CHANNELS, seed=seed + 2),
        f"{stem}v": np.abs(weight(CHANNELS, seed=seed + 3)) + np.float32(0.3),
    }


def norm(output: str, value: str, stem: str) -> str:
    return f"{output} = BatchNormalization({value}, {stem}g, {stem}h, {stem}m, {stem}v)"


@st.composite
def convolutions(draw, stride: int, step: int):
    """Kernels of odd sizes, as much padding as keeps the size, so that all outputs have one shape."""
    found = []
    for _ in range(draw(st.integers(2, 4))):
        size = [draw(st.sampled_from([1, 3, 5])) for _ in range(2)]
        # A kernel of 3 may lie aside: more padding on one side than on the other.
        aside = [draw(st.sampled_from([-1, 0, 1])) if each == 3 else 0 for each in size]
        found.append(
            {
                "size": size,
                "dilations": [step if each > 1 else 1 for each in size],
                "pads": [
                    step * (each // 2 + sign * by)
                    for sign in (1, -1)
                    for each, by in zip(size, aside, strict=True)
                ],
                "strides": [stride, stride],
                "group": draw(st.sampled_from([1, 2, 4])),
                "bias": draw(st.booleans()),
                "norm": draw(st.booleans()),
                "sign": draw(st.sampled_from(["Add", "Sub"])),
            }
        )
    # The largest kernel with the coarsest groups comes first: whatever follows fits into it.
    found[0] |= {"size": [5, 5], "dilations": [step] * 2, "pads": [2 * step] * 4, "group": 1}
    return found


@settings(max_examples=25, deadline=None)
@given(
    data=st.data(), stride=st.sampled_from([1, 2, 3]), step=st.sampled_from([1, 2]), size=st.integers(5, 9)
)
def test_convolutions_of_drawn_kernels(data, stride, step, size):
    branches = data.draw(convolutions(stride, step))
    lines, numbers, total = [], {}, ""
    for index, branch in enumerate(branches):
        numbers[f"w{index}"] = weight(CHANNELS, CHANNELS // branch["group"], *branch["size"], seed=index)
        bias = ""
        if branch["bias"]:
            numbers[f"b{index}"], bias = weight(CHANNELS, seed=20 + index), f", b{index}"
        attributes = ", ".join(f"{key}={branch[key]}" for key in ("dilations", "pads", "strides", "group"))
        value = f"c{index}"
        lines.append(f"{value} = Conv<{attributes}>(x, w{index}{bias})")
        if branch["norm"]:
            numbers |= statistics(f"n{index}", 30 + index)
            lines.append(norm(f"d{index}", value, f"n{index}"))
            value = f"d{index}"
        if total:
            lines.append(f"s{index} = {branch['sign']}({total}, {value})")
        total = f"s{index}" if total else value
    model = build(
        f"(float[2,{CHANNELS},{size},{size + 1}] x) => (y) {{ "
        + "\n".join(lines)
        + f"\n y = Relu({total}) }}",
        **numbers,
    )
    assert check(model, *MERGE)[NAME].matched == 1
    assert ops(model) == {"Conv": 1, "Relu": 1}


@pytest.mark.parametrize("group", [1, 2, 4])
def test_repvgg(group):
    model = build(
        "(float[2,4,7,7] x) => (y) { "
        f"a = Conv<pads=[1,1,1,1], group={group}>(x, w)\n {norm('an', 'a', 'p')}\n"
        f"b = Conv<group={group}>(x, v)\n {norm('bn', 'b', 'q')}\n {norm('cn', 'x', 'r')}\n"
        "s = Add(an, bn)\n t = Add(s, cn)\n y = Relu(t) }",
        w=weight(4, 4 // group, 3, 3),
        v=weight(4, 4 // group, 1, 1),
        **statistics("p", 1),
        **statistics("q", 5),
        **statistics("r", 9),
    )
    assert check(model, *MERGE)[NAME].matched == 1
    assert ops(model) == {"Conv": 1, "Relu": 1}


def test_repmixer():
    """FastViT: x + γ·(mix(x) - norm(x)), the mix itself of branches."""
    model = build(
        "(float[2,4,7,7] x) => (y) { "
        f"a = Conv<pads=[1,1,1,1], group=4>(x, w)\n {norm('an', 'a', 'p')}\n"
        f"b = Conv<group=4>(x, v)\n {norm('bn', 'b', 'q')}\n {norm('cn', 'x', 'r')}\n"
        f"{norm('dn', 'x', 'o')}\n s = Add(cn, bn)\n t = Add(s, an)\n d = Sub(t, dn)\n"
        "f = Mul(gamma, d)\n z = Add(x, f)\n y = Relu(z) }",
        w=weight(4, 1, 3, 3),
        v=weight(4, 1, 1, 1),
        gamma=weight(4, 1, 1),
        **statistics("p", 1),
        **statistics("q", 5),
        **statistics("r", 9),
        **statistics("o", 13),
    )
    assert check(model, *MERGE)[NAME].matched == 1
    assert ops(model) == {"Conv": 1, "Relu": 1}


def test_a_norm_behind_the_sum_and_one_axis():
    """RepViT's depthwise block, here along one axis."""
    model = build(
        "(float[2,4,9] x) => (y) { a = Conv<pads=[1,1], group=4>(x, w)\n b = Conv<group=4>(x, v, c)\n"
        f"s = Add(a, b)\n t = Add(s, x)\n {norm('y', 't', 'p')} }}",
        w=weight(4, 1, 3),
        v=weight(4, 1, 1),
        c=weight(4),
        **statistics("p", 1),
    )
    assert check(model, *MERGE)[NAME].matched == 1
    assert ops(model) == {"Conv": 1}


def test_what_has_another_source_is_added_behind():
    model = build(
        "(float[2,4,7,7] x, float[2,4,7,7] r) => (y) { a = Conv<pads=[1,1,1,1]>(x, w)\n b = Conv(x, v)\n"
        "s = Add(a, r)\n y = Add(s, b) }",
        w=weight(4, 4, 3, 3),
        v=weight(4, 4, 1, 1),
    )
    assert check(model, *MERGE)[NAME].matched == 1
    assert ops(model) == {"Conv": 1, "Add": 1}


def test_two_sources_become_two_convolutions():
    model = build(
        "(float[2,4,7,7] x, float[2,4,7,7] z) => (y) { a = Conv<pads=[1,1,1,1]>(x, w)\n b = Conv(x, v, c)\n"
        "d = Conv<pads=[1,1,1,1]>(z, w)\n e = Conv(z, v, c)\n"
        "s = Add(a, d)\n t = Add(b, e)\n y = Sub(s, t) }",
        w=weight(4, 4, 3, 3),
        v=weight(4, 4, 1, 1),
        c=weight(4),
    )
    assert check(model, *MERGE)[NAME].matched == 1
    assert ops(model) == {"Conv": 2, "Add": 1}


def test_a_branch_that_is_read_elsewhere_stays():
    model = build(
        "(float[2,4,7,7] x) => (y, z) { a = Conv<pads=[1,1,1,1]>(x, w)\n b = Conv(x, v)\n"
        "y = Add(a, b)\n z = Relu(b) }",
        w=weight(4, 4, 3, 3),
        v=weight(4, 4, 1, 1),
    )
    assert check(model, *MERGE)[NAME].matched == 0


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        (((4, 4, 1, 7), "pads=[0,3,0,3]"), ((4, 4, 7, 1), "pads=[3,0,3,0]"), "784 products a place"),
        (((4, 4, 1, 1), "group=1"), ((4, 1, 3, 3), "pads=[1,1,1,1], group=4"), "144 products a place"),
        (((4, 4, 1, 1), "strides=[2,1]"), ((4, 4, 1, 1), "strides=[1,1]"), "its strides (1, 1)"),
        (((4, 4, 1, 1), "group=1"), ((4, 4, 3, 3), 'auto_pad="SAME_UPPER"'), "pads by SAME_UPPER"),
    ],
    ids=["a cross", "dense and depthwise", "strides", "auto_pad"],
)
def test_what_does_not_pay_or_fit_is_left_with_the_reason(one, other, reason):
    height = 1 if "strides" in reason else 7
    model = build(
        f"(float[1,4,{height},7] x) => (y) {{ a = Conv<{one[1]}>(x, w)\n b = Conv<{other[1]}>(x, v)\n"
        "s = Add(a, b)\n y = Relu(s) }",
        w=weight(*one[0]),
        v=weight(*other[0]),
    )
    report = check(model, *MERGE)[NAME]
    assert report.matched == 0
    assert reason in reasons(report)


def test_a_sum_that_broadcasts_is_no_sum_of_branches():
    model = build(
        "(float[2,4,5,5] x) => (y) { a = Conv<pads=[1,1,1,1]>(x, w)\n b = Conv(x, v)\n y = Add(a, b) }",
        w=weight(4, 4, 3, 3),
        v=weight(4, 4, 5, 5),
    )
    assert check(model, *MERGE)[NAME].matched == 0


@pytest.mark.parametrize("aside", [-1, 1])
def test_kernels_that_lie_aside(aside):
    pads = [1 + aside, 1 - aside, 1 - aside, 1 + aside]
    model = build(
        f"(float[2,4,7,6] x) => (y) {{ a = Conv<pads={pads}>(x, w)\n b = Conv(x, v)\n s = Add(a, b)\n"
        "y = Add(s, x) }",
        w=weight(4, 4, 3, 3),
        v=weight(4, 4, 1, 1),
    )
    assert check(model, *MERGE)[NAME].matched == 1
    assert ops(model) == {"Conv": 1}
