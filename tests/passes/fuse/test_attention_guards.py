"""What a mask's sign, its side and its heads decide: each read the other way computes another network."""

from __future__ import annotations

import numpy as np
import pytest
from attention_graphs import Graph, attribute, fuse
from test_attention_masks import H, M, N, attention, one


@pytest.mark.parametrize("computed", [False, True])
def test_a_mask_that_is_subtracted(computed):
    g = Graph()
    array = g.draw(H, M, N)
    mask = g.input(array) if computed else g.const(array)
    one(fuse(g, attention(g, lambda x: g.op("Sub", x, mask))))


@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize("fill", [-1e9, -np.inf])
def test_a_condition_that_says_what_to_cut(computed, fill):
    g = Graph()
    cut = np.random.default_rng(4).random((M, N)) < 0.5
    cut[:, 2] = False
    condition = g.input(cut) if computed else g.const(cut, bool)
    one(fuse(g, attention(g, lambda x: g.op("Where", condition, g.const(fill), x))))


def test_a_triangle_for_some_heads_alone_is_not_causal():
    g = Graph()
    keep = np.ones((1, H, M, M), bool)
    keep[0, 0] = np.tril(keep[0, 0])
    mask = g.const(keep, bool)
    node = one(fuse(g, attention(g, lambda x: g.op("Where", mask, x, g.const(-np.inf)), n=M)))
    assert not attribute(node, "is_causal")


def test_a_triangle_for_all_heads_is_causal():
    g = Graph()
    mask = g.const(np.tril(np.ones((M, M), bool)), bool)
    node = one(fuse(g, attention(g, lambda x: g.op("Where", mask, x, g.const(-np.inf)), n=M)))
    assert attribute(node, "is_causal") == 1
