"""int8 in the graph: where the pairs stand, what they hold, what it costs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from edgec.core.dialect import SOURCE_KEY
from edgec.core.evaluation import Evaluator
from edgec.passes.manager import Pipeline
from edgec.passes.precision.errors import rms_error
from edgec.passes.precision.half import HalfPrecision
from edgec.passes.precision.judge import spelled_out
from edgec.passes.precision.quantize import (
    SCHEMES,
    QuantizeProducts,
    activation_limits,
    noisiest,
    products,
)
from edgec.passes.precision.ranges import calibrate

TEXT = """net (float[1, 3, 8, 8] x) => (float[1, 10] y) {
    c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, wc, bc)
    r = Relu (c)
    f = Flatten (r)
    one = MatMul (f, w1)
    two = Gemm <transB = 1> (f, w2, b2)
    both = Add (one, two)
    t = Transpose (both)
    inner = MatMul (both, t)
    y = Mul (both, inner)
}"""


@pytest.fixture
def built():
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]>\n{TEXT}')
    shapes = {"wc": (8, 3, 3, 3), "bc": (8,), "w1": (512, 10), "w2": (10, 512), "b2": (10,)}
    for name, shape in shapes.items():
        array = (0.1 * rng.standard_normal(shape)).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for node in proto.graph.node:
        node.name = node.output[0]
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    for node in model.graph:
        node.metadata_props[SOURCE_KEY] = f"layers.{node.name}"
    return model


@pytest.fixture
def feeds():
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(4)]


def quantised(model, limits, keep=()):
    copy = model.clone()
    result = Pipeline([QuantizeProducts(limits, keep)]).run(copy)
    copy.graph.sort()
    onnx.checker.check_model(ir.to_proto(copy), full_check=True)
    return copy, result[0]


def run(model, feed):
    with Evaluator(model) as evaluator:
        return evaluator.run(feed)


def test_only_products_with_constant_weights_count(built):
    assert [product.node.name for product in products(built)] == ["c", "one", "two"]
    assert [product.channel_axis for product in products(built)] == [0, 1, 0]


def test_pairs_stand_in_front_of_products_and_weights_are_int8_a_channel(built, feeds):
    limits = activation_limits(built, feeds, "minmax")
    model, report = quantised(built, limits)
    assert report.matched == 3
    # x and f are quantised once each, though two products read f.
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph) == 2
    for node in model.graph:
        if node.name in ("c", "one", "two"):
            assert all(value.producer().op_type == "DequantizeLinear" for value in list(node.inputs)[:2])
            weights = node.inputs[1].producer()
            assert weights.inputs[0].const_value.dtype == ir.DataType.INT8
            scales = weights.inputs[1].const_value.numpy()
            assert scales.shape == (8 if node.name == "c" else 10,)
            assert not weights.inputs[2].const_value.numpy().any()
        if node.op_type == "QuantizeLinear":
            assert int(node.inputs[2].const_value.numpy()) == 0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_gives_ranges_that_keep_the_result_near(built, feeds, scheme, capsys):
    limits = activation_limits(built, feeds, scheme)
    assert set(limits) == {"x", "f"}
    assert capsys.readouterr().out == ""
    model, _ = quantised(built, limits)
    error = rms_error(run(built, feeds[0]), run(model, feeds[0]))
    # 8 bits over a normal distribution's range are a relative step of 0.03; it is averaged over 500 terms.
    assert 0 < error < 0.1


def test_minmax_covers_the_largest_value(built, feeds):
    limits = activation_limits(built, feeds, "minmax")
    assert limits["x"] == pytest.approx(max(float(np.abs(feed["x"]).max()) for feed in feeds))


def test_kept_layers_and_unknown_ranges_stay_and_are_told(built, feeds):
    limits = activation_limits(built, feeds, "minmax")
    model, report = quantised(built, {"x": limits["x"]}, keep={"layers.c"})
    assert report.matched == 0
    assert {miss.source for miss in report.missed} == {"layers.c", "layers.one", "layers.two"}
    assert not any(node.op_type == "QuantizeLinear" for node in model.graph)


def test_around_the_pairs_the_graph_may_be_fp16(built, feeds):
    model, _ = quantised(built, activation_limits(built, feeds, "minmax"))
    Pipeline([HalfPrecision()]).run(model)
    model.graph.sort()
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    for node in model.graph:
        if node.op_type in ("Conv", "MatMul", "Gemm"):
            assert node.outputs[0].dtype == ir.DataType.FLOAT16
        if node.name in ("c", "one", "two"):
            # A cast between a pair and its product would keep TensorRT from fusing them.
            assert node.inputs[0].producer().op_type == "DequantizeLinear"
    exact, found = run(built, feeds[0]), run(spelled_out(model), feeds[0])
    assert rms_error(exact, found) < 0.1


def test_outliers_come_first(built, feeds):
    feeds[0]["x"][0, 0, 0, 0] = 400.0
    assert noisiest(built, calibrate(built, feeds))[0] == "layers.c"
