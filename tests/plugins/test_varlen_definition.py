"""The definition of VarlenAttention: what a padded batch computes on its real tokens."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from bodies import run_body


def attention(query: np.ndarray, key: np.ndarray, value: np.ndarray, scale: float) -> np.ndarray:
    """One sequence, (tokens, heads, depth), in float64."""
    q, k, v = (each.astype(np.float64).transpose(1, 0, 2) for each in (query, key, value))
    logits = q @ k.transpose(0, 2, 1) * scale
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True) @ v).transpose(1, 0, 2)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(sum),
    heads=st.integers(1, 3),
    depth=st.sampled_from([1, 3, 8]),
    scale=st.sampled_from([0.0, 0.7]),
    seed=st.integers(0, 999),
)
def test_each_sequence_attends_to_itself(
    lengths: list[int], heads: int, depth: int, scale: float, seed: int
) -> None:
    drawn = np.random.default_rng(seed)
    ends = np.cumsum([0, *lengths]).astype(np.int32)
    feeds = {
        name: drawn.normal(size=(ends[-1], heads, depth)).astype(np.float32)
        for name in ("query", "key", "value")
    }
    [found] = run_body("VarlenAttention", {**feeds, "cu_seqlens": ends}, scale=scale)
    for begin, end in itertools.pairwise(ends):
        if begin == end:
            continue
        parts = [feeds[name][begin:end] for name in ("query", "key", "value")]
        expected = attention(*parts, scale or depth**-0.5)
        np.testing.assert_allclose(found[begin:end], expected, rtol=1e-4, atol=1e-5)
