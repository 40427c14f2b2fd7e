"""Lowering by TensorRT version: the same numbers, only ops that the parser knows, attention as it fuses."""

from __future__ import annotations

import importlib
import importlib.util
import types

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from jetson_graphs import block, drawn, graph, model

from edgec.core.dialect import is_op
from edgec.core.errors import UnsupportedError
from edgec.core.evaluation import Evaluator
from edgec.core.numerics import compare
from edgec.targets.jetson import writing
from edgec.targets.jetson.engine import runnable
from edgec.targets.jetson.lowering import lower
from edgec.targets.jetson.precise import write_half
from edgec.targets.jetson.sites import attention_sites
from edgec.targets.jetson.versions import dialect, dialects

VERSIONS = list(dialects())


def lowered_difference(given, version, **options):
    """The lowered fp32 graph against the neutral one, and the lowered model."""
    found = lower(given.model, dialects()[version], native_attention=False, **options)
    onnx.checker.check_model(ir.to_proto(found), full_check=True)
    with Evaluator(found) as evaluator:
        return compare(given.references, [evaluator.run(feed) for feed in given.examples]), found


def ops(found):
    return {node.op_type for node in found.graph}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mask", [False, True])
def test_every_version_computes_the_same(version, mask):
    difference, found = lowered_difference(block(mask=mask), version)
    # Reordered sums in fp32; a wrong scale or epsilon is a thousand times this.
    assert difference.scaled < 1e-5
    assert found.opset_imports[""] == dialects()[version].opset
    assert ops(found) <= dialects()[version].ops
    assert len(attention_sites(found, 87)) == 1


def test_attention_stays_whole_only_where_it_is_known_and_will_be_half():
    given = block().model
    assert not any(
        "Attention" in ops(lower(given, one, native_attention=False)) for one in dialects().values()
    )
    native = [
        name
        for name, one in dialects().items()
        if "Attention" in ops(lower(given, one, native_attention=True))
    ]
    assert native == ["10.16", "11.0"]


def test_the_scale_is_in_front_of_the_first_product():
    found = lower(block().model, dialects()["10.3"], native_attention=False)
    softmax = next(node for node in found.graph if is_op(node, "Softmax"))
    assert softmax.inputs[0].producer().op_type == "MatMul"
    [reader] = [use.node for use in softmax.outputs[0].uses()]
    assert reader.op_type == "MatMul"


@pytest.mark.parametrize(
    ("size", "obstacle"), [(16, ""), (8, "not within"), (20, "multiple"), (512, "not within")]
)
def test_head_sizes_without_a_kernel_are_named(size, obstacle):
    kind = f"float[1, 2, 6, {size}]"
    text = f"attend ({kind} q, {kind} k, {kind} v) => ({kind} y) {{ y = Attention (q, k, v) }}"
    for version in ("10.3", "11.0"):
        found = lower(model(text), dialects()[version], native_attention=True)
        [site] = attention_sites(found, 87)
        assert obstacle in site.obstacle
        assert site.kind == ("native" if version == "11.0" and not obstacle else "pattern")
    assert (
        "7.2" in attention_sites(lower(model(text), dialects()["8.5"], native_attention=True), 72)[0].obstacle
    )


@pytest.mark.parametrize(
    "text",
    [
        "one (float[1, 2, 1, 32] q, float[1, 2, 6, 32] k) => (float[1, 2, 1, 32] y) "
        "{ y = Attention (q, k, k) }",
        "head (float[1, 1, 6, 32] q, float[1, 1, 6, 32] k) => (float[1, 1, 6, 32] y) "
        "{ y = Attention (q, k, k) }",
        "flat (float[1, 6, 32] q, float[1, 6, 32] k) => (float[1, 6, 32] y) "
        "{ y = Attention <q_num_heads = 1, kv_num_heads = 1> (q, k, k) }",
        "same (float[1, 2, 6, 32] q) => (float[1, 2, 6, 32] y) { y = Attention (q, q, q) }",
        "wide (float[1, 2, 6, 32] q, float[1, 2, 6, 64] v) => (float[1, 2, 6, 64] y) "
        "{ k = Neg (q) y = Attention (q, k, v) }",
        "cap (float[1, 2, 6, 32] q) => (float[1, 2, 6, 32] y) "
        "{ k = Neg (q) y = Attention <softcap = 2.0> (q, k, k) }",
    ],
)
def test_attentions_that_the_builder_refuses_are_decomposed(text):
    found = lower(model(text), dialects()["11.0"], native_attention=True)
    assert "Attention" not in ops(found)
    assert len(attention_sites(found, 87)) >= 1 or "Tanh" in ops(found)


OLD = {
    "reductions": "r (float[2, 3, 4] x) => (float[2, 1, 1] y, float[2, 3] z) "
    "{ a = Constant <value_ints = [1, -1]> () y = ReduceL2 (x, a) b = Constant <value_ints = [2]> () "
    "z = ReduceMean <keepdims = 0> (x, b) }",
    "split": "s (float[2, 7] x) => (float[2, 3] y, float[2, 3] z, float[2, 1] w) "
    "{ y, z, w = Split <axis = 1, num_outputs = 3> (x) }",
    "pad": "p (float[2, 3] x) => (float[2, 6] y) { n = Constant <value_ints = [1, 2]> () "
    "v = Constant <value_float = 0.5> () a = Constant <value_ints = [-1]> () y = Pad (x, n, v, a) }",
    "resize": "z (float[1, 2, 4, 4] x) => (float[1, 2, 8, 6] y) { "
    'n = Constant <value_ints = [8, 6]> () y = Resize <axes = [2, 3], mode = "linear"> (x, , , n) }',
    "grid": "g (float[1, 2, 4, 4] x, float[1, 3, 3, 2] h) => (float[1, 2, 3, 3] y) "
    '{ y = GridSample <mode = "linear"> (x, h) }',
    "any": "a (float[2, 5] x) => (bool[2, 1] y) { zero = Constant <value_float = 1.5> () "
    "m = Greater (x, zero) n = Constant <value_ints = [1]> () y = ReduceMax (m, n) }",
    "mish": "m (float[2, 5] x) => (float[2, 5] y) { y = Mish (x) }",
    "gelu tanh": 't (float[2, 5] x) => (float[2, 5] y) { y = Gelu <approximate = "tanh"> (x) }',
    "swish parts": "w (float[2, 5] x) => (float[2, 5] y) { y = HardSwish (x) }",
    "group norm": "n (float[2, 6, 4] x) => (float[2, 6, 4] y) { "
    "s = Constant <value_floats = [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]> () "
    "b = Constant <value_floats = [0.0, 0.5, 1.0, 0.0, 0.5, 1.0]> () "
    "y = GroupNormalization <num_groups = 3> (x, s, b) }",
    "rms norm": "n (float[2, 6] x) => (float[2, 6] y) { "
    "s = Constant <value_floats = [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]> () "
    "y = RMSNormalization (x, s) }",
    "integers": "i (float[2, 6] x) => (int64[2] y, int64[2] z) { n = Cast <to = 7> (x) "
    "y = ArgMax <axis = 1, keepdims = 0> (n) a = Constant <value_ints = [1]> () "
    "z = ReduceSum <keepdims = 0> (n, a) }",
    "float64 inside": "d (float[2, 6] x) => (float[2, 6] y) "
    "{ w = Cast <to = 11> (x) e = Exp (w) y = Cast <to = 1> (e) }",
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", list(OLD))
def test_newer_forms_are_written_in_older_ones(name, version):
    built = model(OLD[name])
    shapes = {value.name: tuple(value.shape) for value in built.graph.inputs}
    feeds = [{key: drawn(*shape, seed=seed) for key, shape in shapes.items()} for seed in (1, 2)]
    difference, found = lowered_difference(graph(built, *feeds), version)
    assert difference.scaled < 1e-5
    assert ops(found) <= dialects()[version].ops


def test_everything_without_a_form_is_listed_with_its_layer():
    text = """bad (float[3, 3] x, int64[3, 3] i, double[2] d) => (float[3, 3] y, float z, double[2] e) {
        y = ScatterElements <reduction = "mul"> (x, i, x)
        z = Det (x)
        e = Identity (d)
    }"""
    with pytest.raises(UnsupportedError) as caught:
        lower(model(text), dialects()["10.3"], native_attention=True)
    said = "\n".join(caught.value.reasons)
    assert "scatter" in said
    assert "layers.y" in said
    assert "Det 'node_z' (layer layers.z): the parser does not know the op" in said
    assert "input 'd' is double" in said


def test_an_op_of_edgec_without_a_plugin_becomes_its_body():
    text = """tokens (float[1, 8, 4] x, float[1, 1, 8, 4] m, float[1, 8, 1] s) => (float[1, 6, 4] y) {
        y, t, a = ai.edgec.TokenMerge <r = 2, protected = 0> (x, m, s)
    }"""
    built = model(text)
    assert "TokenMerge" not in ops(lower(built, dialects()["10.3"], native_attention=True))
    kept = lower(built, dialects()["10.3"], native_attention=True, keep=frozenset({"TokenMerge"}))
    assert ops(kept) == {"TokenMerge"}


def test_a_version_takes_the_newest_dialect_that_is_not_newer():
    assert dialect("8.5.2").version == "8.5"
    assert dialect("10.9").version == "10.3"
    assert dialect("12.0").version == "11.0"
    with pytest.raises(ValueError, match="older"):
        dialect("7.2")


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
def test_the_newest_dialect_has_only_ops_that_the_parser_knows():
    import tensorrt_rtx as rtx

    logger = rtx.Logger(rtx.Logger.ERROR)
    network = rtx.Builder(logger).create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = rtx.OnnxParser(network, logger)
    # DeformConv is a plugin there, and TensorRT-RTX has none.
    assert {op for op in dialects()["11.0"].ops if not parser.supports_operator(op)} == {"DeformConv"}


def test_the_graph_that_is_lowered_stays_as_it_is():
    given = block()
    before = ir.to_proto(given.model).SerializeToString(deterministic=True)
    for one in dialects().values():
        lower(given.model, one, native_attention=True)
    assert ir.to_proto(given.model).SerializeToString(deterministic=True) == before
    assert np.isfinite(given.references[0]["y"]).all()


@pytest.mark.parametrize("version", ["8.5", "10.3", "11.0"])
def test_an_op_that_a_plugin_runs_is_judged_by_its_body(version):
    text = """tokens (float[1, 8, 4] x, float[1, 1, 8, 4] m, float[1, 8, 1] s) => (float[1, 6, 4] y) {
        d = Mul (x, x)
        z, t, a = ai.edgec.TokenMerge <r = 2, protected = 0> (d, m, s)
        y = Tanh (z)
    }"""
    feeds = [
        {
            "x": drawn(1, 8, 4, seed=seed),
            "m": drawn(1, 1, 8, 4, seed=seed),
            "s": np.ones((1, 8, 1), np.float32),
        }
        for seed in range(2)
    ]
    exact = lower(model(text), dialects()["11.0"], native_attention=False)
    kept = lower(model(text), dialects()[version], native_attention=True, keep=frozenset({"TokenMerge"}))
    write_half(kept, feeds, 87)
    assert "TokenMerge" in ops(kept)
    with Evaluator(exact) as one, Evaluator(runnable(kept)) as other:
        for feed in feeds:
            assert np.abs(one.run(feed)["y"] - other.run(feed)["y"]).max() < 2e-3


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("corners", ["", "<align_corners = 0>", "<align_corners = 1>"])
@pytest.mark.parametrize("sides", [(3, 4), (2, 3, 4)])
def test_the_places_of_an_affine_grid_are_a_product(version, corners, sides):
    n = len(sides)
    shape = ", ".join(map(str, (2, *sides, n)))
    text = f"a (float[2, {n}, {n + 1}] t) => (float[{shape}] y) {{ y = AffineGrid {corners} (t, size) }}"
    built = model(text, {"size": np.asarray([2, 5, *sides])})
    difference, found = lowered_difference(graph(built, {"t": drawn(2, n, n + 1)}), version)
    assert difference.scaled < 1e-5
    assert ops(found) <= dialects()[version].ops
    assert {node.metadata_props["edgec.source"] for node in found.graph} == {"layers.y"}


def test_a_node_is_refused_once_and_a_definition_with_branches_is_not_written_out():
    text = """r (float[1, 4, 4] c, float[1, 2, 3] t, int64[4] size)
        => (float[1, 1, 4, 4] y, float[1, 3, 3, 2] g) {
        y = Col2Im (c, im, bl) g = AffineGrid (t, size)
    }"""
    constants = {"im": np.asarray([4, 4]), "bl": np.asarray([2, 2])}
    with pytest.raises(UnsupportedError) as refused:
        lower(model(text, constants), dialects()["8.5"], native_attention=False)
    assert [reason.partition(" (layer ")[0] for reason in refused.value.reasons] == [
        "Col2Im 'node_y'",
        "AffineGrid 'node_g'",
    ]


def test_indices_of_a_pooling_are_refused_where_they_are_told_by_columns():
    text = "p (float[1, 2, 4, 4] x) => (int64[1, 2, 2, 2] i) "
    text += "{ y, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2], storage_order = 1> (x) }"
    with pytest.raises(UnsupportedError, match="its indices are read, and its places are told by columns"):
        lower(model(text), dialects()["10.3"], native_attention=False)


def test_defaults_that_shape_inference_looks_for_are_written_out(caplog):
    """MeanVarianceNormalization's axes: onnx infers no shape of the whole graph without them."""
    built = model("n (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) { y = MeanVarianceNormalization (x) }")
    lowered = lower(built, dialects()["10.3"], native_attention=False)
    assert not caplog.records
    x = drawn(1, 4, 8, 8)
    with Evaluator(built) as source, Evaluator(lowered) as found:
        np.testing.assert_allclose(found.run({"x": x})["y"], source.run({"x": x})["y"], atol=1e-5)


@pytest.mark.parametrize(
    ("precision", "flags"),
    [("fp32", ("int8",)), ("fp16", ("int8", "fp16", "obey_precision_constraints"))],
)
def test_a_weakly_typed_build_of_a_quantised_file_may_use_int8(precision, flags):
    text = """q (float[2, 4] x) => (float[2, 4] y) <float s = {0.5}> {
        i = QuantizeLinear (x, s)
        y = DequantizeLinear (i, s)
    }"""
    device = types.SimpleNamespace(dialect=dialects()["8.5"])
    assert not device.dialect.strongly_typed
    quantised = types.SimpleNamespace(model=model(text))
    plain = types.SimpleNamespace(model=model("p (float[2, 4] x) => (float[2, 4] y) { y = Relu (x) }"))
    assert writing.builder_flags(quantised, device, precision) == flags
    assert "int8" not in writing.builder_flags(plain, device, precision)


def test_ops_that_no_parser_has_are_written_in_those_it_has():
    text = """parts (float[1, 8, 1] d, float[1, 16, 16] c, float[3, 3] x, int64[3, 3] i, float[1, 1, 4, 4] p)
        => (float[1, 8, 2] a, float[1, 4, 8, 8] b, float[3, 3] y, float[1, 1, 4, 4] u) {
        axis = Constant <value_int = 1> ()
        a = DFT (d, , axis)
        image = Constant <value_ints = [8, 8]> ()
        block = Constant <value_ints = [2, 2]> ()
        b = Col2Im <strides = [2, 2]> (c, image, block)
        y = ScatterElements <reduction = "add"> (x, i, x)
        v, w = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (p)
        u = MaxUnpool <kernel_shape = [2, 2], strides = [2, 2]> (v, w)
    }"""
    built = model(text)
    for value in built.graph.initializers.values():
        assert value.const_value is not None
    for version in ("8.5", "10.3"):
        found = ops(lower(built, dialects()[version], native_attention=False))
        assert not {"DFT", "Col2Im", "ScatterElements", "MaxUnpool"} & set(found)
