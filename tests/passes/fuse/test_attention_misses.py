"""What is left alone, and what the log says about it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from attention_graphs import Fused, Graph, fuse

from edgec.core.dialect import SOURCE_KEY
from edgec.passes.fuse.attention import FuseAttention


def parts(g: Graph) -> tuple[str, str, str]:
    q, k, v = (g.input(g.draw(1, 2, 5, 4)) for _ in range(3))
    return q, g.transpose(k, 0, 1, 3, 2), v


def reason(fused: Fused) -> str:
    assert fused.nodes == []
    assert fused.error < 1e-6
    (miss,) = fused.result.log.misses
    return miss.reason


def test_probabilities_with_a_second_consumer_that_is_no_product():
    g = Graph()
    q, k, v = parts(g)
    p = g.op("Softmax", g.op("MatMul", q, k), axis=-1)
    first, second = g.op("MatMul", p, v), g.op("Exp", p)
    text = reason(fuse(g, first, second))
    assert f"the probabilities {p!r} have more than one consumer" in text
    assert "MatMul 'MatMul_3'" in text
    assert "Exp 'Exp_4'" in text


def test_probabilities_that_are_an_output():
    g = Graph()
    q, k, v = parts(g)
    p = g.op("Softmax", g.op("MatMul", q, k), axis=-1)
    text = reason(fuse(g, g.op("MatMul", p, v), p))
    assert "the graph's outputs" in text


def test_logits_with_a_second_consumer():
    g = Graph()
    q, k, v = parts(g)
    logits = g.op("MatMul", q, k)
    later = g.op("Relu", logits)
    text = reason(fuse(g, g.op("MatMul", g.op("Softmax", logits, axis=-1), v), later))
    assert f"the logits {logits!r} have more than one consumer" in text
    assert "Relu" in text


@pytest.mark.parametrize("before", [False, True])
def test_talking_heads(before):
    # CaiT: a linear layer over the heads axis, before or after the softmax.
    g = Graph()
    q, k, v = parts(g)

    def talk(x: str) -> str:
        return g.transpose(g.op("MatMul", g.transpose(x, 0, 2, 3, 1), g.const(g.draw(2, 2))), 0, 3, 1, 2)

    x = g.op("MatMul", q, k)
    p = g.op("Softmax", talk(x) if before else x, axis=-1)
    text = reason(fuse(g, g.op("MatMul", p if before else talk(p), v)))
    assert "linear layer" in text
    assert "talking heads" in text


def test_heads_mixed_by_a_convolution():
    g = Graph()
    q, k, v = parts(g)
    weights = g.const(g.draw(2, 2, 1, 1))
    p = g.op("Conv", g.op("Softmax", g.op("MatMul", q, k), axis=-1), weights)
    assert "go through Conv" in reason(fuse(g, g.op("MatMul", p, v)))


def test_softmax_of_keys_alone_is_linear_attention():
    # Efficient Attention: softmax(q) (softmax(k)^T v): two softmaxes, no query-key product.
    g = Graph()
    q, k, v = (g.input(g.draw(1, 2, 5, 4)) for _ in range(3))
    context = g.op("MatMul", g.transpose(g.op("Softmax", k, axis=-2), 0, 1, 3, 2), v)
    fused = fuse(g, g.op("MatMul", g.op("Softmax", q, axis=-1), context))
    assert fused.nodes == []
    assert len(fused.result.log.misses) == 2
    assert all("not over a query-key product" in miss.reason for miss in fused.result.log.misses)


def test_softmax_that_feeds_no_product_is_not_mentioned():
    # A classifier, and a gate over two branches (selective kernels).
    g = Graph()
    x = g.input(g.draw(2, 8))
    classes = g.op("Softmax", g.linear(x, 8, 5), axis=-1)
    branches = g.input(g.draw(2, 2, 4))
    gates = g.op("Softmax", g.reshape(g.linear(x, 8, 8), 2, 2, 4), axis=1)
    mixed = g.op("ReduceSum", g.op("Mul", branches, gates), g.const([1], np.int64), keepdims=0)
    fused = fuse(g, classes, g.linear(mixed, 4, 3))
    assert fused.nodes == []
    assert fused.result.log.misses == []


def test_probabilities_summed_over_another_axis():
    g = Graph()
    q, k, v = parts(g)
    p = g.transpose(g.op("Softmax", g.op("MatMul", q, k), axis=-1), 0, 1, 3, 2)
    assert "over the axis of the softmax" in reason(fuse(g, g.op("MatMul", p, v)))


def test_gated_probabilities():
    # ConViT adds positional to content probabilities.
    g = Graph()
    q, k, v = parts(g)
    p = g.op("Softmax", g.op("MatMul", q, k), axis=-1)
    p = g.op("Add", g.op("Mul", p, g.const(g.draw(1, 2, 1, 1))), g.const(g.draw(1, 2, 5, 5)))
    assert "go through Mul" in reason(fuse(g, g.op("MatMul", p, v)))


def test_logits_multiplied_one_by_one():
    g = Graph()
    q, k, v = parts(g)
    logits = g.op("Mul", g.op("MatMul", q, k), g.input(g.draw(5, 5)))
    assert "one number each" in reason(fuse(g, g.op("MatMul", g.op("Softmax", logits, axis=-1), v)))


def test_sliced_logits_and_appended_sinks():
    g = Graph()
    q, k, v = parts(g)
    logits = g.op("Concat", g.op("MatMul", q, k), g.input(g.draw(1, 2, 5, 1)), axis=-1)
    p = g.op("Slice", g.op("Softmax", logits, axis=-1), *(g.const([x], np.int64) for x in (0, 5, 3)))
    assert "go through Slice" in reason(fuse(g, g.op("MatMul", p, v)))


def test_values_of_their_own_for_each_query():
    # VOLO's outlook attention and neighbourhood attention weigh another window for each query.
    g = Graph()
    q, k, _ = parts(g)
    v = g.input(g.draw(1, 2, 5, 5, 4))
    p = g.reshape(g.op("Softmax", g.op("MatMul", q, k), axis=-1), 1, 2, 5, 1, 5)
    assert "differ from query to query" in reason(fuse(g, g.op("MatMul", p, v)))


def test_a_miss_names_node_and_source_layer():
    g = Graph()
    q, k, v = parts(g)
    p = g.op("Softmax", g.op("MatMul", q, k), axis=-1)
    model = ir.from_proto(g.proto(g.op("MatMul", p, v), p))
    for node in model.graph:
        node.metadata_props[SOURCE_KEY] = "blocks.3.attn"
    (miss,) = FuseAttention()(model).log.misses
    assert (miss.node, miss.source) == ("Softmax_2", "blocks.3.attn")


def test_logits_from_a_linear_layer():
    # Synthesizer: no keys.
    g = Graph()
    x, v = g.input(g.draw(2, 5, 8)), g.input(g.draw(2, 5, 4))
    p = g.op("Softmax", g.linear(x, 8, 5), axis=-1)
    assert "there are no keys" in reason(fuse(g, g.op("MatMul", p, v)))


def test_a_bound_behind_a_mask():
    g = Graph()
    q, k, v = parts(g)
    logits = g.op("Tanh", g.op("Add", g.op("MatMul", q, k), g.const(g.draw(5, 5))))
    assert "masked or bounded before" in reason(fuse(g, g.op("MatMul", g.op("Softmax", logits, axis=-1), v)))


def test_nan_turned_into_something_else_than_zero():
    g = Graph()
    q, k, v = parts(g)
    p = g.op("Softmax", g.op("MatMul", q, k), axis=-1)
    p = g.op("Where", g.op("IsNaN", p), g.const(1.0), p)
    assert "more than one consumer" in reason(fuse(g, g.op("MatMul", p, v)))
