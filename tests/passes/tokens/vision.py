"""A vision transformer in torch with many faces, and the token reductions in torch beside it.

The module is exported as it stands. `reduced` computes the same with the published steps of the methods
between attention and MLP: gathers, scatters and sorts on whole tensors, nothing of edgec's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

Reduce = Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


@dataclasses.dataclass(frozen=True)
class Face:
    """What a model looks like.

    Attributes:
        norm: `pre`, `post`, or `parallel` (attention and MLP from one norm, ViT-22B).
        packed: whether one projection makes q, k and v.
        learned: learned tokens in front.
        scaled: whether branches are scaled by a learned vector.
        rotary: whether queries and keys are rotated by their places.
        head: `class`, `mean`, `grid` (a convolution over all patches), `layers` (of several layers' tokens).
    """

    norm: str = "pre"
    packed: bool = True
    learned: int = 1
    scaled: bool = False
    rotary: bool = False
    head: str = "class"
    depth: int = 3
    side: int = 4

    @property
    def patches(self) -> int:
        return self.side**2


class Block(nn.Module):
    def __init__(self, face: Face, width: int = 24, heads: int = 3) -> None:
        super().__init__()
        self.face, self.heads = face, heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width) if face.packed else None
        self.separate = nn.ModuleList(nn.Linear(width, width) for _ in range(0 if face.packed else 3))
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 48), nn.GELU(), nn.Linear(48, width))
        self.gamma = nn.Parameter(torch.rand(2, width) + 0.5) if face.scaled else torch.ones(2, 1)

    def attend(self, x, size, place):
        """The attention's output, its weights, and its keys."""
        made = self.qkv(x).chunk(3, -1) if self.qkv is not None else [layer(x) for layer in self.separate]
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in made)
        if self.face.rotary:
            q, k = turn(q, place, self.face.learned), turn(k, place, self.face.learned)
        if size is None:
            mixed, weights = functional.scaled_dot_product_attention(q, k, v), None
        else:
            logits = q @ k.transpose(-1, -2) / k.shape[-1] ** 0.5 + size.log()[:, None, None, :, 0]
            weights = logits.softmax(-1)
            mixed = weights @ v
        return self.out(mixed.transpose(1, 2).flatten(2)), weights, k

    def forward(self, x, size=None, place=None, reduce: Reduce | None = None):
        first, second = self.norms
        if self.face.norm == "post":
            branch, weights, k = self.attend(x, size, place)
            x = first(x + branch * self.gamma[0])
            if reduce is not None:
                x, size, place = reduce(x, k, weights, size, place)
            return second(x + self.mlp(x) * self.gamma[1]), size, place
        y = first(x)
        branch, weights, k = self.attend(y, size, place)
        x = x + branch * self.gamma[0]
        if self.face.norm == "parallel":
            x = x + self.mlp(y) * self.gamma[1]
        if reduce is not None:
            x, size, place = reduce(x, k, weights, size, place)
        if self.face.norm == "pre":
            x = x + self.mlp(second(x)) * self.gamma[1]
        return x, size, place


def turn(x, place, learned):
    """Rotary embedding of the halves; learned tokens are not turned."""
    half = x.shape[-1] // 2
    angle = (place - learned + 1).clamp(min=0).float()[..., None] * torch.tensor([1.0, 0.3, 0.1, 0.03][:half])
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Vision(nn.Module):
    """Patches (B, side², width) in, as a patch embedding would give them."""

    def __init__(self, face: Face, width: int = 24) -> None:
        super().__init__()
        self.face = face
        self.learned = nn.Parameter(torch.randn(1, face.learned, width)) if face.learned else None
        self.positions = nn.Parameter(0.5 * torch.randn(1, face.patches + face.learned, width))
        self.blocks = nn.ModuleList(Block(face, width) for _ in range(face.depth))
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv2d(width, 5, 3, padding=1)
        self.taps = nn.ModuleList(nn.Conv2d(width, 5, 1) for _ in range(face.depth))
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.3)

    def forward(self, patches):
        return self.reduced(patches, {}, size=None)[0]

    def reduced(self, patches, reductions: dict[int, Reduce], *, size="ones"):
        """The result, and every layer's tokens, with some layers' tokens reduced."""
        x = patches
        if self.learned is not None:
            x = torch.cat([self.learned.expand(len(x), -1, -1), x], 1)
        x = x + self.positions
        size = torch.ones(*x.shape[:2], 1) if size == "ones" else None
        place = torch.arange(x.shape[1])[None].expand(len(x), -1)
        layers = []
        for index, block in enumerate(self.blocks):
            x, size, place = block(x, size, place, reductions.get(index))
            layers.append(x)
        if self.face.head == "class":
            return self.norm(x)[:, 0], layers
        if self.face.head == "mean":
            rest = self.norm(x)[:, self.face.learned :]
            weight = torch.ones_like(rest[..., :1]) if size is None else size[:, self.face.learned :]
            return (rest * weight).sum(1) / weight.sum(1) if size is not None else rest.mean(1), layers
        if x.shape[1] != self.face.patches + self.face.learned:
            return None, layers
        if self.face.head == "grid":
            return self.conv(self.as_grid(self.norm(x))), layers
        return sum(
            tap(self.as_grid(self.norm(one))) for tap, one in zip(self.taps, layers, strict=True)
        ), layers

    def as_grid(self, x):
        side = self.face.side
        return x[:, self.face.learned :].transpose(1, 2).reshape(len(x), -1, side, side)


def published_matching(metric: torch.Tensor, r: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """ToMe's `bipartite_soft_matching` without protected tokens: sums each group, unmerged tokens first."""
    metric = metric / metric.norm(dim=-1, keepdim=True)
    a, b = metric[..., ::2, :], metric[..., 1::2, :]
    node_max, node_idx = (a @ b.transpose(-1, -2)).max(dim=-1)
    edge_idx = node_max.argsort(dim=-1, descending=True)[..., None]
    unm_idx, src_idx = edge_idx[..., r:, :], edge_idx[..., :r, :]
    dst_idx = node_idx[..., None].gather(dim=-2, index=src_idx)

    def merge(x: torch.Tensor) -> torch.Tensor:
        src, dst = x[..., ::2, :], x[..., 1::2, :]
        n, _, c = src.shape
        unm = src.gather(dim=-2, index=unm_idx.expand(n, -1, c))
        moved = src.gather(dim=-2, index=src_idx.expand(n, r, c))
        return torch.cat([unm, dst.scatter_reduce(-2, dst_idx.expand(n, r, c), moved, reduce="sum")], dim=1)

    return merge


def published(r: int) -> Reduce:
    """ToMe between attention and MLP in its published form: the order of the tokens is its own."""

    def reduce(x, k, weights, size, place):
        merge = published_matching(k.mean(1), r)
        total, mass = merge(x * size), merge(size)
        return total / mass, mass, place[:, : total.shape[1]]

    return reduce


def in_order(target: torch.Tensor, x, size, place, share=None):
    """Every token into `target` (its own index where it stays), averaged by size, in the tokens' order."""
    share = torch.ones_like(size) if share is None else share
    weight = size * share
    index = target[..., None]
    mass = torch.zeros_like(size).scatter_add(1, index, weight)
    total = torch.zeros_like(x).scatter_add(1, index.expand_as(x), x * weight)
    stays = target == torch.arange(target.shape[1])
    # The place is that of the largest token of the group, the first among equals.
    alike = (target[:, :, None] == target[:, None, :]) & (share[..., 0] > 0)[:, None, :]
    largest = torch.where(alike, size[:, None, :, 0], -1.0).argmax(-1)
    place = place.gather(1, largest)
    rows = [torch.nonzero(row)[:, 0] for row in stays]
    picked = torch.stack(rows)
    keep = picked[..., None]
    return (
        total.gather(1, keep.expand(-1, -1, x.shape[-1])) / mass.gather(1, keep),
        mass.gather(1, keep),
        place.gather(1, picked),
    )


def merging(r: int, guarded: int) -> Reduce:
    """ToMe's matching over the free tokens, every second one seeking, which keeps the tokens' order."""

    def reduce(x, k, weights, size, place):
        count = x.shape[1]
        metric = functional.normalize(k.mean(1), dim=-1)
        a, b = torch.arange(guarded, count, 2), torch.arange(guarded + 1, count, 2)
        best, partner = (metric[:, a] @ metric[:, b].transpose(1, 2)).max(-1)
        gone = best.argsort(dim=-1, descending=True, stable=True)[:, :r]
        target = torch.arange(count).expand(len(x), -1).clone()
        target.scatter_(1, a[gone], b[partner.gather(1, gone)])
        return in_order(target, x, size, place)

    return reduce


def pruning(r: int, guarded: int, *, merge: bool, heard: bool = True) -> Reduce:
    """The r least attended leave, each into the kept token of the most alike key.

    By token 0 where it is a class token, which something hears; else by all.
    """

    def reduce(x, k, weights, size, place):
        count = x.shape[1]
        by_class = guarded and heard
        score = weights.mean(1)[:, 0] if by_class else (weights.mean(1) * size).sum(1)
        free = torch.arange(guarded, count)
        order = score[:, free].argsort(dim=-1, descending=True, stable=True) + guarded
        kept, gone = order[:, : count - guarded - r], order[:, count - guarded - r :]
        metric = functional.normalize(k.mean(1), dim=-1)
        alike = metric @ metric.transpose(1, 2)
        hosts = torch.full((len(x), count), -torch.inf).scatter(1, kept, 0.0)
        target = torch.arange(count).expand(len(x), -1).clone()
        target.scatter_(1, gone, (alike + hosts[:, None]).argmax(-1).gather(1, gone))
        stays = (target == torch.arange(count))[..., None]
        # A kept token keeps its own place, whatever merges into it.
        own = in_order(target, x, size, place, stays.float())
        return (*in_order(target, x, size, place, None if merge else stays.float())[:2], own[2])

    return reduce
