"""The op's definition against the formula, and its shapes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from edgec.core.dialect import EDGEC_DOMAIN, EDGEC_OPSET, IR_VERSION, ONNX_OPSET
from edgec.plugins.infra import plugins
from edgec.plugins.ops.channel_attention.op import CHANNEL_ATTENTION as PLUGIN
from edgec.plugins.ops.channel_attention.op import OP_TYPE


def model_of(*shapes: tuple[int, ...]) -> ir.Model:
    names = ("Q", "K", "V", "temperature")
    inputs = [
        ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
        for name, shape in zip(names, shapes, strict=True)
    ]
    node = ir.node(OP_TYPE, inputs, domain=EDGEC_DOMAIN)
    node.outputs[0].name = "Y"
    ((shape, dtype),) = PLUGIN.infer(node)
    node.outputs[0].shape, node.outputs[0].type = shape, ir.TensorType(dtype)
    imports = {"": ONNX_OPSET, EDGEC_DOMAIN: EDGEC_OPSET}
    graph = ir.Graph(inputs, node.outputs, nodes=[node], opset_imports=imports, name="g")
    function = PLUGIN.function()
    return ir.Model(graph, ir_version=IR_VERSION, functions=[function])


def test_the_plugin_is_registered():
    assert plugins()[OP_TYPE] is PLUGIN


@settings(max_examples=25, deadline=None)
@given(*[st.integers(1, 5)] * 6, st.booleans())
def test_body_computes_the_formula(batch, heads, queries, keys, tokens, width, each):
    random = np.random.default_rng(0)
    shapes = (
        (batch, heads, queries, tokens),
        (batch, heads, keys, tokens),
        (batch, heads, keys, width),
        (heads, 1, 1) if each else (1, 1, 1, 1),
    )
    q, k, v, t = (random.standard_normal(shape).astype(np.float32) for shape in shapes)
    model = model_of(*shapes)
    (y,) = ReferenceEvaluator(ir.to_proto(model)).run(None, {"Q": q, "K": k, "V": v, "temperature": t})
    logits = t * (q.astype(np.float64) @ k.swapaxes(-1, -2))
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    expected = weights / weights.sum(-1, keepdims=True) @ v
    np.testing.assert_allclose(y, expected, atol=1e-5)  # fp32 against fp64, values of a few units
    assert list(model.graph.outputs[0].shape) == list(y.shape)


def test_unknown_shapes_give_unknown_shapes():
    inputs = [ir.Value(name=name) for name in ("Q", "K", "V", "temperature")]
    assert PLUGIN.infer(ir.node(OP_TYPE, inputs, domain=EDGEC_DOMAIN)) == []
