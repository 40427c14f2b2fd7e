"""A decoder of one layer written by hand: its step as a graph, and what whole generations of it are."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto
from onnx import helper as h

from edgec.core.decoder import CONTINUATION, IDS, LOGITS, Cache, Decoder, Decoding
from edgec.core.graph import Graph, Source, TensorSpec

VOCABULARY, POSITIONS, HEADS, GROUPS, WIDTH, STOP = 40, 24, 4, 2, 8, 34
MODEL = 16


def weights(seed=0):
    rng = np.random.default_rng(seed)
    keys = HEADS // GROUPS
    shapes = {
        "tokens": (VOCABULARY, MODEL),
        "places": (POSITIONS, MODEL),
        "wq": (MODEL, HEADS * WIDTH),
        "wk": (MODEL, keys * WIDTH),
        "wv": (MODEL, keys * WIDTH),
        "wo": (HEADS * WIDTH, MODEL),
        "head": (MODEL, VOCABULARY),
    }
    return {name: (rng.standard_normal(shape) / 2).astype(np.float32) for name, shape in shapes.items()}


def step_model(constants):
    """One step: the tokens `input_ids` behind the caches; the scores of the next and the longer caches."""
    keys = HEADS // GROUPS
    sizes = {
        "queries_shape": [1, -1, HEADS, WIDTH],
        "keys_shape": [1, -1, keys, WIDTH],
        "joined_shape": [1, -1, HEADS * WIDTH],
        "column": [-1, 1],
        "rows4": [1, 1, -1, 1],
        "columns4": [1, 1, 1, -1],
        "first": [-1],
        "last": [2**62],
        "one_axis": [1],
    }
    parts = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    parts += [onnx.numpy_helper.from_array(np.array(size, np.int64), name) for name, size in sizes.items()]
    parts += [onnx.numpy_helper.from_array(np.array(number, np.int64), f"i{number}") for number in (0, 1)]

    def heads(name, weight, shape):
        return [
            h.make_node("MatMul", ["x", weight], [f"{name}_flat"], name=f"{name}_product"),
            h.make_node("Reshape", [f"{name}_flat", shape], [f"{name}_apart"], name=f"{name}_apart"),
            h.make_node("Transpose", [f"{name}_apart"], [name], name=f"{name}_heads", perm=[0, 2, 1, 3]),
        ]

    nodes = [
        h.make_node("Shape", [IDS], ["new1"], start=1, end=2),
        h.make_node("Shape", ["past_key_0"], ["past1"], start=2, end=3),
        h.make_node("Squeeze", ["new1"], ["new"]),
        h.make_node("Squeeze", ["past1"], ["past"]),
        h.make_node("Add", ["new", "past"], ["whole"]),
        h.make_node("Range", ["past", "whole", "i1"], ["rows"]),
        h.make_node("Range", ["i0", "whole", "i1"], ["columns"]),
        h.make_node("Reshape", ["rows", "rows4"], ["rows_apart"]),
        h.make_node("Reshape", ["columns", "columns4"], ["columns_apart"]),
        h.make_node("LessOrEqual", ["columns_apart", "rows_apart"], ["mask"]),
        h.make_node("Gather", ["tokens", IDS], ["embedded"]),
        h.make_node("Gather", ["places", "rows"], ["placed"]),
        h.make_node("Add", ["embedded", "placed"], ["x"]),
        *heads("q", "wq", "queries_shape"),
        *heads("k", "wk", "keys_shape"),
        *heads("v", "wv", "keys_shape"),
        h.make_node("Concat", ["past_key_0", "k"], ["present_key_0"], axis=2),
        h.make_node("Concat", ["past_value_0", "v"], ["present_value_0"], axis=2),
        h.make_node("Attention", ["q", "present_key_0", "present_value_0", "mask"], ["mixed"]),
        h.make_node("Transpose", ["mixed"], ["mixed_back"], perm=[0, 2, 1, 3]),
        h.make_node("Reshape", ["mixed_back", "joined_shape"], ["joined"]),
        h.make_node("MatMul", ["joined", "wo"], ["out"]),
        h.make_node("Add", ["x", "out"], ["y"]),
        h.make_node("Slice", ["y", "first", "last", "one_axis"], ["y_last"]),
        h.make_node("MatMul", ["y_last", "head"], [LOGITS]),
    ]
    cache = [1, keys, "past", WIDTH]
    grown = [1, keys, "past_and_new", WIDTH]
    value = h.make_tensor_value_info
    graph = h.make_graph(
        nodes,
        "step",
        [
            value(IDS, TensorProto.INT64, [1, "new"]),
            value("past_key_0", TensorProto.FLOAT, cache),
            value("past_value_0", TensorProto.FLOAT, cache),
        ],
        [
            value(LOGITS, TensorProto.FLOAT, [1, 1, VOCABULARY]),
            value("present_key_0", TensorProto.FLOAT, grown),
            value("present_value_0", TensorProto.FLOAT, grown),
        ],
        parts,
    )
    proto = h.make_model(graph, opset_imports=[h.make_opsetid("", 23)], ir_version=11)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def scores(constants, ids):
    """The scores behind every token of a text, without caches, in float64: (tokens, vocabulary)."""
    wide = {name: array.astype(np.float64) for name, array in constants.items()}
    ids = np.asarray(ids).ravel()
    x = wide["tokens"][ids] + wide["places"][: len(ids)]

    def heads(weight, count):
        return (x @ wide[weight]).reshape(len(ids), count, WIDTH).transpose(1, 0, 2)

    q = heads("wq", HEADS)
    k, v = (np.repeat(heads(name, HEADS // GROUPS), GROUPS, 0) for name in ("wk", "wv"))
    logits = q @ k.transpose(0, 2, 1) / np.sqrt(WIDTH)
    logits = np.where(np.tri(len(ids), dtype=bool), logits, -np.inf)
    likely = np.exp(logits - logits.max(-1, keepdims=True))
    mixed = (likely / likely.sum(-1, keepdims=True)) @ v
    return (x + mixed.transpose(1, 0, 2).reshape(len(ids), -1) @ wide["wo"]) @ wide["head"]


def greedy(constants, prompt, steps):
    """The tokens behind a prompt."""
    text = list(prompt)
    for _ in range(steps):
        text.append(int(np.argmax(scores(constants, text)[-1])))
    return text[len(prompt) :]


def decoder_graph(constants):
    """The step as a graph that x86 builds."""
    keys = HEADS // GROUPS

    def run(feeds):
        text = np.concatenate([feeds[IDS], feeds[CONTINUATION]], axis=1)
        found = scores(constants, text)[feeds[IDS].shape[1] - 1 :]
        return {LOGITS: found[None].astype(np.float32)}

    feeds = {IDS: np.array([[3, 1, 4]]), CONTINUATION: np.array([[1, 5, 9, 2]])}
    decoder = Decoder(
        decoding=Decoding(VOCABULARY, POSITIONS, (STOP,)),
        caches=tuple(Cache(f"past_{what}_0", f"present_{what}_0", keys, WIDTH) for what in ("key", "value")),
        inputs=(
            TensorSpec(IDS, (1, "tokens"), "int64", "tokens"),
            TensorSpec(CONTINUATION, (1, "steps"), "int64", "tokens"),
        ),
        outputs=(TensorSpec(LOGITS, (1, "steps_and_one", VOCABULARY), "float32"),),
        generations=[feeds],
        references=[run(feeds)],
        run=run,
        run_exact=None,
        drawn=(),
    )
    graph = Graph(step_model(constants), Source("step.onnx", "onnx", "step", ""), (), [], [], decoder=decoder)
    return graph.by_generations(None)
