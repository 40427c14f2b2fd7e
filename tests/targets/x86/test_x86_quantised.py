"""Files that are quantised already: exact engines round where the file says."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from x86_graphs import graph_of

from edgec.runtime.engine import EngineDescription
from edgec.targets import target_named
from edgec.targets.x86.cpu import sums_in_16_bits
from edgec.targets.x86.quantize_ort import GIVEN

RNG = np.random.default_rng(0)
STEP = 0.023
"""Of the output's quantisation."""


def _graph(folder, bias_scale=0.0):
    """Two layers in int8 with zero points, as `quantize_static` writes them, and a bias of int32.

    A bias has the scale of the products that it is added to, which integer kernels take for granted; with
    another they compute something else.
    """
    text = """<ir_version: 10, opset_import: ["": 21]>
    q (float[4, 32] x) => (float[4, 8] y) {
        q0 = QuantizeLinear (x, s0, z0) d0 = DequantizeLinear (q0, s0, z0)
        w1d = DequantizeLinear <axis = 1> (w1, t1, u1) b1d = DequantizeLinear <axis = 0> (b1, tb, v1)
        g = Gemm (d0, w1d, b1d) r = Relu (g)
        q1 = QuantizeLinear (r, s1, z1) d1 = DequantizeLinear (q1, s1, z1)
        w2d = DequantizeLinear <axis = 1> (w2, t2, u2) h = MatMul (d1, w2d)
        q2 = QuantizeLinear (h, s2, z2) y = DequantizeLinear (q2, s2, z2)
    }"""
    constants = {
        "s0": np.float32(0.031), "z0": np.uint8(121), "s1": np.float32(0.017), "z1": np.uint8(0),
        "s2": np.float32(STEP), "z2": np.uint8(130),
        "w1": RNG.integers(-127, 128, (32, 32)).astype(np.int8), "u1": np.zeros(32, np.int8),
        "t1": RNG.uniform(1e-3, 2e-3, 32).astype(np.float32),
        "b1": RNG.integers(-9999, 9999, 32).astype(np.int32), "v1": np.zeros(32, np.int32),
        "w2": RNG.integers(-127, 128, (32, 8)).astype(np.int8), "u2": np.zeros(8, np.int8),
        "t2": RNG.uniform(1e-3, 2e-3, 8).astype(np.float32),
    }  # fmt: skip
    constants["tb"] = np.full(32, bias_scale, np.float32) if bias_scale else constants["s0"] * constants["t1"]
    proto = onnx.parser.parse_model(text)
    for name, array in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    for node in proto.graph.node:
        node.name = node.output[0]
    proto = onnx.shape_inference.infer_shapes(proto)
    onnx.save(proto, folder / "q.onnx")
    feeds = [{"x": RNG.standard_normal((4, 32)).astype(np.float32)} for _ in range(20)]
    return graph_of(proto, feeds, exported=str(folder / "q.onnx"))


@pytest.mark.parametrize("engine", ["ort", "openvino"])
def test_every_exact_engine_computes_what_the_file_says(engine, tmp_path):
    """A step of the output's quantisation taken elsewhere shows as one."""
    graph = _graph(tmp_path, bias_scale=1e-3)
    x86 = target_named(f"x86:{engine}")
    candidates = x86.candidates(graph, "fp32")
    assert candidates
    for place, candidate in enumerate(candidates):
        folder = tmp_path / str(place)
        folder.mkdir()
        x86.build(x86.lower(graph, candidate), candidate, folder)
        opened = x86.open(folder)
        off = [
            np.abs(opened.run(feed)["y"] - reference["y"])
            for feed, reference in zip(graph.examples, graph.references, strict=True)
        ]
        # Sums in another order may take a value that lies on the edge of a step to its other side.
        assert np.mean(np.concatenate(off) > 1e-4) < 0.005, candidate.name
        opened.close()


def test_onnx_runtime_is_told_by_the_engines_own_description(tmp_path):
    graph = _graph(tmp_path)
    x86 = target_named("x86:ort")
    for place, candidate in enumerate(x86.candidates(graph, "fp32")):
        folder = tmp_path / str(place)
        folder.mkdir()
        x86.build(x86.lower(graph, candidate), candidate, folder)
        assert EngineDescription.read(folder).settings == {"session.disable_quant_qdq": "1"}


@pytest.mark.parametrize("by_pairs", [True, False])
def test_within_a_budget_its_integer_kernels_are_offered_where_they_do_not_saturate(
    by_pairs, tmp_path, monkeypatch
):
    monkeypatch.setattr("edgec.targets.x86.target.sums_in_16_bits", lambda: by_pairs)
    graph = dataclasses.replace(_graph(tmp_path), calibration=(_graph(tmp_path).examples[0],))
    offers = [
        offer for offer in target_named("x86").lossy_candidates(graph, "auto") if offer.candidate.is_lossy
    ]
    # Nothing is quantised again.
    assert {(one.candidate.engine, one.candidate.scheme) for one in offers} == {("ort", GIVEN)}
    assert all(("saturate" in offer.refused) is by_pairs for offer in offers)
    candidate = offers[0].candidate
    folder = tmp_path / "int8"
    folder.mkdir()
    x86 = target_named("x86")
    x86.build(x86.lower(graph, candidate), candidate, folder)
    assert EngineDescription.read(folder).settings == {}
    engine = x86.open(folder)
    if not sums_in_16_bits():
        for feed, reference in zip(graph.examples, graph.references, strict=True):
            assert np.abs(engine.run(feed)["y"] - reference["y"]).max() < 5 * STEP
    engine.close()
