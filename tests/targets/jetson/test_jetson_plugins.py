"""Ops that TensorRT plugins run: what stays in the graph, in which types, and what ships with it."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from jetson_graphs import drawn, model

import edgec
from edgec.core.bundle import file_sha256
from edgec.core.dialect import EDGEC_DOMAIN
from edgec.core.evaluation import Evaluator
from edgec.passes.canonicalize.shapes import Shapes
from edgec.passes.manager import Pipeline
from edgec.passes.precision.half import FULL, HALF
from edgec.plugins.bindings import tensorrt
from edgec.plugins.infra import plugins
from edgec.targets.jetson.bodies import with_bodies
from edgec.targets.jetson.engine import runnable
from edgec.targets.jetson.lowering import lower
from edgec.targets.jetson.plan import Plan
from edgec.targets.jetson.precise import kept_nodes, write_half
from edgec.targets.jetson.versions import dialects

ALL = frozenset(tensorrt.libraries())
REDUCING = """tokens (float[1, 8, 4] x, float[1, 1, 8, 4] m, float[1, 8, 1] s, float[1, 8] i)
    => (float[1, 5, 4] y) {
    d = Mul (x, x)
    a, t, p = ai.edgec.TokenMerge <r = 2, protected = 0> (d, m, s)
    b = Tanh (a)
    y, u, q = ai.edgec.TokenPrune <r = 1, protected = 0> (b, j, n, t)
    j = Slice (i, zero, six, one)
    n = Slice (m, zero, six, two)
}"""
CONSTANTS = {name: np.asarray([value]) for name, value in (("zero", 0), ("one", 1), ("two", 2), ("six", 6))}


def built(text: str, constants: dict[str, np.ndarray] | None = None) -> ir.Model:
    made = model(text, constants)
    made.graph.sort()
    Pipeline([Shapes()]).run(made)
    return made


def reducing() -> ir.Model:
    return built(REDUCING, CONSTANTS)


def reducing_feed(seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    shapes = {"x": (1, 8, 4), "m": (1, 1, 8, 4), "i": (1, 8)}
    feed = {name: drawn(*shape, seed=seed) for name, shape in shapes.items()}
    return {**feed, "x": scale * feed["x"], "s": np.ones((1, 8, 1), np.float32)}


def attention(tokens: str | int = 12, depth: int = 8) -> ir.Model:
    shape = f"float[{tokens}, 2, {depth}]"
    return built(f"""attention ({shape} q, {shape} k, {shape} v, int32[3] c) => ({shape} y) {{
        d = Mul (q, k)
        y = ai.edgec.VarlenAttention <scale = 0.25, max_length = 8> (d, k, v, c)
    }}""")


def attention_feed(seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    feed = {name: drawn(12, 2, 8, seed=seed + place) for place, name in enumerate("qkv")}
    return {**feed, "v": scale * feed["v"], "c": np.asarray([0, 5, 12], np.int32)}


def calls(found: ir.Model) -> list[ir.Node]:
    return [node for node in found.graph if node.domain == EDGEC_DOMAIN]


def dtypes(values) -> list[ir.DataType | None]:
    return [value.dtype for value in values]


@pytest.mark.parametrize("version", dialects())
def test_a_node_says_what_the_parser_finds_its_plugin_by(version: str) -> None:
    for node in calls(lower(reducing(), dialects()[version], native_attention=True, keep=ALL)):
        assert node.attributes["plugin_namespace"].as_string() == tensorrt.NAMESPACE
        assert node.attributes["plugin_version"].as_string() == tensorrt.VERSION


@pytest.mark.parametrize("version", dialects())
def test_sizes_and_scores_stay_fp32(version: str) -> None:
    found = lower(reducing(), dialects()[version], native_attention=True, keep=ALL)
    feeds = [reducing_feed(seed) for seed in range(3)]
    exact = with_bodies(found)
    write_half(found, feeds, 87)
    merge, prune = calls(found)
    assert dtypes(merge.inputs) == [HALF, HALF, FULL]
    assert dtypes(merge.outputs) == [HALF, FULL, ir.DataType.INT32]
    assert dtypes(prune.inputs) == [HALF, FULL, HALF, FULL]
    assert dtypes(prune.outputs)[0] == HALF
    # What the check on this machine runs: the definition, its results rounded to fp16 as the kernel's are.
    with Evaluator(exact) as one, Evaluator(runnable(found)) as other:
        for feed in feeds:
            assert np.abs(one.run(feed)["y"] - other.run(feed)["y"]).max() < 2e-3


def test_what_leaves_fp16s_range_is_merged_in_fp32() -> None:
    found = lower(reducing(), dialects()["10.3"], native_attention=True, keep=ALL)
    feeds = [reducing_feed(seed, scale=500.0) for seed in range(2)]
    write_half(found, feeds, 87)
    merge, prune = calls(found)
    assert dtypes(merge.inputs) == [FULL, FULL, FULL]
    assert merge.outputs[0].dtype == FULL
    assert "reaches" in kept_nodes(found)[merge.name or ""]
    assert prune.inputs[0].dtype == HALF  # behind the Tanh


def test_attention_is_a_plugin_in_fp16_and_a_body_elsewhere() -> None:
    assert "VarlenAttention" in tensorrt.kernels_for(87, half=True)
    assert "VarlenAttention" not in tensorrt.kernels_for(87, half=False)
    assert "VarlenAttention" not in tensorrt.kernels_for(72, half=True)
    assert "TokenMerge" in tensorrt.kernels_for(72, half=False)
    found = lower(
        attention(), dialects()["8.5"], native_attention=True, keep=tensorrt.kernels_for(87, half=True)
    )
    feeds = [attention_feed(seed) for seed in range(2)]
    exact = with_bodies(found)
    write_half(found, feeds, 87)
    (node,) = calls(found)
    assert dtypes(node.inputs) == [HALF, HALF, HALF, ir.DataType.INT32]
    assert node.attributes["max_length"].as_int() == 8
    with Evaluator(exact) as one, Evaluator(runnable(found)) as other:
        for feed in feeds:
            assert np.abs(one.run(feed)["y"] - other.run(feed)["y"]).max() < 1e-2


def test_attention_over_values_that_fp16_has_not_is_written_out() -> None:
    found = lower(attention(), dialects()["10.3"], native_attention=True, keep=ALL)
    feeds = [attention_feed(seed, scale=1e5) for seed in range(2)]
    exact = with_bodies(found)
    write_half(found, feeds, 87)
    assert calls(found) == []
    with Evaluator(exact) as one, Evaluator(runnable(found)) as other:
        expected, got = one.run(feeds[0])["y"], other.run(feeds[0])["y"]
    assert np.abs(got - expected).max() < 1e-2 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("text", "stay"),
    [
        ("float[1, 2304, 4] x, float[1, 1, 2304, 4] m, float[1, 2304, 1] s", 1),
        ("float[1, 2305, 4] x, float[1, 1, 2305, 4] m, float[1, 2305, 1] s", 0),
        ("float[1, N, 4] x, float[1, 1, N, 4] m, float[1, N, 1] s", 0),
        ("float[B, 8, 4] x, float[B, 1, 8, 4] m, float[B, 8, 1] s", 1),
    ],
)
def test_a_node_that_the_kernel_does_not_take_becomes_its_body(text: str, stay: int) -> None:
    whole = f"""tokens ({text}) => (float[A, M, C] y) {{
        y, t, p = ai.edgec.TokenMerge <r = 2, protected = 0> (x, m, s)
    }}"""
    found = lower(built(whole), dialects()["10.3"], native_attention=True, keep=ALL)
    assert len(calls(found)) == stay


def test_nodes_of_one_type_stay_or_go_one_by_one() -> None:
    text = """tokens (float[1, 2400, 4] x, float[1, 1, 2400, 4] m, float[1, 2400, 1] s)
        => (float[1, 1198, 4] y) {
        a, t, p = ai.edgec.TokenMerge <r = 1200, protected = 0> (x, m, s)
        n = Slice (m, zero, half, two)
        y, u, q = ai.edgec.TokenMerge <r = 2, protected = 0> (a, n, t)
    }"""
    constants = {"zero": np.asarray([0]), "half": np.asarray([1200]), "two": np.asarray([2])}
    found = lower(built(text, constants), dialects()["10.3"], native_attention=True, keep=ALL)
    assert [node.name for node in calls(found)] == ["node_y"]


@pytest.mark.parametrize(("depth", "stay"), [(8, 1), (12, 0), (128, 1), (136, 0)])
def test_head_sizes_of_the_attention_kernel(depth: int, stay: int) -> None:
    assert (
        len(calls(lower(attention("N", depth), dialects()["10.3"], native_attention=True, keep=ALL))) == stay
    )


@pytest.fixture
def file(tmp_path):
    """A model file whose ops of edgec have their definitions with them, as ONNX Runtime needs."""
    text = """tokens (float[1, 8, 4] x, float[1, 1, 8, 4] m, float[6, 2, 8] q)
        => (float[1, 6, 4] y, float[6, 2, 8] z) {
        d = Mul (x, x)
        y, t, p = ai.edgec.TokenMerge <r = 2, protected = 1> (d, m, s)
        k = Tanh (q)
        z = ai.edgec.VarlenAttention (q, k, k, c)
    }"""
    constants = {"s": np.ones((1, 8, 1), np.float32), "c": np.asarray([0, 2, 6], np.int32)}
    proto = ir.to_proto(built(text, constants))
    for op_type in ("TokenMerge", "VarlenAttention"):
        proto.functions.append(ir.to_proto(plugins()[op_type].function()))
    path = tmp_path / "tokens.onnx"
    onnx.save(proto, path)
    return path


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
@pytest.mark.parametrize(
    ("target", "used"),
    [
        ("jetson", ("TokenMerge", "VarlenAttention")),
        pytest.param("jetson:xavier-nx-8gb", ("TokenMerge",), marks=pytest.mark.full),
    ],
)
def test_a_bundle_ships_what_its_plugins_are_compiled_from(file, tmp_path, target, used) -> None:
    bundle = edgec.compile(str(file), target=target, output=tmp_path / "b.edgec")
    plan = Plan.read(bundle.engine_folder)
    assert {plugin.op: plugin.library for plugin in plan.plugins} == {
        op: tensorrt.libraries()[op] for op in used
    }
    shipped = onnx.load(bundle.engine_folder / "model.onnx")
    assert [node.op_type for node in shipped.graph.node if node.domain == EDGEC_DOMAIN] == list(used)
    record = json.loads((bundle.engine_folder / "preview.json").read_text())["plugins"]
    assert record["nodes"] == dict.fromkeys(used, 1)
    assert "function bodies" in record["previewed_as"]
    folder = bundle.path / "plugins"
    names = {path.name for path in folder.iterdir()}
    assert {"CMakeLists.txt", "plugin_v2.cpp", "plugin_v3.cpp", "token_reduction.cu", "kernel.h"} <= names
    # What a Xavier cannot run is not compiled for it.
    assert ("varlen_attention.cu" in names) == ("VarlenAttention" in used)
    recorded = json.loads((bundle.path / "manifest.json").read_text())["files"]
    assert {name: recorded[f"plugins/{name}"] for name in names} == {
        name: file_sha256(folder / name) for name in names
    }
