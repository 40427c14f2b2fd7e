"""Masks: one input, the same numbers in every row, also where a query has no key left."""

from __future__ import annotations

import numpy as np
import pytest
from attention_graphs import LOWEST, Fused, Graph, attribute, fuse
from test_attention_forms import Form, check

B, H, M, N, D = 2, 3, 4, 6, 5


def attention(g: Graph, edit, *, guard: bool = False, m: int = M, n: int = N) -> str:
    q, k, v = g.input(g.draw(B, H, m, D)), g.input(g.draw(B, H, n, D)), g.input(g.draw(B, H, n, D))
    p = g.op("Softmax", edit(g.op("MatMul", q, g.transpose(k, 0, 1, 3, 2))), axis=-1)
    if guard:
        p = g.op("Where", g.op("IsNaN", p), g.const(0.0), p)
    return g.op("MatMul", p, v)


def one(fused: Fused):
    assert fused.result.log.misses == []
    (node,) = fused.nodes
    assert fused.error < 1e-5
    return node


def mask_of(fused: Fused) -> np.ndarray:
    value = one(fused).inputs[3]
    assert value.const_value is not None
    return value.const_value.numpy()


@pytest.mark.parametrize("shape", [(M, N), (1, N), (N,), (H, M, N), (H, 1, N), (B, 1, 1, N), (1, 1, M, N)])
@pytest.mark.parametrize("computed", [False, True])
def test_additive_mask_of_any_shape(shape, computed):
    g = Graph()
    array = g.draw(*shape)
    mask = g.input(array) if computed else g.const(array)
    fused = fuse(g, attention(g, lambda x: g.op("Add", x, mask)))
    padded = (1,) * (4 - len(shape)) + shape
    assert tuple(one(fused).inputs[3].shape) == padded


@pytest.mark.parametrize("computed", [False, True])
def test_mask_that_is_alike_for_all_keys_is_spread_over_them(computed):
    # The standard pads a mask whose last axis is short with -inf.
    g = Graph()
    array = g.draw(M, 1)
    mask = g.input(array) if computed else g.const(array)
    fused = fuse(g, attention(g, lambda x: g.op("Add", x, mask)))
    assert one(fused).inputs[3].shape[-1] == N


def keep_with_an_empty_row() -> np.ndarray:
    keep = np.random.default_rng(3).random((B, 1, M, N)) < 0.5
    keep[..., 0] = True
    keep[0, 0, 1] = False
    return keep


@pytest.mark.parametrize("fill", [-1e4, -1e9, -1e30, LOWEST])
@pytest.mark.parametrize("computed", [False, True])
def test_query_without_keys_under_a_finite_fill_weighs_all_alike(fill, computed):
    g = Graph()
    keep = keep_with_an_empty_row()
    condition = g.input(keep) if computed else g.const(keep, bool)
    fused = fuse(g, attention(g, lambda x: g.op("Where", condition, x, g.const(fill))))
    assert one(fused).inputs[3].dtype.numpy() == np.float32


@pytest.mark.parametrize("fill", [-1e4, LOWEST, -np.inf])
def test_constant_mask_that_leaves_every_query_a_key_is_boolean(fill):
    g = Graph()
    keep = keep_with_an_empty_row()
    keep[0, 0, 1, 2] = True
    fused = fuse(g, attention(g, lambda x: g.op("Where", g.const(keep, bool), x, g.const(fill))))
    assert (mask_of(fused) == keep).all()


@pytest.mark.parametrize("computed", [False, True])
def test_guarded_query_without_keys_gives_zeros(computed):
    g = Graph()
    keep = keep_with_an_empty_row()
    condition = g.input(keep) if computed else g.const(keep, bool)
    out = attention(g, lambda x: g.op("Where", condition, x, g.const(-np.inf)), guard=True)
    fused = fuse(g, out)
    node = one(fused)
    assert node.inputs[3].dtype.numpy() == np.bool_
    assert not set(fused.ops()) & {"IsNaN", "Where", "Not"}


def test_added_where_of_zero_and_infinity_is_the_condition():
    # How the dynamo exporter writes a boolean mask.
    g = Graph()
    keep = g.input(keep_with_an_empty_row())
    mask = g.op("Where", keep, g.const(0.0), g.const(-np.inf))
    fused = fuse(g, attention(g, lambda x: g.op("Add", x, mask), guard=True))
    assert one(fused).inputs[3].name == keep
    assert fused.ops() == ["Attention"]


def test_unguarded_query_without_keys_gives_zeros_where_the_source_gives_nan():
    g = Graph()
    keep = keep_with_an_empty_row()
    out = attention(g, lambda x: g.op("Where", g.input(keep), x, g.const(-np.inf)))
    with pytest.raises(AssertionError, match="not equal"):
        fuse(g, out)


def test_constants_are_added_up_and_windows_unfolded():
    g = Graph()
    bias, shift = g.draw(1, H, M, M), np.where(g.random.random((1, B, 1, M, M)) < 0.5, 0, -100)

    def edit(x: str) -> str:
        x = g.reshape(g.op("Add", x, g.const(bias)), 1, B, H, M, M)
        return g.reshape(g.op("Add", x, g.const(shift)), B, H, M, M)

    fused = fuse(g, attention(g, edit, n=M))
    assert fused.ops() == ["Attention"]
    np.testing.assert_allclose(mask_of(fused), bias + shift[0], rtol=1e-6)


def test_windows_of_several_images_share_the_shift_mask():
    # Logits (2 images * 3 windows, H, M, M), the mask for 3 windows.
    g = Graph()
    q, k, v = (g.input(g.draw(6, H, M, D)) for _ in range(3))
    x = g.reshape(g.op("MatMul", q, g.transpose(k, 0, 1, 3, 2)), 2, 3, H, M, M)
    x = g.op("Add", x, g.const(np.where(g.random.random((1, 3, 1, M, M)) < 0.5, 0, -100)))
    fused = fuse(g, g.op("MatMul", g.op("Softmax", g.reshape(x, 6, H, M, M), axis=-1), v))
    assert mask_of(fused).shape == (6, 1, M, M)


@pytest.mark.parametrize("spread", [(1, 3, 1), (1, 1, H)])
def test_computed_window_masks_are_moved_on_the_graph(spread):
    g = Graph()
    q, k, v = (g.input(g.draw(6, H, M, D)) for _ in range(3))
    x = g.reshape(g.op("MatMul", q, g.transpose(k, 0, 1, 3, 2)), 2, 3, H, M, M)
    x = g.op("Add", x, g.input(g.draw(*spread, M, M)))
    fused = fuse(g, g.op("MatMul", g.op("Softmax", g.reshape(x, 6, H, M, M), axis=-1), v))
    assert one(fused).inputs[3] is not None


def test_scale_behind_the_mask_scales_the_mask():
    g = Graph()
    bias = g.draw(M, N)
    fused = fuse(g, attention(g, lambda x: g.op("Mul", g.op("Add", x, g.const(bias)), g.const(0.5))))
    np.testing.assert_allclose(mask_of(fused)[0, 0], bias / 2, rtol=1e-6)
    assert attribute(fused.nodes[0], "scale") == 0.5


def test_mask_of_zeros_is_dropped():
    g = Graph()
    fused = fuse(g, attention(g, lambda x: g.op("Add", x, g.const(np.zeros((M, N))))))
    assert len(one(fused).inputs) == 3


@pytest.mark.parametrize("mask", ["causal", "causal fill"])
def test_triangle_is_causal(mask):
    node = check(Form(mask=mask, queries=5, keys=5)).nodes[0]
    assert attribute(node, "is_causal") == 1
    assert len(node.inputs) == 3


@pytest.mark.parametrize("keys", [M, N])
def test_triangle_over_more_keys_or_with_a_hole_is_a_mask(keys):
    g = Graph()
    keep = np.tril(np.ones((M, keys), bool))
    keep[3, 1] = keys != M
    fused = fuse(g, attention(g, lambda x: g.op("Where", g.const(keep, bool), x, g.const(-np.inf)), n=keys))
    assert attribute(one(fused), "is_causal") in (None, 0)
    assert (mask_of(fused)[0, 0] == keep).all()


def test_two_masks_are_one():
    g = Graph()
    first, second = g.random.random((B, 1, 1, N)) < 0.7, g.random.random((M, N)) < 0.7
    first[..., 0] = second[..., 0] = True

    def edit(x: str) -> str:
        x = g.op("Where", g.input(first), x, g.const(-np.inf))
        return g.op("Where", g.const(second, bool), x, g.const(-np.inf))

    fused = fuse(g, attention(g, edit))
    assert fused.ops() == ["And", "Attention"]
    assert one(fused).inputs[3].dtype.numpy() == np.bool_


def test_boolean_mask_and_bias_are_one():
    g = Graph()
    keep = keep_with_an_empty_row()

    def edit(x: str) -> str:
        x = g.op("Add", x, g.const(g.draw(H, M, N)))
        return g.op("Where", g.input(keep), x, g.const(-np.inf))

    fused = fuse(g, attention(g, edit, guard=True))
    assert fused.ops() == ["Where", "Attention"]
    one(fused)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda g, x, c: g.op("Where", c, x, g.const(-100.0)), "too small a number"),
        (
            lambda g, x, c: g.op("Add", g.op("Where", c, x, g.const(-1e4)), g.input(g.draw(M, N))),
            "adds to logits that a fill of -10000 has cut",
        ),
        (
            lambda g, x, c: g.op("Where", c, g.op("Where", c, x, g.const(-1e9)), g.const(-1e5)),
            "another mask with -1e+09",
        ),
    ],
)
def test_masks_without_an_exact_form_are_misses(edit, reason):
    g = Graph()
    condition = g.input(keep_with_an_empty_row())
    fused = fuse(g, attention(g, lambda x: edit(g, x, condition)))
    assert fused.nodes == []
    (miss,) = fused.result.log.misses
    assert reason in miss.reason
    assert fused.error < 1e-6


@pytest.mark.parametrize("fill", [-np.inf, -1e4, LOWEST])
@pytest.mark.parametrize("added", [False, True])
def test_probabilities_that_the_masks_condition_zeroes_again(fill, added):
    # ESPnet, WeNet, NeMo: a query without any key gets zeros, whatever the fill is.
    g = Graph()
    hidden = g.input(~keep_with_an_empty_row())

    def edit(x: str) -> str:
        if added:
            return g.op("Add", x, g.op("Where", hidden, g.const(fill), g.const(0.0)))
        return g.op("Where", hidden, g.const(fill), x)

    q, k, v = g.input(g.draw(B, H, M, D)), g.input(g.draw(B, H, N, D)), g.input(g.draw(B, H, N, D))
    p = g.op("Softmax", edit(g.op("MatMul", q, g.transpose(k, 0, 1, 3, 2))), axis=-1)
    fused = fuse(g, g.op("MatMul", g.op("Where", hidden, g.const(0.0), p), v))
    assert one(fused).inputs[3].dtype.name == "BOOL"


def test_probabilities_that_another_condition_zeroes_are_told():
    g = Graph()
    hidden, other = g.input(~keep_with_an_empty_row()), g.input(~keep_with_an_empty_row()[::-1].copy())
    q, k, v = g.input(g.draw(B, H, M, D)), g.input(g.draw(B, H, N, D)), g.input(g.draw(B, H, N, D))
    logits = g.op("Where", hidden, g.const(-1e4), g.op("MatMul", q, g.transpose(k, 0, 1, 3, 2)))
    p = g.op("Where", other, g.const(0.0), g.op("Softmax", logits, axis=-1))
    fused = fuse(g, g.op("MatMul", p, v))
    assert fused.nodes == []
    assert "no mask of the same condition" in fused.result.log.misses[0].reason


@pytest.mark.parametrize("dependent", [False, True])
def test_probabilities_that_weigh_several_values(dependent):
    # Zipformer. Values that need the first result cannot stand beside its own.
    g = Graph()
    q, k, v, w = (g.input(g.draw(B, H, M, D)) for _ in range(4))
    p = g.op("Softmax", g.op("MatMul", q, g.transpose(k, 0, 1, 3, 2)), axis=-1)
    first = g.op("MatMul", p, v)
    second = g.op("MatMul", p, g.op("Tanh", first) if dependent else w)
    fused = fuse(g, first, second)
    assert len(fused.nodes) == 1 + dependent
    assert fused.result.log.misses == []
    assert fused.error < 1e-5


def test_probabilities_that_are_shown_as_well_are_told():
    g = Graph()
    q, k, v, w = (g.input(g.draw(B, H, M, D)) for _ in range(4))
    p = g.op("Softmax", g.op("MatMul", q, g.transpose(k, 0, 1, 3, 2)), axis=-1)
    fused = fuse(g, g.op("MatMul", p, v), g.op("MatMul", p, w), g.op("ReduceMean", p))
    assert fused.nodes == []
    assert "more than one consumer" in fused.result.log.misses[0].reason
