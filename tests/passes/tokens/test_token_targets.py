"""Reduced encoders with the ops written out, as targets without kernels of edgec's own take them."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))
from encoders import run  # noqa: E402
from vision import Face, Vision  # noqa: E402

from edgec.core.graph import Graph  # noqa: E402
from edgec.frontends.torch import from_module  # noqa: E402
from edgec.passes.pipeline import default_pipeline  # noqa: E402
from edgec.passes.tokens.merge import MergeTokens  # noqa: E402
from edgec.passes.tokens.prune import PruneTokens  # noqa: E402
from edgec.passes.tokens.restore import RestoreTokens  # noqa: E402
from edgec.passes.tokens.schedule import Schedule  # noqa: E402

METHODS = {
    "merge": MergeTokens,
    "energy": lambda schedule: MergeTokens(schedule, matching="energy"),
    "many-to-many": lambda schedule: MergeTokens(schedule, matching="many-to-many"),
    "prune": PruneTokens,
    "drop": lambda schedule: PruneTokens(schedule, merge=False),
}
FACES = {
    "class": Face(depth=2),
    "rotary": Face(depth=2, rotary=True, learned=0, head="mean"),
    "grid": Face(depth=2, learned=0, head="grid"),
}


@functools.cache
def traced(face: str) -> Graph:
    torch.manual_seed(0)
    module, patches = Vision(FACES[face]).eval(), torch.randn(1, 16, 24)
    graph = from_module(module, {"patches": patches}, spec=face, name=face, samples=1)
    default_pipeline().run(graph.model)
    return graph


def reduced(face: str, method: str) -> Graph:
    """Reduced twice; its references are what ONNX Runtime makes of it."""
    graph = traced(face).clone()
    METHODS[method](Schedule({0: 5}))(graph.model)
    RestoreTokens()(graph.model)
    name = graph.model.graph.outputs[0].name or ""
    graph.references[:] = [{name: run(graph.model, feeds)} for feeds in graph.examples]
    return graph


def whichever(precision: str) -> list:
    """Every method on a class token; the other heads once."""
    pairs = [("class", method) for method in METHODS] + [("rotary", "prune"), ("grid", "merge")]
    return [pytest.param(*pair, precision, id="-".join((*pair, precision))) for pair in pairs]


@pytest.mark.parametrize(
    ("face", "method", "precision"),
    [*whichever("fp32"), *(pytest.param(*each.values, marks=pytest.mark.full) for each in whichever("fp16"))],
)
def test_tensorrt_builds_an_engine(face: str, method: str, precision: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install tensorrt-rtx")
    from edgec.targets.rtx.target import Rtx

    target, graph = Rtx("sm86"), reduced(face, method)
    [candidate] = target.candidates(graph, precision)
    target.build(target.lower(graph, candidate), candidate, tmp_path)
    assert (tmp_path / "model.engine").stat().st_size > 10_000


@pytest.mark.parametrize(("face", "method", "precision"), whichever("fp32"))
def test_a_core_ml_package_computes_the_same(face: str, method: str, precision: str, tmp_path: Path) -> None:
    pytest.importorskip("coremltools", reason="coremltools is not installed")
    from edgec.targets.coreml.target import CoreML

    target, graph = CoreML("ios18"), reduced(face, method)
    candidate = target.candidates(graph, precision)[0]
    target.build(target.lower(graph, candidate), candidate, tmp_path)
    engine = target.open(tmp_path)
    for feeds, expected in zip(graph.examples, graph.references, strict=True):
        found = engine.run(feeds)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=2e-5)
