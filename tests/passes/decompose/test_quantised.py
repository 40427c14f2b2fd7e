"""Q/DQ pairs of files that are quantised already, as arithmetic."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from edgec.core.evaluation import Evaluator
from edgec.passes.decompose.quantised import DecomposeQuantised, has_pairs
from edgec.passes.manager import Pipeline

RNG = np.random.default_rng(0)


def model(body, constants, inputs="float[2, 6, 8] x", outputs="float[a, b, c] y"):
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 21]>\nq ({inputs}) => ({outputs}) {{ {body} }}'
    )
    used = {name for node in proto.graph.node for name in node.input}
    for name, array in constants.items():
        if name not in used:
            continue
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    for node in proto.graph.node:
        node.name = node.output[0]
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def rewritten(built, **options):
    copy = built.clone()
    Pipeline([DecomposeQuantised(**options)]).run(copy)
    onnx.checker.check_model(ir.to_proto(copy), full_check=True)
    return copy


def run(built, **feeds):
    with Evaluator(built) as evaluator:
        return evaluator.run(feeds)["y"]


def ops(built):
    return [node.op_type for node in built.graph]


PAIR = "q = QuantizeLinear <axis = 2> (x, s, z) y = DequantizeLinear <axis = 2> (q, s, z)"


@pytest.mark.parametrize("kind", ["uint8", "int8", "int16", "uint16"])
@pytest.mark.parametrize("channels", [None, 8])
def test_a_pair_is_its_own_arithmetic(kind, channels):
    """Ties, both ends and far beyond them; scales that are powers of two put ties where they are."""
    ends = np.iinfo(kind)
    size = () if channels is None else (channels,)
    zero = RNG.integers(ends.min, ends.max + 1, size).astype(kind)
    scale = (2.0 ** RNG.integers(-6, 2, size)).astype(np.float32)
    built = model(PAIR, {"s": scale, "z": zero})
    steps = RNG.integers(2 * int(ends.min) - 300, 2 * int(ends.max) + 300, (2, 6, 8)) / 2
    x = (steps * scale).astype(np.float32)
    found = rewritten(built)
    assert not has_pairs(found)
    np.testing.assert_array_equal(run(found, x=x), run(built, x=x))


@pytest.mark.parametrize("symmetric", [True, False])
def test_pairs_that_an_engine_takes_stay_for_it(symmetric):
    built = model(PAIR, {"s": np.float32(0.1), "z": np.int8(0)})
    assert has_pairs(rewritten(built, symmetric=symmetric)) is symmetric


@pytest.mark.parametrize("kind", ["int8", "uint8", "int32"])
def test_constants_are_folded(kind):
    given = RNG.integers(0, 100, (8,)).astype(kind)
    body = "w = DequantizeLinear (c, s) y = Add (x, w)"
    found = rewritten(model(body, {"c": given, "s": np.float32(0.25)}), symmetric=True)
    assert ops(found) == ["Add"]
    x = RNG.standard_normal((2, 6, 8)).astype(np.float32)
    np.testing.assert_array_equal(run(found, x=x), x + given.astype(np.float32) * np.float32(0.25))


def test_weights_of_a_product_in_int8_stay_and_its_bias_is_folded():
    body = """q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z)
        w = DequantizeLinear <axis = 1> (c, t, u) b = DequantizeLinear <axis = 0> (e, t, v)
        p = MatMul (d, w) y = Add (p, b)"""
    constants = {
        "s": np.float32(0.1), "z": np.int8(0), "t": RNG.uniform(0.1, 1, 4).astype(np.float32),
        "c": RNG.integers(-127, 128, (8, 4)).astype(np.int8), "u": np.zeros(4, np.int8),
        "e": RNG.integers(-9999, 9999, 4).astype(np.int32), "v": np.zeros(4, np.int32),
    }  # fmt: skip
    built = model(body, constants)
    found = rewritten(built, symmetric=True)
    assert ops(found) == ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "MatMul", "Add"]
    assert ops(rewritten(built)) == ["Div", "Round", "Max", "Min", "Mul", "MatMul", "Add"]
    # Beside an activation in fp32 int8 weights are no product in int8.
    plain = rewritten(model("w = DequantizeLinear (c, s) y = MatMul (x, w)", constants), symmetric=True)
    assert ops(plain) == ["MatMul"]
    x = RNG.standard_normal((2, 6, 8)).astype(np.float32)
    np.testing.assert_allclose(run(rewritten(built), x=x), run(built, x=x), rtol=1e-6)
    np.testing.assert_allclose(run(found, x=x), run(built, x=x), rtol=1e-6)
