"""Models of sequences, written small after their papers, in plain torch.

Each function returns a module and its example inputs; weights come from torch's seed.
"""

from __future__ import annotations

import math

import torch
from torch import nn

Example = tuple[nn.Module, dict[str, torch.Tensor]]


class _FeedForward(nn.Sequential):
    """Conformer's feed-forward module: norm, expansion by four, Swish, projection."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width)
        )


class _RelativeAttention(nn.Module):
    """Self-attention with the relative positions of Transformer-XL (Dai et al. 2019, section 3.3).

    score(i, j) = (q_i + u)·k_j + (q_i + v)·r_{i-j}, the second term by the shift of their appendix B.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.position = nn.Linear(width, width, bias=False)
        self.u = nn.Parameter(torch.randn(heads, 1, self.size) * 0.2)
        self.v = nn.Parameter(torch.randn(heads, 1, self.size) * 0.2)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, self.size).transpose(1, 2)

    def forward(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        batch, length, width = x.shape
        query, key, value = self._split(self.query(x)), self._split(self.key(x)), self._split(self.value(x))
        relative = self._split(self.position(positions))
        content = (query + self.u) @ key.transpose(-2, -1)
        shifted = _shift((query + self.v) @ relative.transpose(-2, -1))[..., :length]
        weights = ((content + shifted) / math.sqrt(self.size)).softmax(-1)
        return self.out((weights @ value).transpose(1, 2).reshape(batch, length, width))


def _shift(scores: torch.Tensor) -> torch.Tensor:
    """Row i moved left by (rows - 1 - i), through a padded reshape."""
    batch, heads, rows, columns = scores.shape
    padded = nn.functional.pad(scores, (1, 0)).reshape(batch, heads, columns + 1, rows)
    return padded[:, :, 1:].reshape(batch, heads, rows, columns)


class _Convolution(nn.Module):
    """Conformer's convolution module: gate, depthwise convolution, batch norm, Swish."""

    def __init__(self, width: int, size: int = 15) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Conv1d(width, 2 * width, 1)
        self.depthwise = nn.Conv1d(width, width, size, padding=size // 2, groups=width)
        self.batch_norm = nn.BatchNorm1d(width)
        self.narrow = nn.Conv1d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.glu(self.widen(self.norm(x).transpose(1, 2)), dim=1)
        x = nn.functional.silu(self.batch_norm(self.depthwise(x)))
        return self.narrow(x).transpose(1, 2)


class _ConformerBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first, self.second = _FeedForward(width), _FeedForward(width)
        self.attention = _RelativeAttention(width, heads)
        self.convolution = _Convolution(width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        x = x + 0.5 * self.first(x)
        x = x + self.attention(x, positions)
        x = x + self.convolution(x)
        return self.norm(x + 0.5 * self.second(x))


class Conformer(nn.Module):
    """Conformer's encoder and a linear CTC head (Gulati et al. 2020).

    features (B, T, mels) → log probabilities (B, ceil(T / 4), labels).
    """

    def __init__(
        self, mels: int = 80, width: int = 144, heads: int = 4, blocks: int = 4, labels: int = 32
    ) -> None:
        super().__init__()
        self.subsample = nn.Sequential(
            nn.Conv2d(1, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1), nn.ReLU()
        )
        self.project = nn.Linear(width * (mels // 4), width)
        self.blocks = nn.ModuleList(_ConformerBlock(width, heads) for _ in range(blocks))
        self.head = nn.Linear(width, labels)
        self.width = width

    def _positions(self, length: int) -> torch.Tensor:
        """Sinusoids of the distances length-1 … -(length-1), as Transformer-XL orders them."""
        distance = torch.arange(length - 1, -length, -1.0)[:, None]
        rate = torch.exp(torch.arange(0, self.width, 2.0) * (-math.log(10000.0) / self.width))
        return torch.stack([(distance * rate).sin(), (distance * rate).cos()], -1).reshape(1, -1, self.width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Log probabilities of the labels, a frame of four."""
        x = self.subsample(features[:, None])
        x = self.project(x.transpose(1, 2).flatten(2))
        positions = self._positions(x.shape[1])
        for block in self.blocks:
            x = block(x, positions)
        return self.head(x).log_softmax(-1)


class ITransformer(nn.Module):
    """ITransformer: every variate's whole series is a token (Liu et al. 2024).

    series (B, T, variates) → forecast (B, horizon, variates), normalized a series (section 3.1).
    """

    def __init__(
        self, steps: int = 96, horizon: int = 48, width: int = 128, heads: int = 8, layers: int = 3
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(steps, width)
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width))
        self.project = nn.Linear(width, horizon)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """The forecast."""
        mean = series.mean(1, keepdim=True)
        spread = (series.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        tokens = self.embed(((series - mean) / spread).transpose(1, 2))
        forecast = self.project(self.encoder(tokens)).transpose(1, 2)
        return forecast * spread + mean


class _DecoderBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )

    def forward(
        self, x: torch.Tensor, past_key: torch.Tensor, past_value: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        batch, length, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.norm_mlp(x)), key, value


class Decoder(nn.Module):
    """A decoder after GPT-2 (Radford et al. 2019): pre-norm, tanh GELU, learned positions, tied head.

    tokens (B, S) and the keys and values of P past tokens (layers, B, H, P, D) → logits (B, S, words) and
    all keys and values (layers, B, H, P + S, D).
    """

    def __init__(
        self, words: int = 512, context: int = 64, width: int = 128, heads: int = 4, layers: int = 4
    ) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(_DecoderBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(
        self, tokens: torch.Tensor, past_keys: torch.Tensor, past_values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits, and the keys and values of all tokens so far."""
        length, past = tokens.shape[1], past_keys.shape[3]
        x = self.words(tokens) + self.places(torch.arange(past, past + length))
        mask = torch.ones(length, past + length, dtype=torch.bool).tril(past)
        keys, values = [], []
        for index, block in enumerate(self.blocks):
            x, key, value = block(x, past_keys[index], past_values[index], mask)
            keys.append(key)
            values.append(value)
        return self.norm(x) @ self.words.weight.T, torch.stack(keys), torch.stack(values)


def conformer() -> Example:
    return Conformer().eval(), {"features": torch.randn(1, 160, 80)}


def itransformer() -> Example:
    return ITransformer().eval(), {"series": torch.randn(2, 96, 21).cumsum(1)}


def decoder() -> Example:
    past = {name: torch.randn(4, 1, 4, 12, 32) for name in ("past_keys", "past_values")}
    return Decoder().eval(), {"tokens": torch.randint(0, 512, (1, 4)), **past}


EXAMPLES = {"conformer": conformer, "itransformer": itransformer, "gpt2_like": decoder}
