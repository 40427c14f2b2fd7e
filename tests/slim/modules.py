"""Small drawn modules to slim, and what to calibrate them with."""

from __future__ import annotations

import torch
from torch import nn

from edgec.zoo.vit import VisionTransformer, VitConfig


def drawn(module: nn.Module) -> nn.Module:
    """The module with no bias of zeros, no scale of one and no two layers alike."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return module.eval()


def vit() -> nn.Module:
    """Two blocks, four heads, hidden layers of 64, on images of 16x16."""
    return drawn(VisionTransformer(VitConfig(16, 8, 3, 5, 32, 2, 4, 64)))


def images(count: int) -> torch.Tensor:
    torch.manual_seed(count)
    return torch.randn(count, 3, 16, 16)


def encoder() -> nn.Module:
    """Two layers of torch's own transformer, post-norm, four heads."""
    return drawn(nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2))


def tokens(count: int) -> torch.Tensor:
    torch.manual_seed(count)
    return torch.randn(count, 5, 32)


class FixedSizes(nn.Module):
    """An MLP beside a residual whose forward counts on 64 hidden neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Linear(32, 64)
        self.wide = nn.Linear(64, 32)
        self.head = nn.Linear(32, 4)

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.narrow(data)).reshape(-1, 5, 64)
        return self.head(data + self.wide(hidden))


class Computed(nn.Module):
    """An MLP whose second weight is a parameter times another, or its tanh."""

    def __init__(self, scaled: bool) -> None:
        super().__init__()
        self.scaled = scaled
        self.first = nn.Linear(32, 64)
        self.weight = nn.Parameter(torch.zeros(32, 64))
        self.gain = nn.Parameter(torch.zeros(32, 1))
        self.head = nn.Linear(32, 4)

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.first(data))
        weight = self.weight * self.gain if self.scaled else self.weight.tanh()
        return self.head(data + nn.functional.linear(hidden, weight))


class Scaled(nn.Module):
    """An MLP beside a residual that a scalar parameter scales."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.head = nn.Linear(32, 4)

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        return self.head(data + self.gain * self.mlp(data))
