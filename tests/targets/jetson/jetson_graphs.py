"""Small neutral graphs for the tests of the Jetson target, from ONNX text."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
from onnx import numpy_helper

from edgec.core.dialect import IR_VERSION, ONNX_OPSET, SOURCE_KEY
from edgec.core.evaluation import Evaluator
from edgec.core.graph import Graph, Source, tensor_spec

WIDTH, HEADS, LENGTH = 64, 4, 12


def drawn(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Normal numbers, float32."""
    return (scale * np.random.default_rng([seed, *shape]).standard_normal(shape)).astype(np.float32)


def model(text: str, constants: Mapping[str, np.ndarray] | None = None) -> ir.Model:
    """A model of the neutral dialect from the text of its graph; each node is named after its output."""
    proto = onnx.parser.parse_model(
        f'<ir_version: {IR_VERSION}, opset_import: ["": {ONNX_OPSET}, "ai.edgec": 1]>\n{text}'
    )
    for name, array in (constants or {}).items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    for node in proto.graph.node:
        node.name = f"node_{node.output[0]}"
    proto = onnx.shape_inference.infer_shapes(proto)
    built = ir.from_proto(proto)
    for node in built.graph.all_nodes():
        node.metadata_props[SOURCE_KEY] = f"layers.{node.outputs[0].name}"
    return built


def graph(built: ir.Model, *feeds: Mapping[str, np.ndarray]) -> Graph:
    """A graph around a model; ONNX Runtime's outputs on it stand for the source's."""
    examples = [dict(feed) for feed in feeds]
    with Evaluator(built) as evaluator:
        references = [evaluator.run(feed) for feed in examples]
    return Graph(
        model=built,
        source=Source("block.onnx", "onnx", "block", "0" * 64),
        inputs=tuple(tensor_spec(value) for value in built.graph.inputs),
        examples=examples,
        references=references,
    )


def block(*, mask: bool = False, logits: float = 1.0, spread: float = 1.0) -> Graph:
    """A transformer block: norm, packed projections, attention, residual, norm, MLP with GELU.

    Args:
        mask: whether keys are hidden by a boolean mask made of a second input.
        logits: factor of the query's and key's weights.
        spread: factor of the residual stream.
    """
    size = WIDTH // HEADS
    weights = drawn(WIDTH, 3 * WIDTH, seed=1, scale=WIDTH**-0.5)
    weights[:, : 2 * WIDTH] *= logits
    constants = {
        "gamma": 1 + drawn(WIDTH, seed=2, scale=0.1),
        "beta": drawn(WIDTH, seed=3, scale=0.1),
        "spread": np.asarray(spread, np.float32),
        "wqkv": weights,
        "bqkv": drawn(3 * WIDTH, seed=4, scale=0.1),
        "wo": drawn(WIDTH, WIDTH, seed=5, scale=WIDTH**-0.5),
        "w1": drawn(WIDTH, 2 * WIDTH, seed=6, scale=WIDTH**-0.5),
        "w2": drawn(2 * WIDTH, WIDTH, seed=7, scale=(2 * WIDTH) ** -0.5),
        "heads": np.asarray([1, LENGTH, 3, HEADS, size], np.int64),
        "joined": np.asarray([1, LENGTH, WIDTH], np.int64),
        "zero": np.asarray(0, np.int64),
        "one": np.asarray(1, np.int64),
        "two": np.asarray(2, np.int64),
        "first": np.asarray([0], np.int64),
    }
    inputs = f"float[1, {LENGTH}, {WIDTH}] x" + (f", int64[1, {LENGTH}] seen" if mask else "")
    masked = (
        f"""
        real = Cast <to = 9> (seen)
        axes = Constant <value_ints = [1, 2]> ()
        wide = Unsqueeze (real, axes)
        rows = Constant <value_ints = [1, 1, {LENGTH}, {LENGTH}]> ()
        allowed = Expand (wide, rows)
        attended = Attention <scale = 0.25> (q, k, v, allowed)"""
        if mask
        else "attended = Attention <scale = 0.25> (q, k, v)"
    )
    text = f"""
    block ({inputs}) => (float[1, {LENGTH}, {WIDTH}] y) {{
        large = Mul (x, spread)
        normed = LayerNormalization <axis = -1> (large, gamma, beta)
        product = MatMul (normed, wqkv)
        packed = Add (product, bqkv)
        split = Reshape (packed, heads)
        turned = Transpose <perm = [2, 0, 3, 1, 4]> (split)
        q = Gather <axis = 0> (turned, zero)
        k = Gather <axis = 0> (turned, one)
        v = Gather <axis = 0> (turned, two)
        {masked}
        back = Transpose <perm = [0, 2, 1, 3]> (attended)
        flat = Reshape (back, joined)
        projected = MatMul (flat, wo)
        residual = Add (projected, large)
        normed2 = LayerNormalization <axis = -1> (residual, gamma, beta)
        hidden = MatMul (normed2, w1)
        active = Gelu (hidden)
        narrow = MatMul (active, w2)
        y = Add (narrow, normed2)
    }}"""
    feeds = []
    for seed in range(3):
        feed = {"x": drawn(1, LENGTH, WIDTH, seed=10 + seed)}
        if mask:
            feed["seen"] = (np.arange(LENGTH)[None] < LENGTH - 2 - seed).astype(np.int64)
        feeds.append(feed)
    return graph(model(text, constants), *feeds)
