"""Attention masks that hide tokens from everyone."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import constant, rank, scalar, sizes

PADDED_BELOW = -30.0
"""An additive mask below this hides a key: its weight is under 1e-13 of an unmasked one's."""


def attention_mask(attention: ir.Node) -> ir.Value | None:
    """An `Attention`'s mask as `key_mask` reads it; None where there is none, or one for each pair."""
    mask = attention.inputs[3] if len(attention.inputs) > 3 else None
    return None if mask is None else key_mask(mask)


def key_mask(mask: ir.Value) -> ir.Value | None:
    """The (…, 1, N) form of a mask that treats all queries alike, without heads; None if it does not.

    Boolean, or additive. Masks that say the same in another form have one and the same form here.
    """
    inner = _same_mask(mask)
    root = None if inner is None else key_mask(inner)
    if root is not None:
        return root
    shape = sizes(mask)
    if shape is None or any(size != 1 for size in shape[1:-1]) or len(shape) not in (2, 4):
        return None
    return mask


def windowed_mask(attention: ir.Node) -> tuple[ir.Value, int] | None:
    """An `Attention`'s mask as padding and a sliding window; None where it is not just that.

    Returns:
        the padding's mask as `key_mask` gives it, and how far apart a query and a key that see each other may
        be.
    """
    mask = attention.inputs[3] if len(attention.inputs) > 3 else None
    while mask is not None:
        node = mask.producer()
        if node is not None and is_op(node, "And"):
            for one, other in (node.inputs, node.inputs[::-1]):
                joined, padding = constant(one), None if other is None else key_mask(other)
                window = None if joined is None else _window(joined)
                if window is not None and padding is not None:
                    return padding, window
        mask = _same_mask(mask)
    return None


def _window(seen: np.ndarray) -> int | None:
    """The w of a (…, N, N) mask that says |i - j| <= w, and nothing else; None of any other."""
    if seen.ndim < 2 or seen.shape[-1] != seen.shape[-2] or seen.size != seen.shape[-1] ** 2:
        return None
    square = seen.reshape(seen.shape[-2:]).astype(bool)
    places = np.arange(len(square))
    window = int(square[0].sum()) - 1
    return window if (square == (np.abs(places[:, None] - places) <= window)).all() else None


def _same_mask(mask: ir.Value) -> ir.Value | None:
    """What a mask only repeats, writes as numbers, or joins with a constant that hides nothing."""
    node = mask.producer()
    if node is None:
        return None
    if is_op(node, "Expand", "Identity"):
        return node.inputs[0]
    if is_op(node, "Slice"):
        axes = constant(node.inputs[3]) if len(node.inputs) > 3 else None
        total = rank(mask)
        if axes is None or total is None or any(int(axis) % total == total - 1 for axis in axes):
            return None
        return node.inputs[0]
    if is_op(node, "Where"):
        seen, hidden = scalar(node.inputs[1]), scalar(node.inputs[2])
        return node.inputs[0] if seen == 0.0 and hidden is not None and hidden < PADDED_BELOW else None
    if is_op(node, "And", "Add"):
        hides_nothing = node.op_type == "And"
        for one, other in (node.inputs, node.inputs[::-1]):
            joined = constant(one)
            if joined is not None and (joined == hides_nothing).all():
                return other
    return None
