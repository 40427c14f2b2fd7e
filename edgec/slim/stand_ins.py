"""Modules that take the place of others: a branch of zeros, an attention with fewer heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class ZeroBranch(nn.Module):
    """Stands for a residual branch that left: zeros, which the sum behind it does not notice.

    Args:
        width: size of the last axis of the zeros; None for that of the input.
        returned: how many values the module it stands for returned, the first being the branch; 0 for a
            tensor alone. The others are None.
    """

    def __init__(self, width: int | None = None, returned: int = 0) -> None:
        super().__init__()
        self.width = width
        self.returned = returned

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Zeros like the first input."""
        data = inputs[0] if inputs else next(iter(named.values()))
        width = data.shape[-1] if self.width is None else self.width
        zeros = data.new_zeros((*data.shape[:-1], width))
        return (zeros, *(None for _ in range(self.returned - 1))) if self.returned else zeros


class NarrowAttention(nn.Module):
    """`nn.MultiheadAttention` with fewer heads: that class wants heads as wide as its inputs together.

    Takes what it takes, without `bias_k`, `bias_v` and `add_zero_attn`, and returns no weights.

    Args:
        whole: the attention before the cut, of one packed projection.
        heads: how many heads it has now.
    """

    def __init__(self, whole: nn.MultiheadAttention, heads: int) -> None:
        super().__init__()
        self.embed_dim, self.head_dim, self.num_heads = whole.embed_dim, whole.head_dim, heads
        self.batch_first, self.dropout = whole.batch_first, whole.dropout
        self._qkv_same_embed_dim = False  # keeps nn.TransformerEncoder off its fused path
        self.in_proj_weight, self.in_proj_bias = whole.in_proj_weight, whole.in_proj_bias
        self.out_proj = whole.out_proj

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = False,  # noqa: ARG002
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,  # noqa: ARG002
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, None]:
        """Attend: (batch, length, width) with `batch_first`, else (length, batch, width); the same out."""
        if not self.batch_first:
            query, key, value = (each.transpose(0, 1) for each in (query, key, value))
        weights = self.in_proj_weight.chunk(3)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (
            functional.linear(data, weight, bias)
            .unflatten(-1, (self.num_heads, self.head_dim))
            .transpose(1, 2)
            for data, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        mask = self._mask(q, key_padding_mask, attn_mask)
        mixed = functional.scaled_dot_product_attention(
            q, k, v, mask, self.dropout if self.training else 0.0, is_causal and mask is None
        )
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return (out if self.batch_first else out.transpose(0, 1)), None

    def _mask(
        self, q: torch.Tensor, padding: torch.Tensor | None, mask: torch.Tensor | None
    ) -> torch.Tensor | None:
        """What is added to the logits; masks of bool are true where a key is hidden."""
        added = [
            torch.zeros_like(each, dtype=q.dtype).masked_fill(each, float("-inf"))
            if each.dtype == torch.bool
            else each
            for each in (None if padding is None else padding[:, None, None], mask)
            if each is not None
        ]
        return sum(added[1:], added[0]) if added else None
