"""Attention within sequences in float64."""

from __future__ import annotations

import itertools

import numpy as np


def exact_attention(
    feeds: dict[str, np.ndarray], scale: float, window: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Attention within sequences in float64; in a window of `places` where one is given.

    Returns:
        the output, the same weights' mean of the values' magnitudes, and for each of its numbers the largest
        sum of magnitudes that a logit of its head and sequence is made of; all (tokens, heads, depth).
    """
    query, key, value = (feeds[name].astype(np.float64) for name in ("query", "key", "value"))
    output, mixed, terms = (np.zeros_like(query) for _ in range(3))
    for begin, end in itertools.pairwise(feeds["cu_seqlens"]):
        for head in range(query.shape[1]) if end > begin else ():
            here = slice(begin, end), head
            q, k, v = query[here] * scale, key[here], value[here]
            logits = q @ k.T
            if window is not None:
                places = feeds["places"][begin:end]
                logits[np.abs(places[:, None] - places) > window] = -np.inf
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            output[here], mixed[here] = weights @ v, weights @ np.abs(v)
            terms[here] = (np.abs(q) @ np.abs(k).T).max()
    return output, mixed, terms
