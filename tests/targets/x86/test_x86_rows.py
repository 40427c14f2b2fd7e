"""Rows of zeros and the bias of sizes: exact in every form of encoder."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "passes" / "tokens"))
from encoders import CHANNELS, Encoder, run

from edgec.core.dialect import is_op
from edgec.passes.manager import Pipeline
from edgec.passes.tokens.merge import MergeTokens
from edgec.passes.tokens.schedule import Schedule
from edgec.targets.x86.size_bias import SizeBiasKernel
from edgec.targets.x86.whole_rows import WholeRows, ragged


def feeds_of(encoder: Encoder, seed: int = 1) -> dict[str, np.ndarray]:
    drawn = np.random.default_rng(seed)
    feeds = {"patches": drawn.normal(size=(1, encoder.patches, CHANNELS)).astype(np.float32)}
    if encoder.masked:
        real = encoder.patches - 3
        feeds["mask"] = (np.arange(encoder.patches) < real).astype(np.float32)[None]
    return feeds


def pad(model: ir.Model) -> int:
    [report] = Pipeline([WholeRows()]).run(model)
    return report.matched


def rows(model: ir.Model) -> set[int]:
    return {int(node.inputs[0].shape[1]) for node in model.graph if is_op(node, "MatMul")}


FORMS = {
    "class token": Encoder(patches=45),
    "all tokens come out": Encoder(patches=45, head="dense"),
    "mean of the patches": Encoder(patches=45, head="mean"),
    "no learned token": Encoder(patches=45, learned=0, head="dense"),
    "no positions, no learned token": Encoder(patches=45, learned=0, positions=False, head="dense"),
    "post-norm": Encoder(patches=46, post_norm=True),
    "layer scale and registers": Encoder(patches=45, learned=4, layer_scale=True, head="mean"),
    "padding mask": Encoder(patches=45, masked=True, learned=0),
}


@pytest.mark.parametrize("encoder", FORMS.values(), ids=FORMS)
def test_rows_of_zeros_change_nothing(encoder: Encoder) -> None:
    model, padded = encoder.model(), encoder.model()
    assert ragged(padded)
    assert pad(padded) >= 1
    products = [size for size in rows(padded) if size > 1]
    assert all(size % 4 == 0 for size in products)
    for seed in (1, 2):
        feeds = feeds_of(encoder, seed)
        # The same products row by row; only the order of a sum inside a product may differ.
        np.testing.assert_allclose(run(padded, feeds), run(model, feeds), rtol=1e-5, atol=1e-5)


def test_the_stream_is_padded_once_where_it_begins() -> None:
    padded = Encoder(patches=45).model()
    assert pad(padded) == 1
    # One puts the class token in front, one the rows behind.
    assert sum(is_op(node, "Concat") for node in padded.graph) == 2
    # Keys and values of three blocks are cut, nothing else.
    assert sum(is_op(node, "Slice") for node in padded.graph) == 6


def test_a_good_number_of_rows_is_left_alone() -> None:
    model = Encoder(patches=47).model()
    assert not ragged(model)
    assert pad(model) == 0


def test_few_rows_are_left_alone() -> None:
    # 18 tokens would grow by a ninth.
    assert not ragged(Encoder(patches=17).model())


def test_reduced_tokens_are_padded_level_by_level() -> None:
    encoder = Encoder(patches=60, head="dense")
    merged = encoder.model()
    MergeTokens(Schedule({0: 7, 1: 9}))(merged)
    padded = merged.clone()
    assert pad(padded) >= 2
    feeds = feeds_of(encoder)
    np.testing.assert_allclose(run(padded, feeds), run(merged, feeds), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_the_bias_of_sizes_is_one_op(masked: bool) -> None:
    encoder = Encoder(patches=30, learned=0 if masked else 1, masked=masked)
    merged = encoder.model()
    MergeTokens(Schedule({0: 5, 1: 6}))(merged)
    feeds = feeds_of(encoder)
    expected = run(merged, feeds)
    Pipeline.named(["decompose.attention"]).run(merged)
    [report] = Pipeline([SizeBiasKernel()]).run(merged)
    assert report.matched == 2
    biases = [node for node in merged.graph if node.op_type == "SizeBias"]
    assert len(biases) == 2
    assert not any(is_op(node, "Log") for node in merged.graph)
    np.testing.assert_allclose(run(merged, feeds), expected, rtol=1e-5, atol=1e-5)
