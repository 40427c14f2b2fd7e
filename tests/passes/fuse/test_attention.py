"""What the one `Attention` looks like: scales, heads, layouts, leftovers, native nodes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from attention_graphs import Graph, attribute, fuse
from test_attention_forms import SCALES, Form, check

from edgec.core.dialect import PASS_KEY, SOURCE_KEY
from edgec.passes.fuse.attention import AXIS_KEY, FuseAttention


@pytest.mark.parametrize("scale", SCALES)
def test_scale_ends_in_the_attribute(scale):
    fused = check(Form(scale=scale))
    expected = {"none": 1.0, "heads": 1.0, "q": 2**-0.5, "k": 2**-0.5}.get(scale, 0.5)
    assert attribute(fused.nodes[0], "scale") == pytest.approx(expected)
    assert ("Mul" in fused.ops()) == (scale == "heads")
    assert "Div" not in fused.ops()


@pytest.mark.parametrize("layout", ["transpose", "einsum", "tokens first", "swapped"])
def test_transposed_keys_leave_nothing_behind(layout):
    fused = check(Form(layout=layout))
    node = fused.nodes[0]
    inputs = [value.name for value in fused.model.graph.inputs]
    assert [value.name for value in node.inputs[:3] if value is not None] == inputs
    after = ["Transpose"] if layout == "einsum" else ["Transpose", "Reshape"]
    assert fused.ops() == ["Attention", *after]


def test_three_dimensional_attention_gets_its_heads_back():
    # nn.MultiheadAttention in TorchScript: (S, B, E) → (S, B*H, D) → (B*H, S, D), batch 1.
    g = Graph()
    x = g.input(g.draw(7, 1, 12))
    q, k, v = (g.transpose(g.reshape(g.linear(x, 12, 12), 7, 3, 4), 1, 0, 2) for _ in range(3))
    p = g.op("Softmax", g.op("MatMul", g.op("Mul", q, g.const(0.5)), g.transpose(k, 0, 2, 1)), axis=-1)
    out = g.reshape(g.transpose(g.op("MatMul", p, v), 1, 0, 2), 7, 1, 12)
    fused = fuse(g, out)
    (node,) = fused.nodes
    assert list(node.inputs[0].shape) == [1, 3, 7, 4]
    assert fused.error < 1e-5
    # Each operand: one Reshape and one Transpose; the same for the result.
    assert fused.ops().count("Transpose") == 4
    assert fused.ops().count("Reshape") == 4


def test_single_head_and_two_dimensional_attention():
    for leading in ((2,), ()):
        g = Graph()
        q, k, v = (g.input(g.draw(*leading, n, 4)) for n in (3, 5, 5))
        columns = g.transpose(k, *range(len(leading)), len(leading) + 1, len(leading))
        fused = fuse(g, g.op("MatMul", g.op("Softmax", g.op("MatMul", q, columns), axis=-1), v))
        assert list(fused.nodes[0].inputs[0].shape) == [*(leading or (1,)), 1, 3, 4]
        assert fused.error < 1e-5


def test_leading_dimensions_fold_into_the_batch():
    g = Graph()
    q, k, v = (g.input(g.draw(2, 3, 2, 4, 5)) for _ in range(3))
    logits = g.op("MatMul", q, g.transpose(k, 0, 1, 2, 4, 3))
    fused = fuse(g, g.op("MatMul", g.op("Softmax", logits, axis=-1), v))
    assert list(fused.nodes[0].inputs[0].shape) == [6, 2, 4, 5]
    assert fused.error < 1e-5


@pytest.mark.parametrize("repeat", ["expand", "gather", "concat"])
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_repeated_heads_are_taken_before_the_repeat(repeat, kv_heads):
    fused = check(Form(kv_heads=kv_heads, group=3, repeat=repeat))
    node = fused.nodes[0]
    assert [value.shape[1] for value in node.inputs[:3]] == [3 * kv_heads, kv_heads, kv_heads]
    assert not set(fused.ops()) & {"Expand", "Gather", "Concat", "Unsqueeze"}


def test_heads_repeated_in_turns_stay_repeated():
    # Head h reads key head h % 2: the standard's op pairs head h with h // group.
    g = Graph()
    q, k, v = (g.input(g.draw(1, heads, 5, 4)) for heads in (4, 2, 2))
    repeats = g.const([1, 2, 1, 1], np.int64)
    k, v = g.op("Tile", k, repeats), g.op("Tile", v, repeats)
    fused = fuse(
        g, g.op("MatMul", g.op("Softmax", g.op("MatMul", q, g.transpose(k, 0, 1, 3, 2)), axis=-1), v)
    )
    assert [value.shape[1] for value in fused.nodes[0].inputs[:3]] == [4, 4, 4]
    assert fused.error < 1e-5


def test_heads_that_only_the_product_broadcasts_are_shared():
    g = Graph()
    q, k, v = g.input(g.draw(2, 4, 3, 5)), g.input(g.draw(2, 1, 6, 5)), g.input(g.draw(2, 1, 6, 5))
    p = g.op("Softmax", g.op("MatMul", q, g.transpose(k, 0, 1, 3, 2)), axis=-1)
    fused = fuse(g, g.op("MatMul", p, v))
    assert [value.shape[1] for value in fused.nodes[0].inputs[:3]] == [4, 1, 1]
    assert fused.error < 1e-5


def test_a_learned_query_is_given_to_every_batch():
    g = Graph()
    latent = g.const(g.draw(1, 2, 3, 4))
    k, v = g.input(g.draw(5, 2, 6, 4)), g.input(g.draw(5, 2, 6, 4))
    p = g.op("Softmax", g.op("MatMul", latent, g.transpose(k, 0, 1, 3, 2)), axis=-1)
    fused = fuse(g, g.op("MatMul", p, v))
    assert fused.ops() == ["Attention"]
    assert fused.error < 1e-5


def test_softmax_over_another_axis_than_the_last():
    g = Graph()
    q, k, v = g.input(g.draw(2, 2, 3, 4)), g.input(g.draw(2, 2, 5, 4)), g.input(g.draw(2, 2, 5, 6))
    p = g.op("Softmax", g.op("MatMul", k, g.transpose(q, 0, 1, 3, 2)), axis=2)
    fused = fuse(g, g.op("MatMul", g.transpose(v, 0, 1, 3, 2), p))
    assert fused.ops() == ["Attention", "Transpose"]
    assert fused.error < 1e-5


def test_negative_scale_stays_on_the_query():
    g = Graph()
    q, k, v = (g.input(g.draw(1, 2, 3, 4)) for _ in range(3))
    logits = g.op("Mul", g.op("MatMul", q, g.transpose(k, 0, 1, 3, 2)), g.const(-0.5))
    fused = fuse(g, g.op("MatMul", g.op("Softmax", logits, axis=-1), v))
    assert attribute(fused.nodes[0], "scale") == 1.0
    assert fused.error < 1e-5


def test_temperature_of_each_query_and_of_each_key():
    for shape in ((1, 2, 3, 1), (1, 1, 1, 5)):
        g = Graph()
        q, k, v = g.input(g.draw(1, 2, 3, 4)), g.input(g.draw(1, 2, 5, 4)), g.input(g.draw(1, 2, 5, 4))
        logits = g.op("MatMul", q, g.transpose(k, 0, 1, 3, 2))
        logits = g.op("Div", logits, g.input(np.abs(g.draw(*shape)) + 1))
        fused = fuse(g, g.op("MatMul", g.op("Softmax", logits, axis=-1), v))
        assert len(fused.nodes) == 1
        assert fused.error < 1e-5


def test_shared_query_is_not_moved_twice():
    # The scaled query also feeds a relative-position product: it is used as it is.
    g = Graph()
    q, k, v = (g.input(g.draw(1, 2, 5, 4)) for _ in range(3))
    scaled = g.op("Mul", q, g.const(0.5))
    relative = g.op("MatMul", scaled, g.const(g.draw(4, 5)))
    logits = g.op("Add", g.op("MatMul", scaled, g.transpose(k, 0, 1, 3, 2)), relative)
    fused = fuse(g, g.op("MatMul", g.op("Softmax", logits, axis=-1), v))
    assert sorted(fused.ops()) == ["Attention", "MatMul", "Mul"]
    assert fused.error < 1e-5


def test_content_and_position_products_keep_the_content():
    # Conformer: the position logits are shifted by slicing, so only the content product can be fused.
    g = Graph()
    q, k, v = (g.input(g.draw(1, 2, 5, 4)) for _ in range(3))
    position = g.op("MatMul", q, g.const(g.draw(2, 4, 9)))
    shifted = g.op("Slice", position, *(g.const([x], np.int64) for x in (2, 7, 3)))
    content = g.op("MatMul", q, g.transpose(k, 0, 1, 3, 2))
    logits = g.op("Mul", g.op("Add", shifted, content), g.const(0.5))
    fused = fuse(g, g.op("MatMul", g.op("Softmax", logits, axis=-1), v))
    (node,) = fused.nodes
    assert node.inputs[1].name == "in1"
    assert attribute(node, "scale") == 0.5
    assert fused.error < 1e-5


def test_several_attentions_in_a_row_and_the_source_layers():
    g = Graph()
    x = g.input(g.draw(1, 2, 5, 4))
    for _ in range(3):
        p = g.op("Softmax", g.op("MatMul", x, g.transpose(x, 0, 1, 3, 2)), axis=-1)
        x = g.op("MatMul", p, x)
    model = ir.from_proto(g.proto(x))
    for node in model.graph:
        if node.op_type == "Softmax":
            node.metadata_props[SOURCE_KEY] = f"layer of {node.name}"
    result = FuseAttention()(model)
    nodes = list(model.graph)
    assert [node.op_type for node in nodes] == ["Attention"] * 3
    assert result.log.matches == [node.metadata_props[SOURCE_KEY] for node in nodes]
    assert all(layer.startswith("layer of Softmax") for layer in result.log.matches)
    assert {node.metadata_props[PASS_KEY] for node in nodes} == {"fuse.attention"}


def test_projections_prove_that_the_softmax_runs_over_tokens():
    assert check(Form(packing="linear")).nodes[0].metadata_props[AXIS_KEY] == "tokens"
    assert check(Form(packing="gather", width=4)).nodes[0].metadata_props[AXIS_KEY] == "tokens"
    assert check(Form(packing="inputs")).nodes[0].metadata_props[AXIS_KEY] == "unknown"


def test_result_that_is_a_graph_output_keeps_its_name():
    g = Graph()
    q, k, v = (g.input(g.draw(1, 2, 5, 4)) for _ in range(3))
    p = g.op("Softmax", g.op("MatMul", q, g.transpose(k, 0, 1, 3, 2)), axis=-1)
    out = g.op("MatMul", p, v)
    fused = fuse(g, out)
    assert [value.name for value in fused.model.graph.outputs] == [out]


def test_open_batch_and_lengths():
    g = Graph()
    q, k, v = (g.input(g.draw(2, 2, 5, 4), ["batch", 2, length, 4]) for length in ("m", "n", "n"))
    logits = g.op("Mul", g.op("MatMul", q, g.transpose(k, 0, 1, 3, 2)), g.const(0.5))
    mask = g.input(g.draw(2, 1, 1, 5), ["batch", 1, 1, "n"])
    p = g.op("Softmax", g.op("Add", logits, mask), axis=-1)
    fused = fuse(g, g.transpose(g.op("MatMul", p, v), 0, 2, 1, 3))
    assert fused.ops() == ["Attention", "Transpose"]
    assert fused.error < 1e-5


def test_softmax_in_half_precision_graphs():
    g = Graph()
    half = [g.op("Cast", g.input(g.draw(1, 2, 5, 4)), to=10) for _ in range(3)]
    q, k, v = half
    logits = g.op("Cast", g.op("MatMul", q, g.transpose(k, 0, 1, 3, 2)), to=1)
    p = g.op("Cast", g.op("Softmax", logits, axis=-1), to=10)
    fused = fuse(g, g.op("Cast", g.op("MatMul", p, v), to=1))
    assert attribute(fused.nodes[0], "softmax_precision") == onnx.TensorProto.FLOAT
    assert fused.error < 4e-3  # fp16 rounds at 4.9e-4 of values around 1, in a few places


def native(g: Graph, q: str, k: str, v: str, *mask: str, **attributes) -> str:
    return g.op("Attention", q, k, v, *mask, **attributes)


def test_native_attention_takes_the_scale_and_four_dimensions():
    g = Graph()
    x = g.input(g.draw(2, 5, 12))
    q, k, v = (g.linear(x, 12, 12) for _ in range(3))
    q = g.op("Mul", q, g.const(0.25))
    fused = fuse(g, native(g, q, k, v, q_num_heads=3, kv_num_heads=3))
    (node,) = fused.nodes
    assert [list(value.shape) for value in node.inputs] == [[2, 3, 5, 4]] * 3
    assert attribute(node, "scale") == pytest.approx(0.125)
    assert attribute(node, "q_num_heads") is None
    assert len(fused.result.log.matches) == 1
    assert fused.error < 1e-5


def test_native_grouped_attention_over_repeated_heads():
    g = Graph()
    q, k, v = (g.input(g.draw(2, heads, 5, 4)) for heads in (6, 2, 2))
    repeated = np.repeat(np.arange(2), 3)
    k, v = (g.op("Gather", x, g.const(repeated, np.int64), axis=1) for x in (k, v))
    fused = fuse(g, native(g, q, k, v, is_causal=1))
    (node,) = fused.nodes
    assert fused.ops() == ["Attention"]
    assert [value.shape[1] for value in node.inputs] == [6, 2, 2]
    assert attribute(node, "is_causal") == 1
    assert fused.error < 1e-5


def test_native_attention_with_a_cache_is_left_alone_with_the_reason():
    g = Graph()
    q, k, v, past_k, past_v = (g.input(g.draw(1, 2, 5, 4)) for _ in range(5))
    out = g.op("Attention", q, k, v, "", past_k, past_v, outputs=3)[0]
    model = ir.from_proto(g.proto(out))
    result = FuseAttention()(model)
    assert [miss.reason for miss in result.log.misses] == [
        "it has a cache of past keys and values, which has no form without one"
    ]


def test_a_second_run_changes_nothing():
    g = Graph()
    q, k, v = (g.input(g.draw(1, 2, 5, 4)) for _ in range(3))
    logits = g.op("Add", g.op("MatMul", q, g.transpose(k, 0, 1, 3, 2)), g.const(g.draw(5, 5)))
    model = fuse(g, g.op("MatMul", g.op("Softmax", logits, axis=-1), v)).model
    before = [node.op_type for node in model.graph]
    result = FuseAttention()(model)
    assert len(result.log.matches) == 1
    assert [node.op_type for node in model.graph] == before == ["Attention"]


def test_an_assignment_to_all_logits_is_seen_through():
    # `logits[:, :, 0:, 0:] += bias` in TorchScript.
    g = Graph()
    q, k, v = (g.input(g.draw(1, 2, 3, 4)) for _ in range(3))
    logits = g.op("MatMul", q, g.transpose(k, 0, 1, 3, 2))
    places = np.stack(np.meshgrid(*(np.arange(n) for n in (1, 2, 3, 3)), indexing="ij"), axis=-1)
    logits = g.op("ScatterND", logits, g.const(places, np.int64), g.op("Add", logits, g.const(g.draw(3, 3))))
    fused = fuse(g, g.op("MatMul", g.op("Softmax", logits, axis=-1), v))
    assert fused.ops() == ["Attention"]
    assert fused.error < 1e-5


def test_bounded_logits():
    # cap * tanh(logits / cap), as Gemma 2 and some vision models bound them.
    g = Graph()
    q, k, v = (g.input(3 * g.draw(1, 2, 5, 4)) for _ in range(3))
    logits = g.op("Mul", g.op("MatMul", q, g.transpose(k, 0, 1, 3, 2)), g.const(0.5))
    logits = g.op("Mul", g.op("Tanh", g.op("Div", logits, g.const(2.0))), g.const(2.0))
    logits = g.op("Add", logits, g.const(g.draw(5, 5)))
    fused = fuse(g, g.op("MatMul", g.op("Softmax", logits, axis=-1), v))
    assert attribute(fused.nodes[0], "softcap") == 2.0
    assert attribute(fused.nodes[0], "scale") == 0.5
    assert fused.ops() == ["Attention"]
    assert fused.error < 1e-5


def test_a_mask_may_add_leading_axes_of_size_one():
    g = Graph()
    q, k, v = g.input(g.draw(3, 5, 4)), g.input(g.draw(3, 6, 4)), g.input(g.draw(1, 3, 6, 4))
    logits = g.op("Add", g.op("MatMul", q, g.transpose(k, 0, 2, 1)), g.input(g.draw(1, 3, 5, 6)))
    fused = fuse(g, g.op("MatMul", g.op("Softmax", logits, axis=-1), v))
    assert list(fused.nodes[0].inputs[0].shape) == [1, 3, 5, 4]
    assert fused.error < 1e-5


def test_identities_and_inactive_dropout_are_looked_through():
    g = Graph()
    q, k, v = (g.input(g.draw(1, 2, 5, 4)) for _ in range(3))
    logits = g.op("Identity", g.op("MatMul", g.op("Identity", q), g.transpose(k, 0, 1, 3, 2)))
    p = g.op("Dropout", g.op("Softmax", g.op("Dropout", logits), axis=-1), g.const(0.1), g.const(False, bool))
    fused = fuse(g, g.op("MatMul", g.op("Identity", p), v))
    assert fused.ops() == ["Attention"]
    assert fused.error < 1e-5
