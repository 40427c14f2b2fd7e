"""Text encoders with padding: however the mask is written, padding leaves first and says nothing."""

from __future__ import annotations

import functools
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

from edgec.core.errors import RequestError  # noqa: E402
from edgec.frontends.torch import from_module  # noqa: E402
from edgec.passes.pipeline import default_pipeline  # noqa: E402
from edgec.passes.tokens.calibrate import calibrate  # noqa: E402
from edgec.passes.tokens.merge import MergeTokens  # noqa: E402
from edgec.passes.tokens.prune import PruneTokens  # noqa: E402
from edgec.passes.tokens.schedule import Schedule  # noqa: E402
from edgec.passes.tokens.sites import find_sites  # noqa: E402

LENGTH, WIDTH, HEADS = 20, 16, 2
FORMS = ("additive", "lowest", "boolean", "square", "guarded")


class Layer(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))

    def forward(self, x, mask):
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        rows = mask[:, None, None, :]
        if self.form == "boolean":
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=rows.bool())
        elif self.form == "square":
            square = rows.bool().expand(-1, 1, x.shape[1], -1)
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=square)
        else:
            logits = q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5
            if self.form == "additive":
                weights = (logits + (1.0 - rows.float()) * -10000.0).softmax(-1)
            elif self.form == "lowest":
                lowest = torch.finfo(torch.float32).min
                weights = (logits + torch.where(rows.bool(), 0.0, lowest)).softmax(-1)
            else:
                weights = logits.masked_fill(rows == 0, -torch.inf).softmax(-1)
                weights = torch.where(torch.isnan(weights), torch.zeros_like(weights), weights)
            mixed = weights @ v
        x = self.norms[0](x + self.out(mixed.transpose(1, 2).flatten(2)))
        return self.norms[1](x + self.mlp(x))


class Text(nn.Module):
    def __init__(self, form: str, head: str) -> None:
        super().__init__()
        self.head = head
        self.layers = nn.ModuleList(Layer(form) for _ in range(3))

    def forward(self, x, mask):
        for layer in self.layers:
            x = layer(x, mask)
        if self.head == "first":
            return x[:, 0]
        weight = mask[..., None].float()
        return (x * weight).sum(1) / weight.sum(1)


@functools.cache
def _exported(form: str, head: str, length: int) -> ir.Model:
    torch.manual_seed(0)
    module = Text(form, head)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.4)
    feeds = {"x": torch.randn(2, length, WIDTH), "mask": torch.ones(2, length, dtype=torch.int64)}
    graph = from_module(module.eval(), feeds, spec="text", name="text", samples=1)
    default_pipeline().run(graph.model)
    return graph.model


def neutral(form: str, head: str = "first", length: int = LENGTH) -> ir.Model:
    return _exported(form, head, length).clone()


def feeds(lengths: tuple[int, int], seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = (np.arange(LENGTH) < np.array(lengths)[:, None]).astype(np.int64)
    return {"x": rng.normal(size=(2, LENGTH, WIDTH)).astype(np.float32), "mask": mask}


@pytest.fixture(scope="module", params=FORMS)
def text(request: pytest.FixtureRequest) -> ir.Model:
    return neutral(request.param)


def test_every_form_is_a_padding_mask(text: ir.Model) -> None:
    sites = find_sites(text)
    assert len(sites) >= 2
    assert all(site.mask is not None and site.mask is sites[0].mask for site in sites)


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("lengths", [(20, 9), (13, 6)], ids=str)
def test_what_padding_holds_never_matters(text: ir.Model, lengths: tuple[int, int], merge: bool) -> None:
    """Nothing that stands in padded places reaches the result, at any r."""
    given = feeds(lengths)
    other = {**given, "x": np.where(given["mask"][..., None] > 0, given["x"], 7.0 - 3 * given["x"])}
    matching = "bipartite" if merge else "energy"
    for step in (
        PruneTokens(Schedule({0: 7, 1: 4}), merge=merge),
        MergeTokens(Schedule({0: 5, 1: 5}), matching=matching),
    ):
        model = text.clone()
        step(model)
        np.testing.assert_allclose(run(model, given), run(model, other), atol=2e-5)


@pytest.mark.parametrize("form", ["boolean", "lowest"])
def test_a_padded_text_is_pruned_as_if_it_were_short(form: str) -> None:
    """r of 7 with 5 padded: the same two real tokens leave as with r of 2 and no padding."""
    padded, short = neutral(form), neutral(form, length=LENGTH - 5)
    given = feeds((LENGTH - 5, LENGTH - 5))
    PruneTokens(Schedule({0: 7, 1: 3}))(padded)
    PruneTokens(Schedule({0: 2, 1: 3}))(short)
    cut = {name: array[:, : LENGTH - 5] for name, array in given.items()}
    np.testing.assert_allclose(run(padded, given), run(short, cut), atol=2e-5)


@pytest.mark.parametrize("form", ["boolean", "guarded"])
def test_fewer_tokens_leave_than_are_padded(form: str) -> None:
    """Only padding leaves: nothing changes, whichever head reads it."""
    for head in ("first", "mean"):
        model = neutral(form, head)
        given = feeds((9, 5))
        before = run(model, given)
        for step in (PruneTokens(Schedule({0: 8, 1: 2})), PruneTokens(Schedule({0: 8}), merge=False)):
            reduced = model.clone()
            step(reduced)
            np.testing.assert_allclose(run(reduced, given), before, atol=2e-5)


class TestCalibration:
    def test_counts_follow_the_threshold(self) -> None:
        model = neutral("boolean")
        samples = [feeds((20, 20), seed) for seed in range(4)]
        low, high = (calibrate(model, samples, threshold=threshold) for threshold in (0.3, 0.9))
        taken = [sum(schedule.rates.values()) for schedule in (low, high)]
        assert taken[0] < taken[1]
        high.reductions(find_sites(model), most=1)
        before = model.clone()
        PruneTokens(high)(model)
        assert run(model, samples[0]).shape == run(before, samples[0]).shape

    def test_the_count_is_a_quantile_of_what_exceeds_the_threshold(self) -> None:
        """The first layer's count, from the attention itself."""
        model = neutral("boolean", head="mean")
        samples = [feeds((20, 20), seed) for seed in range(5)]
        layers = len(find_sites(model))
        schedule = calibrate(model, samples, threshold=0.9, quantile=1.0)
        torch.manual_seed(0)
        module = Text("boolean", "mean")
        for parameter in module.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.4)
        counts = []
        for given in samples:
            x = torch.from_numpy(given["x"])
            made = module.layers[0].qkv(x).chunk(3, -1)
            q, k, _ = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in made)
            score = (q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5).softmax(-1).mean((1, 2))
            counts += (score >= 0.9 / layers / LENGTH).sum(1).tolist()
        assert schedule.rates[0] == LENGTH - max(counts)

    def test_padding_never_counts(self) -> None:
        model = neutral("additive", head="mean")
        schedule = calibrate(model, [feeds((12, 12))], threshold=1e-6)
        assert schedule.rates[0] == LENGTH - 12
        assert sum(schedule.rates.values()) == LENGTH - 12

    @pytest.mark.parametrize(
        ("samples", "threshold", "words"),
        [([feeds((20, 20))], 0.0, "decides nothing"), ([], 0.5, "no calibration inputs")],
    )
    def test_nothing_to_decide_by_is_refused(self, samples: list, threshold: float, words: str) -> None:
        with pytest.raises(RequestError, match=words):
            calibrate(neutral("boolean"), samples, threshold=threshold)
