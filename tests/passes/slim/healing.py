"""A small transformer with calibration data, to cut and to heal."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from pass_graphs import i64, run, weight
from zeroing import graph as build_graph

from edgec.core.graph import Arrays, Graph, Source, TensorSpec

WIDTH, HEADS, HIDDEN, TOKENS = 16, 4, 40, 9

_BLOCK = """
            n{0} = LayerNormalization(x{0}, one, zero)
            qp{0} = MatMul(n{0}, wqkv{0})
            qb{0} = Add(qp{0}, bqkv{0})
            q{0}, k{0}, v{0} = Split <axis = -1, num_outputs = 3> (qb{0})
            q4{0} = Reshape(q{0}, by_head)
            k4{0} = Reshape(k{0}, by_head)
            v4{0} = Reshape(v{0}, by_head)
            qt{0} = Transpose <perm = [0, 2, 1, 3]> (q4{0})
            kt{0} = Transpose <perm = [0, 2, 1, 3]> (k4{0})
            vt{0} = Transpose <perm = [0, 2, 1, 3]> (v4{0})
            a{0} = Attention(qt{0}, kt{0}, vt{0})
            at{0} = Transpose <perm = [0, 2, 1, 3]> (a{0})
            m{0} = Reshape(at{0}, flat)
            o{0} = MatMul(m{0}, wo{0})
            ob{0} = Add(o{0}, bo{0})
            s{0} = Add(x{0}, ob{0})
            l{0} = LayerNormalization(s{0}, one, zero)
            h{0} = MatMul(l{0}, w1{0})
            hb{0} = Add(h{0}, b1{0})
            g{0} = Gelu(hb{0})
            d{0} = MatMul(g{0}, w2{0})
            db{0} = Add(d{0}, b2{0})
            x{1} = Add(s{0}, db{0})"""


def transformer(blocks: int = 2) -> ir.Model:
    """Pre-norm blocks on x0 (1, 9, 16), and a linear layer behind them."""
    weights: dict[str, np.ndarray] = {
        "one": np.ones(WIDTH, np.float32),
        "zero": np.zeros(WIDTH, np.float32),
        "by_head": i64(1, TOKENS, HEADS, WIDTH // HEADS),
        "flat": i64(1, TOKENS, WIDTH),
        "head": weight(WIDTH, 6, seed=90),
    }
    body = f"(float[1, {TOKENS}, {WIDTH}] x0) => (float[1, {TOKENS}, 6] y) {{"
    for block in range(blocks):
        body += _BLOCK.format(block, block + 1)
        shapes = {
            "wqkv": (WIDTH, 3 * WIDTH), "bqkv": (3 * WIDTH,), "wo": (WIDTH, WIDTH), "bo": (WIDTH,),
            "w1": (WIDTH, HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN, WIDTH), "b2": (WIDTH,),
        }  # fmt: skip
        for place, (name, shape) in enumerate(shapes.items()):
            weights[f"{name}{block}"] = weight(*shape, seed=10 * block + place, scale=0.4)
    body += f"\n            y = MatMul(x{blocks}, head)\n        }}"
    return build_graph(body, **weights)


def calibrated(model: ir.Model, samples: int = 64, seed: int = 1) -> Graph:
    """The model as a graph with drawn calibration feeds, which live in half of the input's dimensions."""
    return Graph(
        model,
        Source("test.onnx", "onnx", "test", ""),
        (TensorSpec("x0", (1, TOKENS, WIDTH), "float32"),),
        examples=[],
        references=[],
        calibration=tuple(inputs(samples, seed)),
    )


def inputs(samples: int, seed: int) -> list[Arrays]:
    """Feeds drawn from `seed`, all from one plane."""
    plane = np.random.default_rng(0).normal(size=(WIDTH // 2, WIDTH))
    rng = np.random.default_rng(seed)
    return [
        {"x0": (rng.normal(size=(1, TOKENS, WIDTH // 2)) @ plane).astype(np.float32)} for _ in range(samples)
    ]


def loss(model: ir.Model, whole: ir.Model, samples: int = 16) -> float:
    """What is lost of the whole network's output on new inputs, relative to its spread."""
    pairs = [(run(model, feeds)["y"], run(whole, feeds)["y"]) for feeds in inputs(samples, 77)]
    found, expected = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    return float(np.sqrt(np.square(found - expected).mean()) / expected.std())
