"""Rotary embeddings in the spellings of the libraries, one `RotaryEmbedding` each."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from attention_graphs import Graph, attribute, run_ort
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from edgec.passes.fuse.rope import FuseRope


def angles(tokens: int, half: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    theta = np.random.default_rng(seed).uniform(-3, 3, (tokens, half))
    return np.cos(theta).astype(np.float32), np.sin(theta).astype(np.float32)


def cut(g: Graph, x: str, start: int, end: int, axis: int, step: int = 1) -> str:
    return g.op("Slice", x, *(g.const([value], np.int64) for value in (start, end, axis, step)))


def halves(g: Graph, x: str, cos: np.ndarray, sin: np.ndarray, width: int) -> str:
    """x * cos + rotate_half(x) * sin, as transformers writes it."""
    first, second = cut(g, x, 0, width // 2, -1), cut(g, x, width // 2, 1 << 40, -1)
    rotated = g.op("Concat", g.op("Neg", second), first, axis=-1)
    twice = [g.const(np.concatenate([part, part], -1)) for part in (cos, sin)]
    return g.op("Add", g.op("Mul", x, twice[0]), g.op("Mul", rotated, twice[1]))


def neighbours(g: Graph, x: str, cos: np.ndarray, sin: np.ndarray, shape: tuple[int, ...]) -> str:
    """x * cos + rot(x) * sin, rot by strided slices and a stack, as timm writes it."""
    odd, even = cut(g, x, 1, 1 << 40, -1, 2), cut(g, x, 0, 1 << 40, -1, 2)
    pair = [g.op("Unsqueeze", part, g.const([-1], np.int64)) for part in (g.op("Neg", odd), even)]
    rotated = g.reshape(g.op("Concat", *pair, axis=-1), *shape)
    twice = [g.const(np.repeat(part, 2, -1)) for part in (cos, sin)]
    return g.op("Add", g.op("Mul", x, twice[0]), g.op("Mul", rotated, twice[1]))


def parts(g: Graph, x: str, cos: np.ndarray, sin: np.ndarray) -> str:
    """Concat(a cos - b sin, b cos + a sin)."""
    a, b = g.op("Split", x, outputs=2, axis=-1, num_outputs=2)
    c, s = g.const(cos), g.const(sin)
    left = g.op("Sub", g.op("Mul", a, c), g.op("Mul", b, s))
    right = g.op("Add", g.op("Mul", b, c), g.op("Mul", s, a))
    return g.op("Concat", left, right, axis=-1)


def complex_pairs(g: Graph, x: str, cos: np.ndarray, sin: np.ndarray, shape: tuple[int, ...]) -> str:
    """Real arithmetic of view_as_complex(x) * (cos + i sin)."""
    five = g.reshape(x, *shape[:-1], shape[-1] // 2, 2)
    a, b = (g.op("Gather", five, g.const(i, np.int64), axis=-1) for i in range(2))
    c, s = g.const(cos), g.const(sin)
    real = g.op("Sub", g.op("Mul", a, c), g.op("Mul", b, s))
    imaginary = g.op("Add", g.op("Mul", a, s), g.op("Mul", b, c))
    pair = [g.op("Unsqueeze", part, g.const([-1], np.int64)) for part in (real, imaginary)]
    return g.reshape(g.op("Concat", *pair, axis=-1), *shape)


def spell(g: Graph, form: str, x: str, cos: np.ndarray, sin: np.ndarray, shape: tuple[int, ...]) -> str:
    if form == "halves":
        return halves(g, x, cos, sin, shape[-1])
    if form == "parts":
        return parts(g, x, cos, sin)
    return (neighbours if form == "neighbours" else complex_pairs)(g, x, cos, sin, shape)


FORMS = ("halves", "neighbours", "parts", "complex pairs")


def fuse_rope(g: Graph, *outputs: str) -> tuple[ir.Model, list[ir.Node], list[str]]:
    """Run the pass and compare; the model, its RotaryEmbedding nodes and the reasons of misses."""
    before = g.proto(*outputs)
    model = ir.from_proto(before)
    log = FuseRope()(model).log
    after = ir.to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    expected, actual = run_ort(before, g.feeds), ReferenceEvaluator(after).run(None, g.feeds)
    for one, other in zip(expected, actual, strict=True):
        # Two products and a sum an element, in another order: a rounding or two of values of a few units.
        np.testing.assert_allclose(other, one, atol=2e-6)
    nodes = [node for node in model.graph if node.op_type == "RotaryEmbedding"]
    assert len(nodes) == len(log.matches)
    return model, nodes, [miss.reason for miss in log.misses]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FORMS), *[st.integers(1, 3)] * 2, st.integers(2, 5), st.integers(1, 4), st.booleans())
def test_drawn_rotation(form, batch, heads, tokens, half, projected):
    g = Graph()
    shape = (batch, heads, tokens, 2 * half)
    if projected:
        x = g.linear(g.input(g.draw(batch, tokens, 6)), 6, heads * 2 * half)
        x = g.heads(x, batch, tokens, heads, 2 * half)
    else:
        x = g.input(g.draw(*shape))
    cos, sin = angles(tokens, half)
    model, nodes, misses = fuse_rope(g, spell(g, form, x, cos, sin, shape))
    assert misses == []
    (node,) = nodes
    ops = [other.op_type for other in model.graph]
    moved = ["MatMul", "Reshape", *["Transpose"] * (heads > 1)] if projected else []
    assert ops == [*moved, "RotaryEmbedding"]
    if half > 1:
        assert attribute(node, "interleaved") == int(form in ("neighbours", "complex pairs"))
    assert list(node.inputs[1].shape) == [batch, tokens, half]


@pytest.mark.parametrize("form", FORMS)
def test_class_token_that_is_not_rotated(form):
    g = Graph()
    x = g.input(g.draw(2, 3, 6, 4))
    cos, sin = angles(5, 2)
    rotated = spell(g, form, cut(g, x, 1, 6, 2), cos, sin, (2, 3, 5, 4))
    out = g.op("Concat", cut(g, x, 0, 1, 2), rotated, axis=2)
    model, nodes, _ = fuse_rope(g, out)
    assert [node.op_type for node in model.graph] == ["RotaryEmbedding"]
    cache = nodes[0].inputs[1].const_value.numpy()
    assert (cache[:, 0] == 1).all()


@pytest.mark.parametrize("form", FORMS)
def test_features_that_are_not_rotated(form):
    g = Graph()
    x = g.input(g.draw(2, 3, 5, 10))
    cos, sin = angles(5, 2)
    rotated = spell(g, form, cut(g, x, 0, 4, -1), cos, sin, (2, 3, 5, 4))
    model, nodes, _ = fuse_rope(g, g.op("Concat", rotated, cut(g, x, 4, 10, -1), axis=-1))
    assert [node.op_type for node in model.graph] == ["RotaryEmbedding"]
    assert attribute(nodes[0], "rotary_embedding_dim") == 4


def test_scaled_features_beside_a_rotation_are_outside_it():
    g = Graph()
    x = g.input(g.draw(2, 3, 5, 10))
    cos, sin = angles(5, 2)
    rotated = halves(g, cut(g, x, 0, 4, -1), cos, sin, 4)
    rest = g.op("Mul", cut(g, x, 4, 10, -1), g.const(2.0))
    model, nodes, _ = fuse_rope(g, g.op("Concat", rotated, rest, axis=-1))
    assert len(nodes) == 1
    assert "Concat" in [node.op_type for node in model.graph]


def test_tokens_before_heads_are_transposed_around_it():
    g = Graph()
    x = g.input(g.draw(2, 5, 3, 4))
    cos, sin = angles(5, 2)
    out = g.transpose(halves(g, x, cos[:, None], sin[:, None], 4), 0, 2, 1, 3)
    model, nodes, _ = fuse_rope(g, out)
    assert [node.op_type for node in model.graph] == ["Transpose", "RotaryEmbedding"]
    assert list(nodes[0].inputs[0].shape) == [2, 3, 5, 4]


def test_query_and_key_share_the_angles():
    g = Graph()
    q, k = g.input(g.draw(1, 2, 5, 4)), g.input(g.draw(1, 2, 5, 4))
    cos, sin = angles(5, 2)
    _, nodes, _ = fuse_rope(g, halves(g, q, cos, sin, 4), halves(g, k, cos, sin, 4))
    assert len(nodes) == 2


def test_angles_of_their_own_for_each_head_are_a_miss():
    g = Graph()
    theta = np.random.default_rng(0).uniform(-3, 3, (2, 5, 2))
    x = g.input(g.draw(1, 2, 5, 4))
    _, nodes, misses = fuse_rope(g, halves(g, x, np.cos(theta), np.sin(theta), 4))
    assert nodes == []
    assert "from head to head" in misses[0]


@pytest.mark.parametrize("alike", ["neither", "cos", "sin"])
def test_pairs_turned_by_two_angles_are_a_miss(alike):
    g = Graph()
    x = g.input(g.draw(1, 2, 5, 4))
    rotated = g.op("Concat", g.op("Neg", cut(g, x, 2, 4, -1)), cut(g, x, 0, 2, -1), axis=-1)
    cos, sin = (
        g.const(np.tile(g.draw(5, 2), 2) if alike == name else g.draw(5, 4)) for name in ("cos", "sin")
    )
    _, nodes, misses = fuse_rope(g, g.op("Add", g.op("Mul", x, cos), g.op("Mul", rotated, sin)))
    assert nodes == []
    assert "different angles" in misses[0]


def test_angles_computed_at_run_time_are_a_miss():
    g = Graph()
    x, theta = g.input(g.draw(1, 2, 5, 4)), g.input(g.draw(5, 4))
    rotated = g.op("Concat", g.op("Neg", cut(g, x, 2, 4, -1)), cut(g, x, 0, 2, -1), axis=-1)
    out = g.op("Add", g.op("Mul", x, g.op("Cos", theta)), g.op("Mul", rotated, g.op("Sin", theta)))
    _, nodes, misses = fuse_rope(g, out)
    assert nodes == []
    assert "run time" in misses[0]


def test_other_sums_of_products_are_not_mentioned():
    g = Graph()
    x = g.input(g.draw(1, 2, 5, 4))
    mixed = g.op("Add", g.op("Mul", x, g.const(2.0)), g.op("Mul", g.op("Relu", x), g.const(3.0)))
    reversed_ = g.op("Gather", x, g.const([3, 2, 1, 0], np.int64), axis=-1)
    plain = g.op("Add", g.op("Mul", x, g.const(g.draw(4))), g.op("Mul", reversed_, g.const(g.draw(4))))
    _, nodes, misses = fuse_rope(g, mixed, plain)
    assert (nodes, misses) == ([], [])
