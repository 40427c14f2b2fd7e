"""Small graphs for the tests of targets, built by hand."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto
from onnx import helper as h
from onnx.reference import ReferenceEvaluator

from edgec.core.dialect import SOURCE_KEY
from edgec.core.graph import Graph, Source, tensor_spec

WIDTH, HEADS, LENGTH = 96, 3, 10


def block_proto(opset=23):
    """A pre-norm transformer block: packed projections, attention, an MLP; its layers named."""
    rng = np.random.default_rng(0)

    def weights(*shape):
        return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    constants = {
        "gamma": 1 + 0.1 * weights(WIDTH),
        "beta": weights(WIDTH),
        "wqkv": weights(WIDTH, 3 * WIDTH),
        "bqkv": weights(3 * WIDTH),
        "wo": weights(WIDTH, WIDTH),
        "bo": weights(WIDTH),
        "w1": weights(WIDTH, 2 * WIDTH),
        "w2": weights(2 * WIDTH, WIDTH),
        "heads": np.asarray([1, LENGTH, HEADS, WIDTH // HEADS], np.int64),
        "joined": np.asarray([1, LENGTH, WIDTH], np.int64),
        "thirds": np.asarray([WIDTH] * 3, np.int64),
    }
    nodes = [
        h.make_node("LayerNormalization", ["x", "gamma", "beta"], ["n1"], name="norm1", axis=-1),
        h.make_node("MatMul", ["n1", "wqkv"], ["m"], name="qkv_product"),
        h.make_node("Add", ["m", "bqkv"], ["packed"], name="qkv_bias"),
        h.make_node("Split", ["packed", "thirds"], ["q3", "k3", "v3"], name="split", axis=-1),
        *[
            node
            for part in "qkv"
            for node in (
                h.make_node("Reshape", [f"{part}3", "heads"], [f"{part}4"], name=f"{part}_heads"),
                h.make_node("Transpose", [f"{part}4"], [part], name=f"{part}_turn", perm=[0, 2, 1, 3]),
            )
        ],
        h.make_node("Attention", ["q", "k", "v"], ["attended"], name="attention"),
        h.make_node("Transpose", ["attended"], ["turned"], name="turn", perm=[0, 2, 1, 3]),
        h.make_node("Reshape", ["turned", "joined"], ["flat"], name="join"),
        h.make_node("MatMul", ["flat", "wo"], ["po"], name="proj_product"),
        h.make_node("Add", ["po", "bo"], ["projected"], name="proj_bias"),
        h.make_node("Add", ["projected", "x"], ["r"], name="residual"),
        h.make_node("MatMul", ["r", "w1"], ["hidden"], name="fc1"),
        h.make_node("Gelu", ["hidden"], ["active"], name="gelu"),
        h.make_node("MatMul", ["active", "w2"], ["y"], name="fc2"),
    ]
    layers = {"norm1": "norm1", "qkv": "attn.qkv", "split": "attn", "attention": "attn", "proj": "attn.proj"}
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info("x", TensorProto.FLOAT, [1, LENGTH, WIDTH])],
        [h.make_tensor_value_info("y", TensorProto.FLOAT, [1, LENGTH, WIDTH])],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    proto = h.make_model(graph, opset_imports=[h.make_opsetid("", opset)], ir_version=11)
    for node in proto.graph.node:
        stem = node.name if node.name in layers else node.name.partition("_")[0]
        entry = node.metadata_props.add()
        entry.key, entry.value = SOURCE_KEY, layers.get(stem, stem)
    return onnx.shape_inference.infer_shapes(proto, data_prop=True)


def graph_of(proto, feeds=None, exported=None, samples=2):
    """A graph as a frontend would return it; the references are ONNX's own evaluator's."""
    model = ir.from_proto(proto)
    inputs = tuple(tensor_spec(value) for value in model.graph.inputs)
    if feeds is None:
        feeds = [
            {
                spec.name: np.random.default_rng(seed).standard_normal(spec.shape).astype(spec.dtype)
                for spec in inputs
            }
            for seed in range(samples)
        ]
    names = [value.name for value in model.graph.outputs]
    evaluator = ReferenceEvaluator(proto)
    references = [dict(zip(names, evaluator.run(None, feed), strict=True)) for feed in feeds]
    return Graph(model, Source("hand", "onnx", "hand", "0"), inputs, feeds, references, exported=exported)


def saved_block(folder):
    """The block as a graph with the exporter's file beside it, which engines also take as it is."""
    path = folder / "block.onnx"
    onnx.save(block_proto(), path)
    return graph_of(block_proto(), exported=str(path))
