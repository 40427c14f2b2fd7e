"""Attention over channels is kept apart from attention over tokens."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from attention_graphs import Graph, run_ort
from onnx.reference import ReferenceEvaluator

from edgec.core.dialect import EDGEC_DOMAIN
from edgec.passes.decompose.plugins import DecomposePlugins
from edgec.passes.fuse.attention import FuseAttention
from edgec.passes.fuse.channel_attention import FuseChannelAttention

BATCH, TOKENS, HEADS, SIZE = 2, 7, 3, 4
WIDTH = HEADS * SIZE


def packed(g: Graph, order: tuple[int, ...]) -> list[str]:
    x = g.linear(g.input(g.draw(BATCH, TOKENS, WIDTH)), WIDTH, 3 * WIDTH)
    five = g.transpose(g.reshape(x, BATCH, TOKENS, 3, HEADS, SIZE), *order)
    return [g.op("Gather", five, g.const(i, np.int64), axis=0) for i in range(3)]


def normed(g: Graph, x: str) -> str:
    length = g.op("Clip", g.op("ReduceL2", x, g.const([-1], np.int64), keepdims=1), g.const(1e-12))
    return g.op("Div", x, length)


def xcit(g: Graph) -> str:
    """Cross-covariance attention: q, k, v (B, H, C, N), normalised along the tokens."""
    q, k, v = packed(g, (2, 0, 3, 4, 1))
    temperature = g.const(np.abs(g.draw(HEADS, 1, 1)) + 0.5)
    logits = g.op("Mul", g.op("MatMul", normed(g, q), g.transpose(normed(g, k), 0, 1, 3, 2)), temperature)
    out = g.op("MatMul", g.op("Softmax", logits, axis=-1), v)
    return g.reshape(g.transpose(out, 0, 3, 1, 2), BATCH, TOKENS, WIDTH)


def davit(g: Graph) -> str:
    """Channel block: q, k, v (B, H, N, C), the product over N, the result transposed back."""
    q, k, v = packed(g, (2, 0, 3, 1, 4))
    k = g.op("Mul", k, g.const(TOKENS**-0.5))
    p = g.op("Softmax", g.op("MatMul", g.transpose(q, 0, 1, 3, 2), k), axis=-1)
    out = g.transpose(g.op("MatMul", p, g.transpose(v, 0, 1, 3, 2)), 0, 1, 3, 2)
    return g.reshape(g.transpose(out, 0, 2, 1, 3), BATCH, TOKENS, WIDTH)


def convolved(g: Graph) -> str:
    """Queries from a convolution: features on axis 1, tokens after it (EdgeNeXt without its norms)."""
    x = g.op("Conv", g.input(g.draw(BATCH, WIDTH, 3, 3)), g.const(g.draw(3 * WIDTH, WIDTH, 1, 1) / 4))
    five = g.reshape(x, BATCH, 3, HEADS, SIZE, 9)
    q, k, v = (g.op("Gather", five, g.const(i, np.int64), axis=1) for i in range(3))
    p = g.op("Softmax", g.op("Div", g.op("MatMul", q, g.transpose(k, 0, 1, 3, 2)), g.const(3.0)), axis=-1)
    return g.op("MatMul", p, v)


@pytest.mark.parametrize("build", [xcit, davit, convolved])
def test_channel_attention_becomes_its_own_op(build):
    g = Graph()
    before = g.proto(build(g))
    model = ir.from_proto(before)
    tokens = FuseAttention()(model)
    assert (tokens.log.matches, tokens.log.misses) == ([], [])
    result = FuseChannelAttention()(model)
    assert len(result.log.matches) == 1
    (node,) = [node for node in model.graph if node.domain == EDGEC_DOMAIN]
    shape = [BATCH, HEADS, SIZE, TOKENS if build is not convolved else 9]
    assert [list(value.shape) for value in node.inputs[:3]] == [shape] * 3
    assert list(node.outputs[0].shape) == shape
    assert "Softmax" not in [other.op_type for other in model.graph]
    DecomposePlugins()(model)
    expected = run_ort(before, g.feeds)
    actual = ReferenceEvaluator(ir.to_proto(model)).run(None, g.feeds)
    # The same products in the same order; only the scale may move.
    np.testing.assert_allclose(actual[0], expected[0], atol=1e-5)


def test_token_attention_is_not_taken():
    g = Graph()
    q, k, v = packed(g, (2, 0, 3, 1, 4))
    p = g.op("Softmax", g.op("MatMul", q, g.transpose(k, 0, 1, 3, 2)), axis=-1)
    model = ir.from_proto(g.proto(g.op("MatMul", p, v)))
    assert FuseChannelAttention()(model).log.matches == []
    assert len(FuseAttention()(model).log.matches) == 1


def test_biased_channel_attention_is_a_miss():
    g = Graph()
    q, k, v = packed(g, (2, 0, 3, 4, 1))
    logits = g.op("Add", g.op("MatMul", q, g.transpose(k, 0, 1, 3, 2)), g.const(g.draw(SIZE, SIZE)))
    model = ir.from_proto(g.proto(g.op("MatMul", g.op("Softmax", logits, axis=-1), v)))
    FuseAttention()(model)
    (miss,) = FuseChannelAttention()(model).log.misses
    assert "biases an attention over channels" in miss.reason


def test_unknown_provenance_is_fused_as_tokens_and_says_so():
    g = Graph()
    q, k, v = (g.input(g.draw(1, 2, SIZE, TOKENS)) for _ in range(3))
    p = g.op("Softmax", g.op("MatMul", q, g.transpose(k, 0, 1, 3, 2)), axis=-1)
    model = ir.from_proto(g.proto(g.op("MatMul", p, v)))
    FuseAttention()(model)
    (node,) = list(model.graph)
    assert node.metadata_props["edgec.attention"] == "unknown"
