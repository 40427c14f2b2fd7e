"""Factors by place in front of a convolution, which OpenVINO folds into the weights."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "passes"))
from pass_graphs import build, check, draw, ops, reasons, run, weight

import edgec.targets.x86.factor_by_place

NAME = edgec.targets.x86.factor_by_place.FactorByPlace.name


def factored(shape, *, op="Div", first=False, batch=1, size=3):
    """A picture of the kernel's size under a factor, and a convolution."""
    pair = "c, x" if first else "x, c"
    return build(
        f"(float[{batch},2,{size},3] x) => (float[{batch},3,{size},3] y) {{ a = {op}({pair})\n"
        " y = Conv<pads=[1,1,1,1]>(a, w) }",
        c=np.random.default_rng(1).uniform(0.5, 2.0, shape).astype(np.float32),
        w=weight(3, 2, 3, 3),
    )


@pytest.mark.parametrize(
    ("shape", "op", "first"),
    [
        ((3, 3), "Div", False),
        ((1, 3), "Mul", False),
        ((3, 1), "Mul", True),
        ((1, 2, 3, 1), "Mul", False),
        ((2, 3, 3), "Div", False),
    ],
)
def test_what_openvino_computes_is_what_is_written(shape, op, first):
    openvino = pytest.importorskip("openvino")
    model = factored(shape, op=op, first=first)
    feeds = draw(model)
    wanted = run(model, feeds)["y"]
    assert check(model, NAME)[NAME].matched == 1
    core = openvino.Core()
    read = core.read_model(ir.to_proto(model).SerializeToString())
    found = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(feeds)[0]
    np.testing.assert_allclose(found, wanted, atol=1e-5 * wanted.std())


def test_an_open_batch():
    model = factored((3, 3), batch="N")
    assert check(model, NAME)[NAME].matched == 1
    assert ops(model)["Reshape"] == 2


@pytest.mark.parametrize("shape", [(), (1,), (2, 1, 1), (1, 2, 1, 1)])
def test_a_factor_by_channel_is_folded_as_ever(shape):
    model = factored(shape)
    assert check(model, NAME)[NAME].matched == 0
    assert ops(model)["Reshape"] == 0


def test_open_places_are_left_with_a_reason():
    assert "are open" in reasons(check(factored((1, 3), size="H"), NAME)[NAME])
