"""What must not be rounded: masks of minus infinity, the sizes of tokens, the steps of int8."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto
from onnx import helper as h

from edgec.core.dialect import EDGEC_DOMAIN, ONNX_OPSET
from edgec.passes.editing import constant
from edgec.passes.precision.half import MASKED, HalfPrecision, rounded
from edgec.passes.precision.quantize import QuantizeProducts
from edgec.plugins.ops.token_merge.op import TOKEN_MERGE, TOKEN_MERGE_ENERGY

HALF, FULL = ir.DataType.FLOAT16, ir.DataType.FLOAT


def test_what_stands_for_minus_infinity_stays_finite_in_fp16():
    found = rounded(np.array([-np.inf, -1e30, -65504.0, -100.0, 2.0], np.float32))
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, np.array([MASKED, MASKED, MASKED, -100, 2], np.float16))


def model_of(nodes, inputs, outputs, initializers=()):
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [h.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        list(initializers),
    )
    opsets = [h.make_opsetid("", ONNX_OPSET), h.make_opsetid(EDGEC_DOMAIN, 1)]
    return ir.from_proto(h.make_model(graph, opset_imports=opsets))


@pytest.mark.parametrize("op_type", [TOKEN_MERGE.op_type, TOKEN_MERGE_ENERGY.op_type])
def test_the_sizes_of_tokens_stay_in_fp32(op_type):
    """A size counts tokens: fp16 has no odd number above 2048."""
    node = h.make_node(
        op_type, ["x", "k", "s"], ["m", "sizes", "at"], name="merge", domain=EDGEC_DOMAIN, r=2, protected=1
    )
    cast = h.make_node("Neg", ["sizes"], ["y"], name="read")
    inputs = {"x": (1, 9, 4), "k": (1, 2, 9, 4), "s": (1, 9, 1)}
    model = model_of([node, cast], inputs, ("m", "y"))
    merge = next(each for each in model.graph if each.domain == EDGEC_DOMAIN)
    for value, dtype in zip(merge.outputs, (FULL, FULL, ir.DataType.INT32), strict=True):
        value.type = ir.TensorType(dtype)
    HalfPrecision()(model)
    assert [value.dtype for value in merge.inputs] == [HALF, HALF, FULL]
    assert [value.dtype for value in merge.outputs] == [HALF, FULL, ir.DataType.INT32]


def test_a_step_of_int8_is_the_range_over_127():
    weight = h.make_tensor("w", TensorProto.FLOAT, (4, 2), np.arange(8, dtype=np.float32))
    model = model_of([h.make_node("MatMul", ["x", "w"], ["y"], name="p")], {"x": (3, 4)}, ("y",), [weight])
    QuantizeProducts({"x": 12.7})(model)
    node = next(each for each in model.graph if each.op_type == "QuantizeLinear")
    assert constant(node.inputs[1]) == np.float32(0.1)
    assert constant(node.inputs[2]) == 0
