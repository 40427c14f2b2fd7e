"""bf16 with layers kept in fp32: what rounds, what does not, and that weights are rounded to the nearest."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "passes" / "tokens"))
from encoders import CHANNELS, Encoder
from x86_graphs import WIDTH, block_proto, graph_of, saved_block

from edgec.core.graph import Graph, Source, tensor_spec
from edgec.judging.gates import check
from edgec.passes.tokens.merge import MergeTokens
from edgec.passes.tokens.schedule import Schedule
from edgec.runtime.engine_openvino import OpenVinoEngine
from edgec.runtime.openvino_core import new_core
from edgec.targets import target_named
from edgec.targets.base import Candidate
from edgec.targets.x86.bf16 import in_bf16
from edgec.targets.x86.forms import BLOCKED_ATTENTION, DECOMPOSED

HALF = Candidate("openvino", "bf16", DECOMPOSED)
NONE = ("no layer of this name",)
UNIT = float(ml_dtypes.finfo(ml_dtypes.bfloat16).eps)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("EDGEC_THREADS", "1")


@pytest.fixture(scope="module")
def block(tmp_path_factory):
    return saved_block(tmp_path_factory.mktemp("exported"))


def _build(graph: Graph, candidate: Candidate, folder: Path) -> Path:
    folder.mkdir()
    x86 = target_named("x86")
    x86.build(x86.lower(graph, candidate), candidate, folder)
    return folder


CORE = new_core()
"""Lives as long as the tests: operations of an extension's die with the core that loaded it."""


def _operations(folder: Path) -> list:
    for extension in folder.glob("*.so"):
        CORE.add_extension(str(extension))
    return CORE.read_model(str(folder / "model.xml")).get_ordered_ops()


def _types(folder: Path, kind: str) -> dict[str, str]:
    """The type that each operation of a kind gives, by its source layer."""
    layers = OpenVinoEngine(folder).description.layers
    return {
        layers[operation.get_friendly_name()]: operation.output(0).get_element_type().to_string()
        for operation in _operations(folder)
        if operation.get_type_name() == kind
    }


def test_kept_layers_compute_in_fp32_and_all_others_in_bf16(block, tmp_path):
    folder = _build(block, HALF.keeping(("attn.qkv", "fc1")), tmp_path / "engine")
    products = _types(folder, "MatMul")
    assert products.pop("attn.qkv") == products.pop("fc1") == "f32"
    assert set(products) == {"attn", "attn.proj", "fc2"}
    assert set(products.values()) == {"bf16"}
    assert OpenVinoEngine(folder).description.rest == "fp32"
    gate = check(block, OpenVinoEngine(folder).run, stage="mixed", precision="bf16")
    assert gate.passed, str(gate)


@pytest.mark.parametrize(("kept", "expected"), [(NONE, "bf16"), (("attn.qkv", "attn"), "f32")])
def test_what_only_moves_values_takes_the_type_that_they_have(block, kept, expected, tmp_path):
    folder = _build(block, HALF.keeping(kept), tmp_path / "engine")
    moves = [
        operation.output(0).get_element_type().to_string()
        for operation in _operations(folder)
        if operation.get_type_name() == "Transpose"
    ]
    assert set(moves) == {expected}


def test_what_follows_the_last_product_stays_in_fp32(block, tmp_path):
    proto = block_proto()
    proto.graph.node.append(onnx.helper.make_node("Softmax", ["y"], ["p"], name="last", axis=-1))
    proto.graph.output[0].name = "p"
    graph = graph_of(proto)
    folder = _build(graph, HALF.keeping(NONE), tmp_path / "engine")
    softmaxes = [
        operation.output(0).get_element_type().to_string()
        for operation in _operations(folder)
        if operation.get_type_name() == "Softmax"
    ]
    assert softmaxes == ["bf16", "f32"]


def test_weights_are_rounded_to_the_nearest_and_kept_ones_not_at_all(block, tmp_path):
    folder = _build(block, HALF.keeping(("fc1",)), tmp_path / "engine")
    found: dict[tuple[str, int], np.ndarray] = {
        (operation.get_element_type().to_string(), operation.data.size): operation.data
        for operation in _operations(folder)
        if operation.get_type_name() == "Constant" and len(operation.get_output_shape(0)) == 2
    }
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in block_proto().graph.initializer}
    size = 2 * WIDTH * WIDTH
    np.testing.assert_array_equal(np.sort(found["f32", size], axis=None), np.sort(weights["w1"], axis=None))
    nearest = weights["w2"].astype(ml_dtypes.bfloat16)
    rounded = found["bf16", size].view(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(np.sort(rounded, axis=None), np.sort(nearest, axis=None))


def test_an_engine_with_every_layer_kept_is_the_fp32_engine(block, tmp_path):
    x86 = target_named("x86")
    folder = _build(block, HALF, tmp_path / "whole")
    layers = x86.rounded_layers(folder)
    assert layers.index("norm1") < layers.index("attn.qkv") < layers.index("attn") < layers.index("fc2")
    exact = x86.open(_build(block, HALF.exact, tmp_path / "exact"))
    kept = x86.open_keeping(folder, frozenset(layers))
    none = x86.open_keeping(folder, frozenset())
    for feeds in block.examples:
        np.testing.assert_array_equal(kept.run(feeds)["y"], exact.run(feeds)["y"])
        assert np.abs(none.run(feeds)["y"] - exact.run(feeds)["y"]).max() > UNIT**2


def test_keeping_the_layer_that_suffers_takes_its_damage_away(tmp_path):
    proto = block_proto()
    for tensor in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            # bf16 holds every weight but those of fc2: next to 64 its steps are a half. A norm's scale would
            # be folded into the next weights.
            plain = np.ones_like(values) if tensor.name == "gamma" else values.astype(ml_dtypes.bfloat16)
            changed = values + 64 if tensor.name == "w2" else plain
            tensor.CopyFrom(onnx.numpy_helper.from_array(changed.astype(np.float32), tensor.name))
    path = tmp_path / "block.onnx"
    onnx.save(proto, path)
    graph = graph_of(proto, exported=str(path))
    x86 = target_named("x86")
    folder = _build(graph, HALF, tmp_path / "whole")

    def error(*layers: str) -> float:
        engine = x86.open_keeping(folder, frozenset(layers))
        return max(
            float(np.abs(engine.run(feeds)["y"] - reference["y"]).max())
            for feeds, reference in zip(graph.examples, graph.references, strict=True)
        )

    assert error("fc2") < 0.5 * error()
    assert error("fc1") > 0.5 * error()


def test_edgecs_own_kernels_take_bf16_or_fp32_as_their_layer_does(block, tmp_path):
    half = dataclasses.replace(HALF, form=BLOCKED_ATTENTION)
    for kept, expected in ((NONE, "bf16"), (("attn",), "f32")):
        folder = _build(block, half.keeping(kept), tmp_path / expected)
        assert set(_types(folder, "VarlenAttention").values()) == {expected}
    # A whole engine has conversions around its kernels; they go where the kernel's layer is kept.
    whole = _build(block, half, tmp_path / "whole")
    assert set(_types(whole, "VarlenAttention").values()) == {"bf16"}
    x86 = target_named("x86")
    exact = x86.open(_build(block, half.exact, tmp_path / "exact"))
    kept = x86.open_keeping(whole, frozenset(x86.rounded_layers(whole)))
    for feeds in block.examples:
        np.testing.assert_array_equal(kept.run(feeds)["y"], exact.run(feeds)["y"])


def test_sizes_that_come_of_merging_stay_in_fp32(tmp_path):
    encoder = Encoder(patches=30)
    merged = encoder.model()
    MergeTokens(Schedule({0: 5, 1: 6}))(merged)
    # A product at the end: what follows the last one is in fp32 anyway.
    [stream] = merged.graph.outputs
    weight = ir.val("head", const_value=ir.tensor(np.eye(CHANNELS, dtype=np.float32), name="head"))
    head = ir.node("MatMul", [stream, weight], name="head")
    head.outputs[0].shape, head.outputs[0].type, head.outputs[0].name = stream.shape, stream.type, "logits"
    merged.graph.register_initializer(weight)
    merged.graph.append(head)
    merged.graph.outputs[0] = head.outputs[0]
    inputs = tuple(tensor_spec(value) for value in merged.graph.inputs)
    graph = Graph(merged, Source("hand", "onnx", "hand", "0"), inputs, [], [])
    folder = _build(graph, HALF.keeping(NONE), tmp_path / "engine")
    merges = [operation for operation in _operations(folder) if operation.get_type_name() == "TokenMerge"]
    assert len(merges) == 2
    for merge in merges:
        assert [output.get_element_type().to_string() for output in merge.outputs()[:2]] == ["bf16", "f32"]


@settings(max_examples=25, deadline=None)
@given(
    values=st.lists(
        st.one_of(
            st.floats(width=32, allow_nan=False),
            st.sampled_from([float(np.finfo(np.float32).min), float(np.finfo(np.float32).max), 1 + 2**-9]),
        ),
        min_size=4,
        max_size=4,
    )
)
def test_a_constant_is_rounded_and_what_is_finite_stays_so(values):
    from openvino import Model, opset13

    given_ = np.asarray([values], np.float32)
    x = opset13.parameter([1, 4], np.float32)
    total = opset13.add(x, opset13.constant(given_))
    weight = opset13.constant(np.eye(4, dtype=np.float32))
    model = Model([opset13.result(opset13.matmul(total, weight, False, False))], [x], "m")
    in_bf16(model, {}, frozenset())
    [constant] = [
        operation
        for operation in model.get_ordered_ops()
        if operation.get_type_name() == "Constant" and list(operation.get_output_shape(0)) == [1, 4]
    ]
    rounded = constant.data.view(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(np.isfinite(rounded), np.isfinite(given_))
    with np.errstate(over="ignore"):
        nearest = given_.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(rounded[np.isfinite(nearest)], nearest[np.isfinite(nearest)])


def test_a_constant_keeps_its_shape():
    from openvino import Model, opset13

    shapes = ((), (1,), (1, 4))
    total = x = opset13.parameter([1, 4], np.float32)
    for shape in shapes:
        total = opset13.add(total, opset13.constant(np.ones(shape, np.float32)))
    weight = opset13.constant(np.eye(4, dtype=np.float32))
    model = Model([opset13.result(opset13.matmul(total, weight, False, False))], [x], "m")
    in_bf16(model, {}, frozenset())
    found = [
        tuple(operation.get_output_shape(0))
        for operation in model.get_ordered_ops()
        if operation.get_type_name() == "Constant"
    ]
    assert sorted(found) == sorted([*shapes, (4, 4)])


def test_sizes_worked_out_from_shapes_are_not_rounded():
    from openvino import Model, opset13

    x = opset13.parameter([-1, 4], np.float32)
    length = opset13.convert(opset13.shape_of(x), "f32")
    half = opset13.multiply(length, opset13.constant(np.float32([0.5, 1.0])))
    sizes = opset13.convert(half, "i64")
    weight = opset13.constant(np.eye(4, dtype=np.float32))
    cut = opset13.reshape(opset13.matmul(x, weight, False, False), sizes, special_zero=False)
    model = Model([opset13.result(opset13.matmul(cut, weight, False, False))], [x], "m")
    in_bf16(model, {}, frozenset())
    types = {
        operation.get_type_name(): operation.output(0).get_element_type().to_string()
        for operation in model.get_ordered_ops()
    }
    assert types["Multiply"] == "f32"
    assert types["MatMul"] == types["Reshape"] == "bf16"


def _mixed_graph():
    """Operations of several inputs, outputs and types, which share a constant; named, each its own layer."""
    from openvino import Model, opset13

    drawn = np.random.default_rng(8)

    def named(operation, name):
        operation.set_friendly_name(name)
        return operation

    def weight(rows, columns):
        return opset13.constant((drawn.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32))

    x = opset13.parameter([3, 8], np.float32, name="x")
    mask = opset13.parameter([3, 8], np.float32, name="mask")
    ids = opset13.parameter([3], np.int64, name="ids")
    shared = opset13.constant(drawn.standard_normal((1, 8)).astype(np.float32))
    table = named(opset13.gather(weight(5, 8), ids, opset13.constant(0)), "table")
    first = named(opset13.matmul(x, weight(8, 16), False, False), "first")
    parts = named(opset13.variadic_split(first, opset13.constant(1), opset13.constant([8, 8])), "split")
    left = named(opset13.add(parts.output(0), shared), "left")
    right = named(opset13.multiply(parts.output(1), shared), "right")
    top = named(opset13.topk(right, opset13.constant(8), 1, "max", "value"), "top")
    joined = named(opset13.concat([left, top.output(0), table], 1), "joined")
    mixed = named(opset13.matmul(joined, weight(24, 8), False, False), "mixed")
    chosen = named(
        opset13.select(opset13.greater(mask, opset13.constant(np.float32(0))), mixed, left), "chosen"
    )
    masked = named(opset13.add(chosen, mask), "masked")
    soft = named(opset13.softmax(masked, 1), "soft")
    last = named(opset13.matmul(soft, weight(8, 4), False, False), "last")
    results = [opset13.result(value) for value in (last, top.output(1), mask)]
    model = Model(results, [x, mask, ids], "m")
    names = [operation.get_friendly_name() for operation in model.get_ordered_ops()]
    return model, {name: name for name in names}


MIXED = ("table", "first", "left", "right", "joined", "mixed", "chosen", "masked", "soft", "last")


@settings(max_examples=30, deadline=None)
@given(kept=st.sets(st.sampled_from(MIXED)))
def test_any_layers_can_be_kept_of_operations_of_several_inputs_and_outputs(kept):
    feeds = [
        np.random.default_rng(3).standard_normal((3, 8)).astype(np.float32),
        np.where(np.arange(24).reshape(3, 8) % 3, 0.5, -3.0).astype(np.float32),
        np.array([4, 0, 2]),
    ]
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    exact_model, _ = _mixed_graph()
    exact = list(CORE.compile_model(exact_model, "CPU", hint)(feeds).values())
    model, layers = _mixed_graph()
    in_bf16(model, layers, frozenset(kept))
    found = list(CORE.compile_model(model, "CPU", hint)(feeds).values())
    # Sums of some ten roundings of values of unit size.
    np.testing.assert_allclose(found[0], exact[0], atol=10 * UNIT)
    assert found[1].shape == exact[1].shape
    np.testing.assert_array_equal(found[2], exact[2])
    types = {
        operation.get_friendly_name(): operation.output(0).get_element_type().to_string()
        for operation in model.get_ordered_ops()
    }
    assert {types[name] for name in kept - {"joined", "chosen"}} <= {"f32"}
    assert {types[name] for name in {"first", "left", "mixed", "soft", "last"} - kept} <= {"bf16"}


def test_a_mask_worked_out_from_integers_is_exact_and_stays_finite():
    from openvino import Model, opset13

    lowest = np.float32(np.finfo(np.float32).min)
    x = opset13.parameter([2, 4], np.float32, name="x")
    real = opset13.parameter([2, 4], np.int64, name="real")
    hidden = opset13.subtract(opset13.constant(np.float32(1)), opset13.convert(real, "f32"))
    mask = opset13.multiply(hidden, opset13.constant(lowest))
    weight = opset13.constant(np.eye(4, dtype=np.float32))
    logits = opset13.add(opset13.matmul(x, weight, False, False), mask)
    total = opset13.matmul(opset13.softmax(logits, 1), weight, False, False)
    model = Model([opset13.result(total)], [x, real], "m")
    in_bf16(model, {}, frozenset())
    types = {
        operation.get_type_name(): operation.output(0).get_element_type().to_string()
        for operation in model.get_ordered_ops()
    }
    assert (types["Subtract"], types["Multiply"], types["Softmax"]) == ("f32", "f32", "bf16")
    # A processor without bf16 would not round to -inf: the clamp is looked for itself.
    assert types["Clamp"] == "f32"
    compiled = CORE.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    feeds = [np.zeros((2, 4), np.float32), np.array([[1, 1, 0, 0], [0, 0, 0, 0]])]
    [found] = compiled(feeds).values()
    np.testing.assert_allclose(found, [[0.5, 0.5, 0, 0], [0.25] * 4], atol=UNIT)


def _angles_and_scores():
    """Times turned into angles, features turned by them, and the rows that score best."""
    rng = np.random.default_rng(3)

    def weights(*shape):
        return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    constants = {
        "frequencies": (100.0 ** -(np.arange(32) / 32)).astype(np.float32).reshape(1, 32),
        "last": np.asarray([-1]),
        "w1": weights(32, 32),
        "w2": weights(32, 8),
        "w3": weights(32, 32),
        "k": np.asarray([4]),
    }
    text = """<ir_version: 10, opset_import: ["": 20]>
    m (float[1, 16, 32] x, float[1, 16] p) => (float[1, 16, 32] y, float[1, 4] best) {
        u = Unsqueeze (p, last) angle = Mul (u, frequencies) wave = Cos (angle)
        h = MatMul (x, w1) turned = Mul (h, wave) y0 = MatMul (turned, w3)
        s = MatMul (turned, w2) t = Sigmoid (s) r = ReduceMax <keepdims = 0> (t, last)
        best, places = TopK (r, k) g = Sigmoid (y0) y = MatMul (g, w3)
    }"""
    proto = onnx.parser.parse_model(text)
    for name, array in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for node in proto.graph.node:
        node.name = node.output[0]
    proto = onnx.shape_inference.infer_shapes(proto)
    feeds = [
        {
            "x": rng.standard_normal((1, 16, 32)).astype(np.float32),
            "p": np.arange(start, start + 16, dtype=np.float32)[None],
        }
        for start in (0, 4000)
    ]
    return graph_of(proto, feeds)


def test_what_must_not_round_does_not_in_a_whole_bf16_engine(tmp_path, monkeypatch):
    graph = _angles_and_scores()
    folder = _build(graph, HALF, tmp_path / "engine")
    engine = OpenVinoEngine(folder)
    assert engine.description.rest == "fp32"
    types = {
        tensor: operation.output(0).get_element_type().to_string()
        for operation in _operations(folder)
        for output in operation.outputs()
        for tensor in output.get_names()
    }
    assert types["angle"] == types["wave"] == types["s"] == types["t"] == "f32"
    assert types["h"] == types["turned"] == types["y0"] == "bf16"

    def error(engine):
        far, expected = graph.examples[1], graph.references[1]["y"]
        return np.abs(engine.run(far)["y"] - expected).max() / expected.std()

    assert error(engine) < 0.05
    x86 = target_named("x86")
    rounded = x86.rounded_layers(folder)
    assert set(rounded) >= {"h", "turned", "y0"}
    assert not {"angle", "wave", "s", "t"} & set(rounded)
    # With all else kept, its weights alone are rounded.
    assert error(x86.open_keeping(folder, frozenset(rounded))) < error(x86.open_keeping(folder, frozenset()))
    monkeypatch.setattr("edgec.targets.x86.bf16.structure.stays_full", lambda _model: {"none": ""})
    without = _build(graph, HALF.keeping(NONE), tmp_path / "without")
    assert error(OpenVinoEngine(without)) > 0.2


def test_plain_networks_stay_one_hint(block, tmp_path):
    assert OpenVinoEngine(_build(block, HALF, tmp_path / "engine")).description.rest == ""
