"""`ai.edgec::ChannelAttention`: its softmax runs over channels, its query-key product sums over tokens."""

from __future__ import annotations

from edgec.plugins.infra import Plugin, Port, register

OP_TYPE = "ChannelAttention"

_BODY = """
  transposed = Transpose <perm = [0, 1, 3, 2]> (K)
  product = MatMul (Q, transposed)
  logits = Mul (product, temperature)
  weights = Softmax <axis = -1> (logits)
  Y = MatMul (weights, V)
"""

CHANNEL_ATTENTION = register(
    Plugin(
        OP_TYPE,
        "softmax(temperature * Q K^T) V over channels: Q (B, H, Cq, N), K (B, H, Ck, N), V (B, H, Ck, M) "
        "and a temperature that broadcasts to (B, H, Cq, Ck) give (B, H, Cq, M); the cross-covariance "
        "attention of XCiT (El-Nouby et al., 2021, arXiv 2106.09681) and the channel attention of DaViT "
        "(Ding et al., 2022, arXiv 2204.03645)",
        inputs=(
            Port("Q", "batch, heads, queries, tokens"),
            Port("K", "batch, heads, keys, tokens"),
            Port("V", "batch, heads, keys, width"),
            Port("temperature", None),
        ),
        outputs=(Port("Y", "batch, heads, queries, width"),),
        body=_BODY,
    )
)
"""Q and K have their tokens last, so their product is one (channels, channels) matrix a head."""
