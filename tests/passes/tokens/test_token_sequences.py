"""Several sequences in one network, class tokens and registers, grouped keys and rotations."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))
from encoders import run  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from vision import merging, pruning, turn  # noqa: E402

from edgec.frontends.torch import from_module  # noqa: E402
from edgec.passes.infra import MatchLog  # noqa: E402
from edgec.passes.pipeline import default_pipeline  # noqa: E402
from edgec.passes.tokens.merge import MergeTokens  # noqa: E402
from edgec.passes.tokens.prune import PruneTokens  # noqa: E402
from edgec.passes.tokens.schedule import Schedule, before  # noqa: E402
from edgec.passes.tokens.sites import Site, find_sites  # noqa: E402

WIDTH = 24


class Block(nn.Module):
    """Attention with grouped keys, norms of queries and keys and rotations where asked for, and an MLP."""

    def __init__(self, heads: int = 4, groups: int = 4, rotary: bool = False) -> None:
        super().__init__()
        self.heads, self.groups, self.rotary, depth = heads, groups, rotary, WIDTH // heads
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v = (nn.Linear(WIDTH, count * depth) for count in (heads, groups, groups))
        self.qn, self.kn = nn.LayerNorm(depth), nn.LayerNorm(depth)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 48), nn.GELU(), nn.Linear(48, WIDTH))

    def forward(self, x, other=None, size=None, place=None, reduce=None):
        y = self.first(x)
        z = y if other is None else other
        q, k, v = (
            layer(given).unflatten(-1, (count, -1)).transpose(1, 2)
            for layer, given, count in (
                (self.q, y, self.heads),
                (self.k, z, self.groups),
                (self.v, z, self.groups),
            )
        )
        q, k = self.qn(q) * 2, self.kn(k)
        if self.rotary:
            place = torch.arange(x.shape[1])[None].expand(len(x), -1) if place is None else place
            q, k = turn(q, place, 0), turn(k, place, 0)
        keys, values = (each.repeat_interleave(self.heads // self.groups, 1) for each in (k, v))
        weights = None
        if size is None:
            mixed = functional.scaled_dot_product_attention(q, keys, values)
        else:
            logits = q @ keys.transpose(-1, -2) / k.shape[-1] ** 0.5 + size.log()[:, None, None, :, 0]
            weights = logits.softmax(-1)
            mixed = weights @ values
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        if reduce is not None:
            x, size, place = reduce(x, k, weights, size, place)
        x = x + self.mlp(self.second(x))
        return x if size is None else (x, size, place)


class Towers(nn.Module):
    """Two encoders, of shared weights or of their own; the second reads the first where `crossed`."""

    def __init__(self, shared: bool = False, crossed: bool = False) -> None:
        super().__init__()
        self.one = nn.ModuleList(Block() for _ in range(2))
        self.other = self.one if shared else nn.ModuleList(Block() for _ in range(2))
        self.cross = Block() if crossed else None

    def forward(self, a, b):
        for block in self.one:
            a = block(a)
        if self.cross is not None:
            b = self.cross(b, a)
        for block in self.other:
            b = block(b)
        return a.mean(1), b.mean(1)


class Pyramid(nn.Module):
    """A stage over 36 tokens, one over 9."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = (nn.ModuleList(Block() for _ in range(2)) for _ in range(2))
        self.down = nn.Conv2d(WIDTH, WIDTH, 2, 2)

    def forward(self, x):
        for block in self.one:
            x = block(x)
        x = self.down(x.transpose(1, 2).unflatten(2, (6, 6))).flatten(2).transpose(1, 2)
        for block in self.other:
            x = block(x)
        return x.mean(1)


class Skips(nn.Module):
    """The tokens of an early block, joined in channels with those of a late one."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.join = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x):
        first = self.blocks[0](x)
        x = self.blocks[2](self.blocks[1](first))
        return self.blocks[3](self.join(torch.cat([x, first], -1)))


class Tokens(nn.Module):
    """Learned tokens with patches; `head`: `first` reads token 0, `last` token 2, `pool` attends to all."""

    def __init__(self, learned: int, head: str, behind: bool = False, **block) -> None:
        super().__init__()
        self.learned, self.head, self.behind = learned, head, behind
        self.tokens = nn.Parameter(torch.randn(1, learned, WIDTH)) if learned else None
        self.blocks = nn.ModuleList(Block(**block) for _ in range(3))
        self.norm = nn.LayerNorm(WIDTH)
        self.query, self.pool = nn.Parameter(torch.randn(1, 1, WIDTH)), Block()

    def forward(self, x):
        return self.reduced(x, {}, None)

    def reduced(self, x, reductions, size):
        if self.tokens is not None:
            parts = [self.tokens.expand(len(x), -1, -1), x]
            x = torch.cat(parts[::-1] if self.behind else parts, 1)
        size = None if size is None else torch.ones(*x.shape[:2], 1)
        place = None if size is None else torch.arange(x.shape[1])[None].expand(len(x), -1)
        for index, block in enumerate(self.blocks):
            if size is None:
                x = block(x)
            else:
                x, size, place = block(x, None, size, place, reductions.get(index))
        x = self.norm(x)
        if self.head == "first":
            return x[:, 0]
        if self.head == "last":
            return x[:, 2]
        made = self.pool(self.query.expand(len(x), -1, -1), x, size)
        return made if size is None else made[0]


def neutral(module: nn.Module, **feeds: torch.Tensor) -> ir.Model:
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    graph = from_module(module.eval(), feeds, spec="m", name="m", samples=1)
    default_pipeline().run(graph.model)
    return graph.model


def lengths(model: ir.Model, sites: list[Site]) -> list[int]:
    """Queries of the sites' attentions, by the nodes' names."""
    found = {node.name: node.inputs[0].shape[2] for node in model.graph if node.op_type == "Attention"}
    return [found[site.attention.name] for site in sites]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def _towers(**how) -> ir.Model:
    return neutral(Towers(**how), a=torch.randn(1, 16, WIDTH), b=torch.randn(1, 16, WIDTH))


@pytest.mark.parametrize(
    ("make", "text", "sequences", "expected"),
    [
        (lambda: _towers(), "0:6+2:5", [0, 0, 1, 1], [16, 10, 16, 11]),
        (lambda: _towers(shared=True), "r=4", [0, 0, 1, 1], [16, 12, 16, 12]),
        (lambda: _towers(crossed=True), "0:6+2:5", [0, 0, 1, 1], [16, 10, 16, 11]),
        (lambda: neutral(Pyramid(), x=torch.randn(1, 36, WIDTH)), "0:9+2:4", [0, 0, 1, 1], [36, 27, 9, 5]),
        (lambda: neutral(Pyramid(), x=torch.randn(1, 36, WIDTH)), "keep=0.5", [0, 0, 1, 1], [36, 27, 9, 7]),
        (lambda: neutral(Skips(), x=torch.randn(1, 16, WIDTH)), "1:5+3:4", [0] * 4, [16, 16, 11, 16]),
        (lambda: neutral(Skips(), x=torch.randn(1, 16, WIDTH)), "0:5", [0] * 4, [16, 11, 11, 11]),
    ],
    ids=("towers", "shared weights", "crossed", "pyramid", "pyramid, keep", "skips", "skips, before"),
)
def test_tokens_are_counted_along_each_sequence(make, text, sequences, expected) -> None:
    model = make()
    sites = find_sites(model)
    assert [site.sequence for site in sites] == sequences
    schedule = Schedule.parse(text, sites)
    assert [before(sites, schedule.rates, site) for site in sites] == expected
    reduced = model.clone()
    MergeTokens(schedule)(reduced)
    assert lengths(reduced, sites) == expected
    feeds = {
        value.name: np.random.default_rng(0).normal(size=[*value.shape]).astype(np.float32)
        for value in model.graph.inputs
    }
    assert run(reduced, feeds).shape == run(model, feeds).shape


def test_attention_to_another_sequence_of_the_same_length_is_no_site() -> None:
    log = MatchLog()
    model = _towers(crossed=True)
    assert len(find_sites(model, log)) == 4
    assert any("of other tokens than its queries" in miss.reason for miss in log.misses)


@pytest.mark.parametrize(
    ("learned", "head", "row"),
    [(1, "first", 0), (3, "last", 2), (4, "pool", None), (0, "pool", None)],
    ids=("class", "behind registers", "registers", "none"),
)
def test_a_class_token_is_one_whose_row_is_read(learned: int, head: str, row: int | None) -> None:
    sites = find_sites(neutral(Tokens(learned, head), x=torch.randn(1, 16, WIDTH)))
    assert {site.class_token for site in sites} == {row}
    assert {site.protected for site in sites} == {learned}


def test_learned_tokens_at_the_end_are_refused_with_the_reason() -> None:
    log = MatchLog()
    assert find_sites(neutral(Tokens(3, "first", behind=True), x=torch.randn(1, 16, WIDTH)), log) == []
    assert any("learned tokens stand behind the others" in miss.reason for miss in log.misses)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("method", ["merge", "prune"])
@pytest.mark.parametrize(("learned", "head", "batch"), [(1, "first", 3), (2, "pool", 1)])
def test_grouped_keys_and_rotations_reduce(groups, method, learned, head, batch) -> None:
    module = Tokens(learned, head, groups=groups, rotary=True)
    x = torch.randn(batch, 16, WIDTH)
    model = neutral(module, x=x)
    rates = {0: 5, 1: 3}
    step = MergeTokens(Schedule(rates)) if method == "merge" else PruneTokens(Schedule(rates))
    step(model)
    reduces = {
        layer: merging(r, learned)
        if method == "merge"
        else pruning(r, learned, merge=True, heard=head == "first")
        for layer, r in rates.items()
    }
    with torch.no_grad():
        expected = module.reduced(x, reduces, "ones").numpy()
    np.testing.assert_allclose(run(model, {"x": x.numpy()}), expected, rtol=1e-4, atol=2e-5)
