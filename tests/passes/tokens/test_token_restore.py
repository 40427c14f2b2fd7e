"""Dense outputs of reduced networks: all tokens again, each with its own detail."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))
from encoders import CHANNELS, Encoder, run  # noqa: E402
from vision import Face, Vision, merging  # noqa: E402

from edgec.core.errors import RequestError  # noqa: E402
from edgec.frontends.torch import from_module  # noqa: E402
from edgec.passes.manager import Pipeline  # noqa: E402
from edgec.passes.pipeline import default_pipeline, load_passes  # noqa: E402
from edgec.passes.tokens.merge import MergeTokens  # noqa: E402
from edgec.passes.tokens.prune import PruneTokens  # noqa: E402
from edgec.passes.tokens.restore import RestoreTokens  # noqa: E402
from edgec.passes.tokens.schedule import Schedule  # noqa: E402
from edgec.passes.tokens.sites import find_sites  # noqa: E402

METHODS = {
    "merge": MergeTokens,
    "energy": lambda schedule: MergeTokens(schedule, matching="energy"),
    "many-to-many": lambda schedule: MergeTokens(schedule, matching="many-to-many"),
    "prune": PruneTokens,
    "drop": lambda schedule: PruneTokens(schedule, merge=False),
}


class Dense:
    """A vision transformer with a dense head, and an image of `kinds` of patches, each slightly different."""

    def __init__(self, face: Face, kinds: int = 6) -> None:
        torch.manual_seed(0)
        self.module = Vision(face).eval()
        with torch.no_grad():  # patches of a kind stay alike, as those of a trained network do
            self.module.positions *= 0.1
            for block in self.module.blocks:
                block.out.weight *= 0.3
                block.mlp[2].weight *= 0.3
        self.patches = torch.randn(kinds, 24)[torch.randint(0, kinds, (1, face.patches))]
        self.patches = self.patches + 0.1 * torch.randn_like(self.patches)
        feeds = {"patches": self.patches}
        graph = from_module(self.module, feeds, spec="dense", name="dense", samples=1)
        default_pipeline().run(graph.model)
        self.neutral = graph.model
        self.expected = graph.references[0]

    def run(self, model: ir.Model) -> np.ndarray:
        return run(model, {"patches": self.patches.numpy()})


@pytest.fixture(scope="module", params=["grid", "layers"])
def dense(request: pytest.FixtureRequest) -> Dense:
    return Dense(Face(head=request.param, depth=4, side=6))


def error(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(((actual - expected) ** 2).mean() / expected.var()))


@pytest.mark.parametrize("method", METHODS)
def test_a_dense_output_is_whole_and_near(dense: Dense, method: str) -> None:
    before = dense.run(dense.neutral)
    model = dense.neutral.clone()
    METHODS[method](Schedule({0: 8, 2: 6}))(model)
    grouped = dense.run(model)
    result = RestoreTokens()(model)
    detailed = dense.run(model)
    assert detailed.shape == before.shape
    places = 3 if dense.module.face.head == "layers" else 1
    assert len(result.log.matches) >= places
    # What is lost is detail, and what the others' attention loses by it, which no detail mends. Merging takes
    # the most alike, so that the first is most of it. Nothing reads a learned token here, so pruning scores
    # by all tokens and takes whom they attend to least, alike to others or not: either can be most of it.
    # That detail itself is mended, whoever leaves, is the next test's.
    most = 0.8 if method == "merge" else 1.0
    assert error(detailed, before) < most * error(grouped, before)
    assert error(detailed, before) < (0.5 if method == "drop" else 0.25)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "many-to-many"])
@pytest.mark.parametrize("seed", range(3))
def test_what_the_tokens_of_a_group_differ_by_is_mended_whoever_leaves(method: str, seed: int) -> None:
    encoder = Encoder(head="dense", patches=36, blocks=4, seed=seed)
    for name, weight in encoder.weights.items():  # patches of a kind stay alike, as in `Dense`
        weight *= 0.1 if name == "positions" else 0.3 if name.startswith(("o", "down")) else 1.0
    random = np.random.default_rng(seed)
    kinds = random.normal(size=(6, CHANNELS))[random.integers(0, 6, 36)]
    feeds = {"patches": (kinds + 0.1 * random.normal(size=kinds.shape))[None].astype(np.float32)}
    model = encoder.model()
    before = run(model, feeds)[0]
    METHODS[method](Schedule({0: 8, 2: 6}))(model)
    grouped = run(model, feeds)[0]
    RestoreTokens()(model)
    detailed = run(model, feeds)[0]
    _, group = np.unique(grouped.round(4), axis=0, return_inverse=True)
    assert group.max() + 1 == 37 - 14

    def own(values: np.ndarray) -> np.ndarray:
        """What each token has beside its group's mean."""
        return values - np.stack([values[group == each].mean(axis=0) for each in group.ravel()])

    # Without detail all of it is lost. With it, only what branches behind the reductions made of it is.
    assert np.linalg.norm(own(detailed) - own(before)) < 0.9 * np.linalg.norm(own(before))
    assert error(detailed, before) < error(grouped, before)


def test_detail_is_what_each_token_was(dense: Dense) -> None:
    """One merge, in torch: what the group's token gained since goes to each of its own."""
    model = dense.neutral.clone()
    MergeTokens(Schedule({1: 9}))(model)
    RestoreTokens()(model)
    seen = {}
    face = dense.module.face

    def reduce(x, k, weights, size, place):
        merged = merging(9, 1)(x, k, weights, size, place)
        # Which group each token went to: by the averages, since every token's own value is known.
        alike = torch.nn.functional.normalize(k.mean(1), dim=-1)
        a, b = torch.arange(1, x.shape[1], 2), torch.arange(2, x.shape[1], 2)
        best, partner = (alike[:, a] @ alike[:, b].transpose(1, 2)).max(-1)
        gone = best.argsort(dim=-1, descending=True, stable=True)[0, :9]
        target = torch.arange(x.shape[1])
        target[a[gone]] = b[partner[0, gone]]
        kept = torch.unique(target)
        seen.update(x=x, merged=merged[0], slot=torch.searchsorted(kept, target))
        return merged

    with torch.no_grad():
        _, layers = dense.module.reduced(dense.patches, {1: reduce})
        gained = [layer - seen["merged"] for layer in layers[1:]]
        whole = [layers[0], *(seen["x"] + gain[:, seen["slot"]] for gain in gained)]
        module = dense.module
        if face.head == "grid":
            expected = module.conv(module.as_grid(module.norm(whole[-1])))
        else:
            grids = (module.as_grid(module.norm(one)) for one in whole)
            expected = sum(tap(grid) for tap, grid in zip(module.taps, grids, strict=True))
    np.testing.assert_allclose(dense.run(model), expected.numpy(), rtol=1e-4, atol=1e-4)


def test_an_output_of_tokens_is_restored_under_its_name() -> None:
    encoder = Encoder(head="dense")
    model, feeds = encoder.model(), encoder.feeds()
    name, shape = model.graph.outputs[0].name, list(model.graph.outputs[0].shape)
    before = run(model, feeds)
    MergeTokens(Schedule({0: 4, 1: 3}))(model)
    assert len(np.unique(run(model, feeds)[0].round(4), axis=0)) == 11
    RestoreTokens()(model)
    assert (model.graph.outputs[0].name, list(model.graph.outputs[0].shape)) == (name, shape)
    after = run(model, feeds)
    assert after.shape == before.shape
    assert len(np.unique(after[0].round(4), axis=0)) == 18


def test_what_is_normed_behind_the_reduction_keeps_its_groups() -> None:
    encoder = Encoder(head="dense", post_norm=True)
    model, feeds = encoder.model(), encoder.feeds()
    MergeTokens(Schedule({0: 4}))(model)
    before = run(model, feeds)
    result = RestoreTokens()(model)
    assert not result.log.matches
    [miss] = result.log.misses
    assert "not added to since the reduction" in miss.reason
    np.testing.assert_array_equal(run(model, feeds), before)


def test_a_network_without_reductions_is_left_alone() -> None:
    model = Encoder(head="dense").model()
    assert not RestoreTokens()(model).modified


def test_by_name_in_a_pipeline() -> None:
    load_passes()
    with pytest.raises(RequestError, match=r"tokens\.restore must come after tokens\.merge"):
        Pipeline.named(["tokens.restore", "tokens.merge"])
    pipeline = Pipeline.named(["fuse.attention", "tokens.merge", "tokens.restore"])
    encoder = Encoder(head="dense", patches=40)
    model, feeds = encoder.model(), encoder.feeds()
    before = run(model, feeds)
    sites = len(find_sites(model))
    reports = {report.name: report for report in pipeline.run(model)}
    assert reports["tokens.merge"].matched == sites
    assert reports["tokens.restore"].matched == 1
    assert run(model, feeds).shape == before.shape
