"""Matrix products and attention."""

from __future__ import annotations

import math

import numpy as np

from edgec.targets.coreml.checker.arguments import Arguments
from edgec.targets.coreml.checker.arithmetic import softmax_of
from edgec.targets.coreml.checker.registry import kernel


@kernel("linear")
def linear(a: Arguments) -> np.ndarray:
    """X · weightᵀ + bias."""
    product = np.matmul(a["x"], np.swapaxes(a["weight"], -1, -2))
    return product + a["bias"] if "bias" in a else product


@kernel("matmul")
def matmul(a: Arguments) -> np.ndarray:
    """X · y over the last two axes, either transposed first."""
    x, y = a["x"], a["y"]
    if a.flag("transpose_x") and x.ndim > 1:
        x = np.swapaxes(x, -1, -2)
    if a.flag("transpose_y") and y.ndim > 1:
        y = np.swapaxes(y, -1, -2)
    return np.matmul(x, y)


@kernel("einsum")
def einsum(a: Arguments) -> np.ndarray:
    """The products that MIL's einsum knows."""
    x, y = a.all("values")
    return np.einsum(a.text("equation"), x, y, optimize=True)


@kernel("scaled_dot_product_attention")
def attention(a: Arguments) -> np.ndarray:
    """softmax(query · keyᵀ / sqrt(width) + mask) · value; a bool mask marks what takes part."""
    query, key, value = a["query"], a["key"], a["value"]
    scores = np.matmul(query, np.swapaxes(key, -1, -2)) / np.float32(math.sqrt(query.shape[-1]))
    if "attn_mask" in a:
        mask = np.asarray(a["attn_mask"])
        scores = np.where(mask, scores, -np.inf) if mask.dtype == np.bool_ else scores + mask
    return np.matmul(softmax_of(scores.astype(np.float32), -1), value)
