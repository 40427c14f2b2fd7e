"""Weights in fp16: what a product computes stays nearer than with each weight rounded by itself."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from edgec.core.evaluation import Evaluator
from edgec.passes.editing import constant
from edgec.passes.manager import Pipeline
from edgec.passes.precision.weights import RoundWeights, input_keeping_weights

PRODUCTS = {
    "MatMul": ("y = MatMul (x, w)", (400, 16), (16, 5)),
    "Gemm": ("y = Gemm <transB = 1> (x, w)", (400, 16), (5, 16)),
    "Conv": ("y = Conv (x, w)", (2, 8, 9, 9), (5, 8, 3, 3)),
    "grouped Conv": ("y = Conv <group = 2> (x, w)", (2, 8, 9, 9), (6, 4, 3, 3)),
    "depthwise Conv": ("y = Conv <group = 8> (x, w)", (2, 8, 9, 9), (8, 1, 3, 3)),
}


def drawn(shape, seed):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def model(body, shape, weights):
    text = f"m (float[{', '.join(map(str, shape))}] x) => (float y) {{ {body} }}"
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]>\n{text}')
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    proto.graph.node[0].name = "product"
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def run(built, x):
    with Evaluator(built) as evaluator:
        return evaluator.run({"x": x})["y"]


@pytest.mark.parametrize("kind", PRODUCTS)
def test_results_stay_nearer_than_with_the_nearest_weights(kind):
    body, shape, weight_shape = PRODUCTS[kind]
    weights = drawn(weight_shape, seed=1)
    # Channels that vary together, about means of their own, as behind a GELU or a norm with a bias.
    channels = shape[1]
    mixing = drawn((channels, channels), seed=2) * np.geomspace(1, 0.02, channels)[:, None]
    rows = drawn((4000, channels), seed=3) @ mixing + 3 * drawn((channels,), seed=4)

    def inputs(start):
        count = int(np.prod(shape)) // channels
        picked = rows[start : start + count].reshape([shape[0], *shape[2:], channels])
        return np.ascontiguousarray(np.moveaxis(picked, -1, 1).astype(np.float32))

    built = model(body, shape, weights)
    rounded = input_keeping_weights(built, [{"x": inputs(0)}, {"x": inputs(1000)}])["product"][0]
    assert rounded.shape == weights.shape
    np.testing.assert_array_equal(rounded, rounded.astype(np.float16).astype(np.float32))
    # What one weight makes good for another is a few steps of fp16, not another matrix.
    assert np.abs(rounded - weights).max() <= 8 * np.spacing(np.float16(np.abs(weights).max()))

    def off(array):
        y = run(model(body, shape, array.astype(np.float32)), inputs(2000))
        return np.square(y - run(built, inputs(2000))).mean() ** 0.5

    assert off(rounded) < 0.7 * off(weights.astype(np.float16))


def test_kept_products_and_weights_beyond_fp16_stay():
    weights = drawn((16, 5), seed=1)
    built = model("y = MatMul (x, w)", (6, 16), weights)
    rounded = input_keeping_weights(built, [{"x": drawn((6, 16), seed=4)}])
    for keep, expected in (((), rounded["product"][0]), (("product",), weights)):
        copy = built.clone()
        Pipeline([RoundWeights(rounded, keep)]).run(copy)
        node = next(iter(copy.graph))
        np.testing.assert_array_equal(constant(node.inputs[1]), expected)
    weights[0, 0] = 1e5
    assert (
        input_keeping_weights(model("y = MatMul (x, w)", (6, 16), weights), [{"x": drawn((6, 16), 4)}]) == {}
    )


@pytest.mark.parametrize("kind", ["Gemm", "Conv", "depthwise Conv"])
def test_weights_make_good_for_a_large_bias(kind):
    body, shape, weight_shape = PRODUCTS[kind]
    weights = drawn(weight_shape, seed=1)
    bias = 40 * drawn(weight_shape[:1], seed=5)
    x = np.abs(drawn(shape, seed=6)) + 0.5
    built = model(body.replace("w)", "w, b)"), shape, weights)
    built.graph.initializers.clear()
    text = ir.to_proto(built)
    text.graph.initializer.extend(
        [onnx.numpy_helper.from_array(weights, "w"), onnx.numpy_helper.from_array(bias, "b")]
    )
    built = ir.from_proto(text)
    rounded, other = input_keeping_weights(built, [{"x": x}])["product"]
    np.testing.assert_array_equal(other, other.astype(np.float16).astype(np.float32))
    assert other.shape == bias.shape

    def off(w, b):
        copy = built.clone()
        Pipeline([RoundWeights({"product": (w, b)})]).run(copy)
        return np.square(run(copy, x) - run(built, x)).mean() ** 0.5

    nearest = off(weights.astype(np.float16).astype(np.float32), bias.astype(np.float16).astype(np.float32))
    assert off(rounded, other) < 0.5 * nearest
