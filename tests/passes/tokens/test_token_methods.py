"""Reduced graphs of exported modules against the methods themselves in torch, on the same module."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))
from encoders import run  # noqa: E402
from vision import Face, Vision, merging, pruning, published  # noqa: E402

from edgec.frontends.torch import from_module  # noqa: E402
from edgec.passes.editing import Editor  # noqa: E402
from edgec.passes.infra import MatchLog  # noqa: E402
from edgec.passes.pipeline import default_pipeline  # noqa: E402
from edgec.passes.tokens.merge import MergeTokens  # noqa: E402
from edgec.passes.tokens.prune import PruneTokens  # noqa: E402
from edgec.passes.tokens.reduce import Sweep  # noqa: E402
from edgec.passes.tokens.schedule import Schedule  # noqa: E402
from edgec.passes.tokens.sites import find_sites  # noqa: E402

FACES = {
    "separate": Face(packed=False),
    "distilled": Face(learned=2, scaled=True),
    "registers": Face(learned=5),
    "no class token": Face(learned=0, head="mean"),
    "mean over patches": Face(head="mean"),
    "post-norm": Face(norm="post", packed=False),
    "post-norm, mean": Face(norm="post", learned=0, head="mean"),
    "parallel": Face(norm="parallel", scaled=True),
    "rotary": Face(rotary=True),
    "rotary, mean": Face(rotary=True, learned=0, head="mean", scaled=True),
}
# float32 on both sides, three blocks of sums of up to 48 terms.
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


class Made:
    """A module, its neutral graph, and drawn patches."""

    def __init__(self, face: Face) -> None:
        torch.manual_seed(0)
        self.module = Vision(face).eval()
        self.face = face
        self.patches = torch.randn(2, face.patches, 24)
        graph = from_module(self.module, {"patches": self.patches}, spec="vision", name="vision", samples=1)
        default_pipeline().run(graph.model)
        self.neutral = graph.model

    def graph(self) -> ir.Model:
        return self.neutral.clone()

    def run(self, model: ir.Model) -> np.ndarray:
        return run(model, {"patches": self.patches.numpy()})

    def in_torch(self, reductions: dict) -> np.ndarray:
        with torch.no_grad():
            return self.module.reduced(self.patches, reductions)[0].numpy()


@pytest.fixture(scope="module", params=FACES, ids=str)
def made(request: pytest.FixtureRequest) -> Made:
    return Made(FACES[request.param])


def test_every_block_is_found(made: Made) -> None:
    sites = find_sites(made.graph())
    # Behind a class token's last attention nothing is left to reduce.
    assert len(sites) >= made.face.depth - 1
    assert {site.protected for site in sites} == {made.face.learned}


def test_r_of_zero_changes_nothing(made: Made) -> None:
    before = made.run(made.graph())
    for step in (
        MergeTokens(),
        MergeTokens(matching="energy"),
        MergeTokens(matching="many-to-many"),
        PruneTokens(),
    ):
        model = made.graph()
        sites = find_sites(model)
        log = MatchLog()
        Sweep(Editor(model, step.name), [(site, 0) for site in sites], step._insert).run(log)
        assert len(log.matches) == len(sites)
        np.testing.assert_allclose(made.run(model), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rates", [{0: 5}, {0: 3, 1: 2}], ids=str)
def test_merging_is_tome(made: Made, rates: dict[int, int]) -> None:
    model = made.graph()
    MergeTokens(Schedule(rates))(model)
    expected = made.in_torch({layer: merging(r, made.face.learned) for layer, r in rates.items()})
    np.testing.assert_allclose(made.run(model), expected, **CLOSE)


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("rates", [{0: 9}, {0: 4, 1: 5}], ids=str)
def test_pruning_by_attention(made: Made, rates: dict[int, int], merge: bool) -> None:
    if not merge and made.face.head == "mean":
        pytest.skip("a mean weighs what is restored, and dropped tokens are")
    model = made.graph()
    PruneTokens(Schedule(rates), merge=merge)(model)
    heard = made.face.head == "class"
    expected = made.in_torch(
        {layer: pruning(r, made.face.learned, merge=merge, heard=heard) for layer, r in rates.items()}
    )
    np.testing.assert_allclose(made.run(model), expected, **CLOSE)


@pytest.mark.parametrize("norm", ["pre", "post", "parallel"])
def test_merging_once_is_tome_as_published(norm: str) -> None:
    """Without protected tokens one merge is the published code's, its order of the tokens aside."""
    made = Made(Face(norm=norm, learned=0, head="mean"))
    model = made.graph()
    MergeTokens(Schedule({0: 6}))(model)
    np.testing.assert_allclose(made.run(model), made.in_torch({0: published(6)}), **CLOSE)
