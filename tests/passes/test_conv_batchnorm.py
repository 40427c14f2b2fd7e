import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_graphs import apply, build, check, i64, ops, reasons, weight

FOLD = ("fuse.conv_batchnorm", "canonicalize.dead")
NAME = FOLD[0]


def statistics(channels):
    return {
        "g": weight(channels, seed=1),
        "h": weight(channels, seed=2),
        "mu": weight(channels, seed=3),
        "var": np.abs(weight(channels, seed=4)) + np.float32(0.3),
    }


@settings(max_examples=16, deadline=None)
@given(
    op=st.sampled_from(["Conv", "ConvTranspose"]),
    group=st.sampled_from([1, 2, 4]),
    bias=st.booleans(),
    dims=st.sampled_from([1, 2]),
)
def test_behind_a_convolution(op, group, bias, dims):
    kernel = [3] * dims
    w = weight(8, 4 // group, *kernel) if op == "Conv" else weight(4, 8 // group, *kernel)
    size = ",".join(["6"] * dims)
    numbers = {"w": w, **statistics(8), **({"b": weight(8)} if bias else {})}
    model = build(
        f"(float[2,4,{size}] x) => (y) {{ c = {op}<group={group}>(x, w{', b' if bias else ''})\n"
        "n = BatchNormalization<epsilon=0.01>(c, g, h, mu, var)\n y = Relu(n) }",
        **numbers,
    )
    assert check(model, *FOLD)[NAME].matched == 1
    assert ops(model) == {op: 1, "Relu": 1}


def test_factors_and_offsets_a_channel_follow():
    model = build(
        "(float[2,4,6,6] x) => (y) { c = Conv<pads=[1,1,1,1]>(x, w)\n "
        "n = BatchNormalization(c, g, h, mu, var)\n m = Mul(scale, n)\n a = Add(m, shift)\n y = Relu(a) }",
        w=weight(8, 4, 3, 3),
        scale=weight(8, 1, 1),
        shift=weight(1, 8, 1, 1),
        **statistics(8),
    )
    assert check(model, *FOLD)[NAME].matched == 3
    assert ops(model) == {"Conv": 1, "Relu": 1}


def test_a_factor_along_another_axis_stays():
    model = build(
        "(float[2,4,8,8] x) => (y) { c = Conv(x, w)\n m = Mul(c, scale)\n y = Relu(m) }",
        w=weight(8, 4, 1, 1),
        scale=weight(8),
    )
    assert check(model, *FOLD)[NAME].matched == 0


def test_a_shared_weight_is_copied():
    model = build(
        "(float[1,4,6,6] x) => (y, z) { c = Conv(x, w)\n "
        "y = BatchNormalization(c, g, h, mu, var)\n z = Conv(x, w) }",
        w=weight(4, 4, 3, 3),
        **statistics(4),
    )
    # Both convolutions are the same node of the same weight; only one is normalised.
    assert check(model, *FOLD)[NAME].matched == 1


def test_a_convolution_with_another_reader_is_left_with_the_reason():
    model = build(
        "(float[1,4,6,6] x) => (y, z) { c = Conv(x, w)\n "
        "y = BatchNormalization(c, g, h, mu, var)\n z = Neg(c) }",
        w=weight(4, 4, 3, 3),
        **statistics(4),
    )
    report = check(model, *FOLD)[NAME]
    assert report.matched == 0
    assert "Neg" in reasons(report)


@pytest.mark.parametrize("group", [1, 2])
def test_in_front_of_a_convolution_without_padding(group):
    model = build(
        f"(float[2,4,6,6] x) => (y) {{ r = Relu(x)\n n = BatchNormalization(r, g, h, mu, var)\n"
        f"y = Conv<group={group}>(n, w) }}",
        w=weight(8, 4 // group, 3, 3),
        **statistics(4),
    )
    assert check(model, *FOLD)[NAME].matched == 1
    assert ops(model) == {"Relu": 1, "Conv": 1}


def test_in_front_of_padding_it_stays():
    model = build(
        "(float[2,4,6,6] x) => (y) { "
        "n = BatchNormalization(x, g, h, mu, var)\n y = Conv<pads=[1,1,1,1]>(n, w) }",
        w=weight(8, 4, 3, 3),
        **statistics(4),
    )
    report = check(model, *FOLD)[NAME]
    assert report.matched == 0
    assert "zeros" in reasons(report)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("flatten", [False, True])
def test_behind_a_linear_layer(bias, flatten):
    body = "m = MatMul(x, w)\n" + (
        "a = Add(m, b)\n" if bias else "a = Relu0(m)\n".replace("Relu0", "Identity")
    )
    body += "f = Reshape(a, shape)\n" if flatten else "f = Identity(a)\n"
    body += "n = BatchNormalization(f, g, h, mu, var)\n y = Relu(n)"
    model = build(
        f"(float[{'2,3,5' if flatten else '6,5'}] x) => (y) {{ {body} }}",
        w=weight(5, 4),
        b=weight(4),
        shape=i64(6, 4),
        **statistics(4),
    )
    assert check(model, "canonicalize.identity", *FOLD)[NAME].matched == 1
    assert "BatchNormalization" not in ops(model)


def test_in_front_of_a_linear_layer():
    model = build(
        "(float[6,4] x) => (y) {"
        "n = BatchNormalization(x, g, h, mu, var)\n m = MatMul(n, w)\n y = Add(m, b) }",
        w=weight(4, 5),
        b=weight(5),
        **statistics(4),
    )
    assert check(model, *FOLD)[NAME].matched == 1
    assert ops(model) == {"MatMul": 1, "Add": 1}


def test_a_batch_norm_by_itself_says_why_it_stays():
    model = build(
        "(float[2,4,6,6] x) => (y) { n = BatchNormalization(x, g, h, mu, var)\n y = Relu(n) }",
        **statistics(4),
    )
    assert "no convolution or linear layer" in reasons(check(model, *FOLD)[NAME])


@pytest.mark.parametrize("padding", ['auto_pad="SAME_UPPER"', 'auto_pad="SAME_LOWER"', "pads=[0,1,0,0]"])
def test_a_norm_in_front_of_a_padded_convolution_stays(padding):
    model = build(
        f"(float[1,3,6,6] x) => (y) {{ n = BatchNormalization(x, g, h, mu, var)\n"
        f"y = Conv<{padding}, kernel_shape=[3,3]>(n, w) }}",
        w=weight(4, 3, 3, 3),
        **statistics(3),
    )
    report = check(model, *FOLD)[NAME]
    assert report.matched == 0
    assert "pads its input with zeros, which the normalisation would shift" in reasons(report)


@pytest.mark.parametrize(
    ("norm", "reason"),
    [
        ("n, a, b = BatchNormalization<training_mode=1>(c, g, h, mu, var)", "it normalises by the batch"),
        ("n = BatchNormalization(c, scale, h, mu, var)", "its statistics are not constants"),
    ],
)
def test_a_norm_by_what_is_known_at_run_time_stays(norm, reason):
    model = build(
        "(float[2,4,6,6] x, float[8] scale) => (float[2,8,4,4] y) "
        f"{{ c = Conv(x, w)\n {norm}\n y = Relu(n) }}",
        w=weight(8, 4, 3, 3),
        **statistics(8),
    )
    report = apply(model, *FOLD)[NAME]
    assert report.matched == 0
    assert reason in reasons(report)
    assert ops(model)["BatchNormalization"] == 1


def test_statistics_of_another_number_of_channels_stay():
    model = build(
        "(float[2,4,6,6] x) => (float[2,8,4,4] y) { c = Conv(x, w)\n"
        "n = BatchNormalization(c, g, h, mu, var)\n y = Relu(n) }",
        w=weight(8, 4, 3, 3),
        **statistics(4),
    )
    report = apply(model, NAME)[NAME]
    assert report.matched == 0
    assert "has 8 channels, not 4" in reasons(report)


@pytest.mark.parametrize("reader", ["y = Conv(n, k)", "m = Relu(n)\n y = MatMul(m, k)"])
def test_a_reader_without_constant_weights_is_told(reader):
    shapes = "float[2,4,6,6] x, float[8,4,3,3] k" if "Conv" in reader else "float[6,4] x, float[4,5] k"
    model = build(
        f"({shapes}) => (y) {{ n = BatchNormalization(x, g, h, mu, var)\n {reader} }}", **statistics(4)
    )
    report = check(model, *FOLD)[NAME]
    assert report.matched == 0
    assert "constant" in reasons(report)
