from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnx import helper as h
from onnx.reference import ReferenceEvaluator

from edgec.core.dialect import SOURCE_KEY
from edgec.passes.decompose.attention import DecomposeAttention
from edgec.passes.editing import constant

BATCH, SIZE = 2, 4


def attention_model(inputs, outputs, initializers=(), open_lengths=False, **attributes):
    """One Attention node; `inputs` is a list of (name, array or None)."""
    graph_inputs, names = [], []
    for name, array in inputs:
        if array is None:
            names.append("")
            continue
        names.append(name)
        if name in initializers:
            continue
        shape: list[int | str] = list(array.shape)
        if open_lengths and name in ("q", "k", "v"):
            shape[-2] = "queries" if name == "q" else "keys"
        kind = h.np_dtype_to_tensor_dtype(array.dtype)
        graph_inputs.append(h.make_tensor_value_info(name, kind, shape))
    while names and not names[-1]:
        names.pop()
    node = h.make_node("Attention", names, list(outputs), name="attention", **attributes)
    graph = h.make_graph(
        [node],
        "g",
        graph_inputs,
        [h.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs if name],
        [onnx.numpy_helper.from_array(array, name) for name, array in inputs if name in initializers],
    )
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 23)], ir_version=11)


def check(proto, inputs, initializers=()):
    """Decomposed equals the op's own reference, and no Attention is left."""
    feeds = {name: array for name, array in inputs if array is not None and name not in initializers}
    expected = ReferenceEvaluator(proto).run(None, feeds)
    model = ir.from_proto(proto)
    result = DecomposeAttention()(model)
    assert len(result.log.matches) == 1
    assert result.log.misses == []
    assert not [node for node in model.graph if node.op_type == "Attention"]
    actual = ReferenceEvaluator(ir.to_proto(model)).run(None, feeds)
    for one, other in zip(expected, actual, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(other, one, atol=2e-6)
    return model


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    key_heads = draw(st.sampled_from([1, 2]))
    heads = key_heads * draw(st.sampled_from([1, 3]))
    queries = draw(st.integers(1, 5))
    keys = draw(st.integers(1, 6))
    past = draw(st.sampled_from([0, 0, 3]))
    joined = draw(st.booleans())
    attributes = {"is_causal": int(draw(st.booleans()))}
    if draw(st.booleans()):
        attributes["scale"] = draw(st.sampled_from([0.3, 1.0]))
    if draw(st.integers(0, 4)) == 0:
        attributes["softcap"] = 2.0
    if joined:
        attributes |= {"q_num_heads": heads, "kv_num_heads": key_heads}

    def tensor(count, length):
        shape = (BATCH, length, count * SIZE) if joined else (BATCH, count, length, SIZE)
        return rng.standard_normal(shape).astype(np.float32)

    mask = None
    kind = draw(st.sampled_from(["none", "float", "bool", "bool"]))
    if kind != "none":
        total = keys + past
        shapes = [(queries, total), (heads, queries, total), (BATCH, heads, queries, total)]
        if not attributes["is_causal"]:
            # With a causal mask the reference takes the number of queries from this shape.
            shapes.append((BATCH, 1, 1, total))
        shape = draw(st.sampled_from(shapes))
        mask = rng.standard_normal(shape).astype(np.float32)
        if kind == "bool":
            mask = mask > 0  # rows without any key occur
    inputs = [("q", tensor(heads, queries)), ("k", tensor(key_heads, keys)), ("v", tensor(key_heads, keys))]
    inputs.append(("mask", mask))
    outputs = ["y"]
    if past:
        shape = (BATCH, key_heads, past, SIZE)
        inputs += [(name, rng.standard_normal(shape).astype(np.float32)) for name in ("pk", "pv")]
        outputs += ["present_key", "present_value"]
    initializers = ("mask",) if mask is not None and draw(st.booleans()) else ()
    return inputs, outputs, initializers, attributes, draw(st.booleans()) and not past


@settings(max_examples=120, deadline=None)
@given(cases())
def test_decomposed_attention_is_the_op(case):
    inputs, outputs, initializers, attributes, open_lengths = case
    proto = attention_model(inputs, outputs, initializers, open_lengths, **attributes)
    check(proto, inputs, initializers)


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_the_inner_product_that_is_shown_is_kept(mode):
    # The reference shows the capped product as mode 0; the op shows the raw one. Uncapped they agree.
    rng = np.random.default_rng(0)
    inputs = [(name, rng.standard_normal((1, 2, 3, 4)).astype(np.float32)) for name in "qkv"]
    inputs.append(("mask", rng.standard_normal((3, 3)).astype(np.float32)))
    proto = attention_model(
        inputs, ["y", "", "", "shown"], qk_matmul_output_mode=mode, softcap=1.5 if mode else 0.0
    )
    check(proto, inputs)


def test_an_unknown_head_size_is_left_alone_with_the_reason():
    proto = attention_model([(name, np.zeros((1, 2, 3, 4), np.float32)) for name in "qkv"], ["y"])
    proto.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "size"
    model = ir.from_proto(proto)
    log = DecomposeAttention()(model).log
    assert log.matches == []
    assert "head size" in log.misses[0].reason


def packed_projection(moves, parts):
    """x → MatMul → Add → moves → three tensors → Attention."""
    rng = np.random.default_rng(1)
    width, heads = 8, 2
    weights = {
        "w": rng.standard_normal((width, 3 * width)).astype(np.float32),
        "b": rng.standard_normal(3 * width).astype(np.float32),
        "five": np.asarray([1, 5, 3, heads, SIZE], np.int64),
        "zero": np.asarray(0, np.int64),
        "one": np.asarray(1, np.int64),
        "two": np.asarray(2, np.int64),
    }
    nodes = [
        h.make_node("MatMul", ["x", "w"], ["m"]),
        h.make_node("Add", ["m", "b"], ["packed"]),
        *moves,
        h.make_node("Attention", parts, ["y"], name="attention"),
    ]
    for index, node in enumerate(nodes):
        node.name = node.name or f"node{index}"
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info("x", TensorProto.FLOAT, [1, 5, width])],
        [h.make_tensor_value_info("y", TensorProto.FLOAT, [1, heads, 5, SIZE])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    proto = h.make_model(graph, opset_imports=[h.make_opsetid("", 23)], ir_version=11)
    return onnx.shape_inference.infer_shapes(proto, data_prop=True), rng.standard_normal((1, 5, width))


GATHERED = [
    h.make_node("Reshape", ["packed", "five"], ["r"]),
    h.make_node("Transpose", ["r"], ["t"], perm=[2, 0, 3, 1, 4]),
    h.make_node("Gather", ["t", "zero"], ["q"], axis=0),
    h.make_node("Gather", ["t", "one"], ["k"], axis=0),
    h.make_node("Gather", ["t", "two"], ["v"], axis=0),
]


def test_the_scale_goes_into_the_columns_of_the_queries_only():
    proto, x = packed_projection(GATHERED, ["q", "k", "v"])
    model = check(proto, [("x", x.astype(np.float32))])
    assert "Mul" not in [node.op_type for node in model.graph]
    before = onnx.numpy_helper.to_array(proto.graph.initializer[0])
    product = next(node for node in model.graph if node.op_type == "MatMul")
    ratio = constant(product.inputs[1]) / before
    np.testing.assert_allclose(ratio[:, :8], 0.5, rtol=1e-6)
    np.testing.assert_allclose(ratio[:, 8:], 1.0, rtol=1e-6)


def test_the_scale_stays_outside_where_keys_share_the_columns():
    proto, x = packed_projection(GATHERED, ["q", "q", "v"])
    model = check(proto, [("x", x.astype(np.float32))])
    assert "Mul" in [node.op_type for node in model.graph]


def test_the_scale_stays_outside_where_keys_are_read_from_the_same_columns_again():
    moves = [*GATHERED[:3], h.make_node("Gather", ["t", "zero"], ["k"], axis=0), GATHERED[4]]
    proto, x = packed_projection(moves, ["q", "k", "v"])
    model = check(proto, [("x", x.astype(np.float32))])
    assert "Mul" in [node.op_type for node in model.graph]


def test_new_nodes_keep_the_source_layer():
    proto = attention_model([(name, np.zeros((1, 2, 3, 4), np.float32)) for name in "qkv"], ["y"])
    model = ir.from_proto(proto)
    next(iter(model.graph)).metadata_props[SOURCE_KEY] = "blocks.0.attn"
    DecomposeAttention()(model)
    assert {node.metadata_props[SOURCE_KEY] for node in model.graph} == {"blocks.0.attn"}


def test_attentions_that_share_a_mask_share_its_bias():
    nodes = [
        h.make_node("Attention", ["q", "k", "v", "mask"], ["a"], name="first"),
        h.make_node("Attention", ["a", "k", "v", "mask"], ["y"], name="second"),
    ]
    shape = [1, 2, 3, 4]
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "qkv"]
        + [h.make_tensor_value_info("mask", TensorProto.BOOL, [1, 1, 1, 3])],
        [h.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        value_info=[h.make_tensor_value_info("a", TensorProto.FLOAT, shape)],
    )
    model = ir.from_proto(h.make_model(graph, opset_imports=[h.make_opsetid("", 23)], ir_version=11))
    DecomposeAttention()(model)
    assert [node.op_type for node in model.graph].count("Where") == 1


def test_a_past_shifts_the_causal_mask_where_lengths_are_open():
    rng = np.random.default_rng(0)
    shapes = {"q": 3, "k": 3, "v": 3, "mask": None, "pk": 2, "pv": 2}
    inputs = [
        (name, None if length is None else rng.standard_normal((BATCH, 2, length, SIZE)).astype(np.float32))
        for name, length in shapes.items()
    ]
    outputs = ["y", "present_key", "present_value"]
    check(attention_model(inputs, outputs, open_lengths=True, is_causal=1), inputs)


def test_the_softmax_runs_in_the_precision_that_is_asked_for():
    rng = np.random.default_rng(0)
    inputs = [(name, rng.standard_normal((BATCH, 2, 3, SIZE)).astype(np.float32)) for name in "qkv"]
    model = check(attention_model(inputs, ["y"], softmax_precision=TensorProto.DOUBLE), inputs)
    softmax = next(node for node in model.graph if node.op_type == "Softmax")
    before, after = softmax.inputs[0].producer(), softmax.outputs[0].consumers()[0]
    assert [node.op_type for node in (before, after)] == ["Cast", "Cast"]
    assert before.attributes["to"].value == TensorProto.DOUBLE
    assert after.attributes["to"].value == TensorProto.FLOAT
