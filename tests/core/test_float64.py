"""What runs in float64 is exact to float64, by torch and by numpy; what cannot says so or rounds once."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx_ir import tensor

from edgec.core.dialect import ONNX_OPSET
from edgec.core.float64 import Float64Evaluator


def model_of(text: str, **weights: np.ndarray) -> ir.Model:
    """A model from ONNX's text form, with its weights in float32."""
    import onnx.parser

    head = f'<ir_version: 11, opset_import: ["" : {ONNX_OPSET}]> agraph '
    model = ir.from_proto(onnx.parser.parse_model(head + text))
    for name, array in weights.items():
        value = next(found for node in model.graph for found in node.inputs if found and found.name == name)
        value.const_value = tensor(array, name=name)
        value.shape, value.dtype = ir.Shape(array.shape), value.const_value.dtype
        model.graph.register_initializer(value)
    return model


def run(model: ir.Model, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    with Float64Evaluator(model) as evaluator:
        return evaluator.run(feeds)


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def wide(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float64))


@pytest.mark.parametrize(
    ("attributes", "options", "shape", "channels", "kernel"),
    [
        ("pads=[1,1,1,1]", {"padding": 1}, (2, 4, 9, 9), 4, (3, 3)),
        ("strides=[2,3]", {"stride": (2, 3)}, (1, 4, 11, 13), 4, (3, 2)),
        ("strides=[4,4]", {"stride": 4}, (1, 3, 16, 16), 3, (4, 4)),
        ("dilations=[2,2], pads=[2,2,2,2]", {"dilation": 2, "padding": 2}, (1, 4, 12, 12), 4, (3, 3)),
        ("group=4", {"groups": 4}, (2, 4, 8, 8), 1, (3, 3)),
        ("group=2, strides=[2]", {"groups": 2, "stride": 2}, (1, 4, 33), 2, (5,)),
    ],
)
def test_convolutions(
    attributes: str, options: dict, shape: tuple[int, ...], channels: int, kernel: tuple[int, ...]
) -> None:
    x, w, b = drawn(*shape), drawn(8, channels, *kernel, seed=1), drawn(8, seed=2)
    sizes = ",".join(map(str, shape))
    found = run(
        model_of(f"(float[{sizes}] x) => (float[] y) {{ y = Conv<{attributes}>(x, w, b) }}", w=w, b=b), x=x
    )["y"]
    function = torch.nn.functional.conv2d if len(kernel) == 2 else torch.nn.functional.conv1d
    right = function(wide(x), wide(w), wide(b), **options).numpy()
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
def test_a_convolution_that_pads_by_itself(mode: str) -> None:
    x, w = drawn(1, 3, 10, 9), drawn(4, 3, 3, 2, seed=1)
    body = f'(float[1,3,10,9] x) => (float[] y) {{ y = Conv<auto_pad="{mode}", strides=[2,2]>(x, w) }}'
    found = run(model_of(body, w=w), x=x)["y"]
    before, after = ((0, 0), (1, 1)) if mode == "SAME_UPPER" else ((1, 1), (0, 0))
    padded = np.pad(x, ((0, 0), (0, 0), (before[0], after[0]), (before[1], after[1])))
    right = torch.nn.functional.conv2d(wide(padded), wide(w), stride=2).numpy()
    np.testing.assert_allclose(found, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("counts", [0, 1])
def test_average_pooling(counts: int) -> None:
    x = drawn(1, 3, 9, 9)
    attributes = f"kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], count_include_pad={counts}"
    found = run(model_of(f"(float[1,3,9,9] x) => (float[] y) {{ y = AveragePool<{attributes}>(x) }}"), x=x)
    right = torch.nn.functional.avg_pool2d(wide(x), 3, 2, 1, count_include_pad=bool(counts)).numpy()
    np.testing.assert_allclose(found["y"], right, rtol=1e-13, atol=1e-13)


def test_the_error_function_over_its_whole_range() -> None:
    x = np.concatenate([np.linspace(-8, 8, 4001), 10.0 ** np.arange(-30, 0)]).astype(np.float32)
    found = run(model_of(f"(float[{x.size}] x) => (float[] y) {{ y = Erf(x) }}"), x=x)["y"]
    np.testing.assert_allclose(found, [math.erf(float(v)) for v in x], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_both_forms_of_gelu(approximate: str) -> None:
    x = drawn(1000) * 3
    found = run(
        model_of(f'(float[1000] x) => (float[] y) {{ y = Gelu<approximate="{approximate}">(x) }}'), x=x
    )["y"]
    right = torch.nn.functional.gelu(wide(x), approximate=approximate).numpy()
    np.testing.assert_allclose(found, right, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("op_type", "name"), [("HardSwish", "hardswish"), ("Mish", "mish")])
def test_gates_that_onnx_runtime_expands_into_ops_that_it_lacks(op_type: str, name: str) -> None:
    x = np.concatenate([drawn(1000) * 5, np.array([-1e3, 1e3], np.float32)])
    found = run(model_of(f"(float[1002] x) => (float[] y) {{ y = {op_type}(x) }}"), x=x)["y"]
    right = getattr(torch.nn.functional, name)(wide(x)).numpy()
    np.testing.assert_allclose(found, right, rtol=1e-12, atol=1e-13)


def test_norms_and_attention() -> None:
    x, q = drawn(2, 5, 8), drawn(1, 2, 6, 4)
    body = """(float[2,5,8] x, float[1,2,6,4] q) => (float[] n, float[] i, float[] m, float[] a) {
        n = LayerNormalization(x, s)
        i = InstanceNormalization(x, t, u)
        m = Mean(x, x, n)
        a = Attention(q, q, q)
    }"""
    scale, more, shift = drawn(8, seed=1), drawn(5, seed=2), drawn(5, seed=3)
    found = run(model_of(body, s=scale, t=more, u=shift), x=x, q=q)
    norm = torch.nn.functional.layer_norm(wide(x), [8], wide(scale)).numpy()
    np.testing.assert_allclose(found["n"], norm, rtol=1e-12, atol=1e-13)
    instance = torch.nn.functional.instance_norm(wide(x), weight=wide(more), bias=wide(shift)).numpy()
    np.testing.assert_allclose(found["i"], instance, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found["m"], (2 * x.astype(np.float64) + norm) / 3, rtol=1e-12, atol=1e-13)
    attention = torch.nn.functional.scaled_dot_product_attention(wide(q), wide(q), wide(q)).numpy()
    # Its definition scales by a float32.
    np.testing.assert_allclose(found["a"], attention, rtol=1e-6, atol=1e-7)


def test_what_onnx_has_in_float32_alone_is_fed_that() -> None:
    x = drawn(1, 2, 4, 4)
    body = """(float[1,2,4,4] x) => (float[] y, float[] z) {
        h = Mul(x, x)
        y = Resize<mode="linear">(h, , k)
        z = Neg(y)
    }"""
    found = run(model_of(body, k=np.array([1, 1, 2, 2], np.float32)), x=x)
    right = torch.nn.functional.interpolate(wide(x) ** 2, scale_factor=2, mode="bilinear").numpy()
    assert found["y"].dtype == np.float64
    np.testing.assert_allclose(found["y"], right, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(found["z"], -found["y"])


def test_whole_numbers_and_bodies_stay_what_they_are() -> None:
    x = drawn(3, 4)
    body = """(float[3,4] x, bool up) => (float[] y, int64[] best, float[] c) {
        best = ArgMax<axis=1, keepdims=0>(x)
        i = Cast<to=7>(x)
        c = Cast<to=1>(i)
        y = If (up) <
            then_branch = g () => (float[] a) { a = Exp(x) },
            else_branch = h () => (float[] b) { b = Erf(x) }
        >
    }"""
    for up in (True, False):
        found = run(model_of(body), x=x, up=np.array(up))
        exact = x.astype(np.float64)
        right = np.exp(exact) if up else np.vectorize(math.erf)(exact)
        np.testing.assert_allclose(found["y"], right, rtol=1e-13)
        np.testing.assert_array_equal(found["best"], x.argmax(axis=1))
        np.testing.assert_array_equal(found["c"], np.trunc(x))


def test_the_model_is_left_as_it_was() -> None:
    model = model_of("(float[4] x) => (float[] y) { y = Erf(x) }")
    run(model, x=drawn(4))
    assert [node.op_type for node in model.graph] == ["Erf"]
    assert model.graph.inputs[0].dtype == ir.DataType.FLOAT
