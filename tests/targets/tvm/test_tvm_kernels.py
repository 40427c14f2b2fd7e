"""The kernels of standard ops against ONNX's own definitions in float64, on drawn sizes and values."""

import math

import numpy as np
import pytest
from arm_kernels import missing
from scipy.special import erf
from tvm_kernels import ARM, ISAS, arm, call

from edgec.targets.tvm.importing import in_panels
from edgec.targets.tvm.kernels import ACTIVATIONS, GEOMETRY, PANELS

CASES = 25

# float32 keeps 6e-8 of a number; a sum of n products of size 1 is off by about sqrt(n) times that.
CLOSE = 2e-6


@pytest.fixture(scope="module", autouse=True)
def emulator():
    """The emulated core, started for all tests at once."""
    if not missing():
        yield arm()
        arm().close()
        arm.cache_clear()
    else:
        yield None


def activated(name, x):
    sigmoid = 1 / (1 + np.exp(-x))
    return {
        "none": x,
        "relu": np.maximum(x, 0),
        "gelu": x * 0.5 * (1 + erf(x / math.sqrt(2))),
        "gelu tanh": 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "silu": x * sigmoid,
        "sigmoid": sigmoid,
        "tanh": np.tanh(x),
        "hard swish": x * np.clip(x / 6 + 0.5, 0, 1),
        "hard sigmoid": np.clip(x / 6 + 0.5, 0, 1),
        "relu6": np.clip(x, 0, 6),
        "exp": np.exp(x),
        "erf": erf(x),
    }[name]


def assert_close(found, expected, terms=1):
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    assert np.abs(found - expected).max(initial=0) <= CLOSE * math.sqrt(terms) * scale


@pytest.mark.parametrize("isa", ISAS)
def test_linear_layers(isa):
    rng = np.random.default_rng(0)
    for case in range(CASES):
        rows, depth, columns = (int(n) for n in rng.integers(1, (40, 1100 if case % 9 == 0 else 90, 130)))
        x, weight = (
            rng.standard_normal((2, rows, depth))[0],
            rng.standard_normal((depth, columns)) / depth**0.5,
        )
        bias = rng.standard_normal(columns) if rng.random() < 0.7 else np.zeros(0)
        residual = rng.standard_normal((rows, columns)) if rng.random() < 0.5 else np.zeros(0)
        name = ACTIVATIONS[case % len(ACTIVATIONS)]
        given = [array.astype(np.float32) for array in (x, weight, bias, residual)]
        exact = [array.astype(np.float64) for array in given]
        sums = exact[0] @ exact[1] + (exact[2] if bias.size else 0)
        expected = activated(name, sums) + (exact[3] if residual.size else 0)
        given[1] = in_panels(given[1], PANELS["aarch64" if isa == ARM else "x86_64"])
        found = call("Linear", given, (rows, columns), {"activation": ACTIVATIONS.index(name)}, isa)
        assert_close(found, expected, terms=4)


@pytest.mark.parametrize("isa", ISAS)
def test_convolutions(isa):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    for case in range(CASES):
        groups = int(rng.choice([1, 1, 2, 3]))
        own = rng.random() < 0.4
        channels = groups * int(rng.integers(1, 9)) if not own else int(rng.integers(1, 20))
        groups = channels if own else groups
        made = groups * int(rng.integers(1, 3 if own else 20))
        size = rng.integers(1, 5, 2)
        stride, step = rng.integers(1, 4, 2), rng.integers(1, 3, 2)
        pads = rng.integers(0, size, 2)
        picture = step * (size - 1) + 1 + rng.integers(0, 20, 2)
        x = rng.standard_normal((int(rng.integers(1, 3)), channels, *picture))
        weight = (
            rng.standard_normal((made, channels // groups, *size)) / (channels // groups * size.prod()) ** 0.5
        )
        bias = rng.standard_normal(made) if rng.random() < 0.7 else np.zeros(0)
        name = ACTIVATIONS[case % len(ACTIVATIONS)]
        given = [array.astype(np.float32) for array in (x, weight, bias)]
        tensors = [torch.from_numpy(array.astype(np.float64)) for array in given]
        sums = torch.nn.functional.conv2d(
            tensors[0], tensors[1], tensors[2] if bias.size else None, tuple(map(int, stride)),
            tuple(map(int, pads)), tuple(map(int, step)), groups,
        ).numpy()  # fmt: skip
        residual = rng.standard_normal(sums.shape) if rng.random() < 0.5 else np.zeros(0)
        given.append(residual.astype(np.float32))
        expected = activated(name, sums) + (given[3].astype(np.float64) if residual.size else 0)
        values = (*stride, *pads, *step, groups, ACTIVATIONS.index(name))
        found = call("Convolution", given, sums.shape, dict(zip(GEOMETRY, values, strict=True)), isa)
        assert_close(found, expected, terms=4)


@pytest.mark.parametrize("isa", ISAS)
def test_products(isa):
    rng = np.random.default_rng(2)
    for _ in range(CASES):
        rows, depth, columns = (int(n) for n in rng.integers(1, 70, 3))
        front = [int(n) for n in rng.integers(1, 4, int(rng.integers(0, 3)))]
        left, right = [[n if rng.random() < 0.7 else 1 for n in front] for _ in range(2)]
        turned = int(rng.random() < 0.3)
        a = rng.standard_normal((*left, rows, depth)).astype(np.float32)
        b = rng.standard_normal((*right, depth, columns)).astype(np.float32)
        expected = a.astype(np.float64) @ b.astype(np.float64)
        given = [a, b.swapaxes(-1, -2) if turned else b]
        found = call("Product", given, expected.shape, {"turned": turned}, isa)
        assert_close(found, expected, terms=depth)


@pytest.mark.parametrize("isa", ISAS)
def test_what_works_along_rows(isa):
    rng = np.random.default_rng(3)
    for case in range(CASES):
        shape = tuple(int(n) for n in rng.integers(1, (5, 9, 300)))
        x = (rng.standard_normal(shape) * rng.choice([0.1, 1, 30])).astype(np.float32)
        exact = x.astype(np.float64)
        powers = np.exp(exact - exact.max(-1, keepdims=True))
        assert_close(call("Softmax", [x], shape, {}, isa), powers / powers.sum(-1, keepdims=True))
        name = ACTIVATIONS[case % len(ACTIVATIONS)]
        expected = activated(name, np.clip(exact, -80, 80))
        found = call("Activation", [np.clip(x, -80, 80)], shape, {"kind": ACTIVATIONS.index(name)}, isa)
        # The exponential is off by a share of itself.
        assert (np.abs(found - expected) <= CLOSE * np.maximum(1, np.abs(expected))).all(), name
        rank, is_rms = int(rng.integers(1, 3)), case % 2
        axes = tuple(range(3 - rank, 3))
        scale, bias = (rng.standard_normal(shape[3 - rank :]).astype(np.float32) for _ in range(2))
        mean = 0 if is_rms else exact.mean(axes, keepdims=True)
        spread = ((exact - mean) ** 2).mean(axes, keepdims=True)
        expected = (exact - mean) / np.sqrt(spread + 1e-3) * scale + bias
        numbers = {"rank": rank, "epsilon": 1e-3, "is_rms": is_rms}
        assert_close(
            call("LayerNorm", [x, scale.ravel(), bias.ravel()], shape, numbers, isa), expected, terms=9
        )
