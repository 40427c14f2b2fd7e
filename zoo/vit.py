"""A plain vision transformer: what the trained vision models of the zoo are instances of.

Pre-norm blocks, one class token, learned positions (Dosovitskiy et al., "An Image is Worth 16x16
Words", 2021). Attention is `scaled_dot_product_attention`, as in most of today's model code.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import nn
from torch.nn import functional


@dataclasses.dataclass(frozen=True)
class VitConfig:
    """Sizes of a vision transformer.

    Attributes:
        image: side of the square input, in pixels.
        patch: side of a patch; the model sees `(image // patch) ** 2` tokens and a class token.
        channels: channels of the input.
        classes: number of classes.
        width: size of a token.
        depth: number of blocks.
        heads: attention heads; `width` is divisible by it.
        hidden: width of the MLP's hidden layer.
    """

    image: int
    patch: int
    channels: int
    classes: int
    width: int
    depth: int
    heads: int
    hidden: int

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return (self.image // self.patch) ** 2 + 1


def sine_cosine_positions(side: int, width: int) -> torch.Tensor:
    """Sines and cosines of row and column at `width // 4` frequencies: [side * side, width]."""
    frequencies = 1.0 / 100.0 ** (torch.arange(width // 4) / (width // 4))
    steps = torch.outer(torch.arange(side, dtype=torch.float32), frequencies)
    waves = torch.cat([steps.sin(), steps.cos()], dim=1)
    rows = waves.repeat_interleave(side, dim=0)
    return torch.cat([rows, waves.repeat(side, 1)], dim=1)


class Attention(nn.Module):
    """Multi-head self-attention with one packed projection for q, k and v."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map tokens [batch, length, width] to the same shape."""
        batch, length, _ = tokens.shape
        # Sizes from the weights: an attention that lost heads is narrower than its tokens.
        size = self.qkv.out_features // (3 * self.heads)
        packed = self.qkv(tokens).reshape(batch, length, 3, self.heads, size)
        q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(batch, length, self.proj.in_features))


class Block(nn.Module):
    """Attention and an MLP, each behind a LayerNorm and beside a residual."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attn = Attention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, config.hidden), nn.GELU(), nn.Linear(config.hidden, config.width)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map tokens [batch, length, width] to the same shape."""
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class VisionTransformer(nn.Module):
    """Images [batch, channels, image, image] to logits [batch, classes], both float32."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = nn.Conv2d(config.channels, config.width, config.patch, config.patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.positions = nn.Parameter(torch.zeros(1, config.tokens, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.classes)
        self._initialise()

    def _initialise(self) -> None:
        # Positions learn from a 2-D sine-cosine table, which trains sooner than from noise (Beyer et
        # al., "Better plain ViT baselines for ImageNet-1k", 2022).
        side = self.config.image // self.config.patch
        with torch.no_grad():
            self.positions[0, 1:] = sine_cosine_positions(side, self.config.width)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        nn.init.xavier_uniform_(self.patch_embed.weight.flatten(1))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Classify images by the class token's last state."""
        patches = self.patch_embed(image).flatten(2).transpose(1, 2)
        first = self.class_token.expand(patches.shape[0], -1, -1)
        tokens = torch.cat([first, patches], dim=1) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens)[:, 0])
