from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import TensorProto
from onnx import helper as h

sys.path.insert(0, str(Path(__file__).parent))
from x86_graphs import WIDTH, saved_block

from edgec.core.dialect import source_layer
from edgec.core.errors import JobError, MissingExtraError, RequestError, UnsupportedError
from edgec.core.numerics import GATES, compare
from edgec.passes.editing import constant
from edgec.targets import target_named
from edgec.targets.base import Candidate
from edgec.targets.x86 import cpu, target
from edgec.targets.x86.blocked_linear import linear_layers
from edgec.targets.x86.forms import BLOCKED, DECOMPOSED, EXPORTED
from edgec.targets.x86.layers import LayerNames

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def block(tmp_path_factory):
    return saved_block(tmp_path_factory.mktemp("exported"))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("EDGEC_THREADS", "1")


FP32 = [
    Candidate("ort", "fp32", DECOMPOSED),
    Candidate("ort", "fp32", EXPORTED),
    Candidate("openvino", "fp32", BLOCKED),
    Candidate("openvino", "fp32", DECOMPOSED),
    Candidate("openvino", "fp32", EXPORTED),
]


def test_fp32_candidates_are_all_forms(block):
    assert target_named("x86").candidates(block, "auto") == FP32
    assert target_named("x86").candidates(block, "fp32") == FP32


def test_one_engine_can_be_asked_for(block):
    assert {c.engine for c in target_named("x86:openvino").candidates(block, "fp32")} == {"openvino"}
    alone = target_named("x86:ort").candidates(block, "fp32")
    assert [c.form for c in alone] == [DECOMPOSED, EXPORTED]


@pytest.mark.parametrize("candidate", FP32, ids=lambda c: c.name)
def test_every_candidate_computes_what_the_source_does(block, candidate, tmp_path):
    x86 = target_named("x86")
    before = [node.op_type for node in block.model.graph]
    lowered = x86.lower(block, candidate)
    assert [node.op_type for node in block.model.graph] == before
    x86.build(lowered, candidate, tmp_path)
    engine = x86.open(tmp_path)
    try:
        results = [engine.run(feeds) for feeds in block.examples]
        difference = compare(block.references, results)
        assert GATES["fp32"].accepts(difference), difference
        assert engine.description.form == candidate.form
        times = x86.profile(engine, block.examples[0])
    finally:
        engine.close()
    sources = {time.source for time in times}
    assert {"attn", "attn.qkv", "attn.proj", "gelu" if candidate.engine == "ort" else "fc2"} <= sources
    known = {source_layer(node) for node in block.model.graph}
    busy = [time for time in times if time.op.split()[0] in ("MatMul", "FullyConnected", "FusedMatMul")]
    assert busy
    assert all(time.source in known for time in busy)


def test_ort_never_gets_attention(block):
    """Its kernel for the op is slower than the products around a softmax."""
    lowered = target_named("x86").lower(block, Candidate("ort", "fp32", DECOMPOSED))
    assert "Attention" not in {node.op_type for node in lowered.model.graph}


def test_projections_are_taken_apart_for_openvino(block):
    lowered = target_named("x86").lower(block, Candidate("openvino", "fp32", DECOMPOSED))
    ops = [node.op_type for node in lowered.model.graph]
    assert "Split" not in ops
    widths = [
        constant(node.inputs[1]).shape
        for node in lowered.model.graph
        if node.op_type == "MatMul" and constant(node.inputs[1]) is not None
    ]
    assert widths.count((WIDTH, WIDTH)) == 4


def test_blocked_linear_layers_end_in_an_op_that_changes_nothing(block):
    lowered = target_named("x86").lower(block, Candidate("openvino", "fp32", BLOCKED))
    clips = [node for node in lowered.model.graph if node.op_type == "Clip"]
    # q, k, v and the projection; fc1 ends in its activation and fc2 is the output.
    assert len(clips) == 4
    assert all(abs(float(constant(value))) > 1e38 for clip in clips for value in clip.inputs[1:])


def test_linear_layers_of_other_shapes_are_left_to_mlas():
    nodes = [h.make_node("MatMul", ["x", "w"], ["m"], name="m"), h.make_node("Neg", ["m"], ["y"], name="n")]

    def layers(rows, inputs, outputs):
        graph = h.make_graph(
            nodes,
            "g",
            [h.make_tensor_value_info("x", TensorProto.FLOAT, [1, rows, inputs])],
            [h.make_tensor_value_info("y", TensorProto.FLOAT, [1, rows, outputs])],
            [onnx.numpy_helper.from_array(np.zeros((inputs, outputs), np.float32), "w")],
        )
        proto = h.make_model(graph, opset_imports=[h.make_opsetid("", 23)], ir_version=11)
        return len(linear_layers(ir.from_proto(onnx.shape_inference.infer_shapes(proto))))

    assert layers(10, 96, 96) == 1
    assert layers(1, 96, 96) == 0
    assert layers(10, 64, 96) == 0
    assert layers(10, 96, 64) == 0
    assert layers(10, 96, 96 * 5) == 0
    assert layers(4000, 96, 96) == 0


def test_openvino_keeps_fp32_weights(block, tmp_path):
    candidate = Candidate("openvino", "fp32", DECOMPOSED)
    x86 = target_named("x86")
    x86.build(x86.lower(block, candidate), candidate, tmp_path)
    text = (tmp_path / "model.xml").read_text()
    assert 'element_type="f16"' not in text
    description = json.loads((tmp_path / "engine.json").read_text())
    assert description["kind"] == "openvino"
    assert description["model"] == "model.xml"


def test_building_twice_gives_the_same_bytes(block, tmp_path):
    x86 = target_named("x86")
    for candidate in FP32[:3]:
        folders = []
        for attempt in "ab":
            folder = tmp_path / f"{candidate.engine}-{candidate.form}-{attempt}"
            folder.mkdir()
            x86.build(x86.lower(block, candidate), candidate, folder)
            folders.append({file.name: file.read_bytes() for file in folder.iterdir()})
        assert folders[0] == folders[1], candidate.name


def bf16_here():
    try:
        cpu.require_bf16()
    except JobError:
        return False
    return True


@pytest.mark.skipif(not bf16_here(), reason="this processor has no bf16")
def test_bf16_computes_in_bf16_and_no_form_for_fp32_kernels_is_tried(block, tmp_path):
    x86 = target_named("x86")
    candidates = x86.candidates(block, "bf16")
    assert [(c.engine, c.form) for c in candidates] == [("openvino", DECOMPOSED), ("openvino", EXPORTED)]
    x86.build(x86.lower(block, candidates[0]), candidates[0], tmp_path)
    engine = x86.open(tmp_path)
    try:
        result = engine.run(block.examples[0])["y"]
    finally:
        engine.close()
    assert result.dtype == np.float32
    difference = compare(block.references[:1], [{"y": result}])
    assert GATES["bf16"].accepts(difference)
    # Rounding to bf16 shows: fp32 would be a thousand times closer.
    assert difference.max_abs > 1e-4


def test_bf16_is_refused_where_the_processor_lacks_it(block, monkeypatch):
    real = cpu.read_processor()
    plain = type(real)(**{**real.__dict__, "isa": ("avx2", "fma"), "model": "An old one"})
    monkeypatch.setattr(cpu, "read_processor", lambda: plain)
    with pytest.raises(JobError, match=r"avx512_bf16 or amx_bf16.*An old one.*avx2, fma"):
        target_named("x86").candidates(block, "bf16")


def test_a_precision_that_no_x86_computes_in_is_refused(block):
    with pytest.raises(JobError, match="compute fp16 in fp32"):
        target_named("x86").candidates(block, "fp16")
    with pytest.raises(JobError, match="int4 is for Core ML"):
        target_named("x86").candidates(block, "int4")


def test_int8_without_data_asks_for_data(block):
    with pytest.raises(RequestError, match="needs inputs to see the ranges on"):
        target_named("x86").candidates(block, "int8")


def test_ort_does_not_compute_in_bf16(block):
    with pytest.raises(JobError, match="x86:openvino"):
        target_named("x86:ort").candidates(block, "bf16")


def test_without_openvino_ort_remains(block, monkeypatch):
    find = target.importlib.util.find_spec
    monkeypatch.setattr(
        target.importlib.util, "find_spec", lambda name: None if name == "openvino" else find(name)
    )
    assert {c.engine for c in target_named("x86").candidates(block, "auto")} == {"ort"}
    with pytest.raises(MissingExtraError, match=r"edgec\[openvino\]"):
        target_named("x86:openvino").candidates(block, "fp32")


def test_everything_no_engine_takes_is_listed_with_its_layer():
    nodes = [
        h.make_node("Magic", ["x"], ["a"], name="one", domain="com.example"),
        h.make_node("Wand", ["a"], ["y"], name="two", domain="com.example"),
    ]
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [h.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    imports = [h.make_opsetid("", 23), h.make_opsetid("com.example", 1)]
    model = ir.from_proto(h.make_model(graph, opset_imports=imports, ir_version=11))
    graph_ = block_like(model)
    with pytest.raises(UnsupportedError) as caught:
        target_named("x86").candidates(graph_, "auto")
    text = " ".join(caught.value.reasons)
    for word in ("com.example::Magic", "com.example::Wand", "layer one", "layer two", "ort:", "openvino:"):
        assert word in text


def block_like(model):
    from edgec.core.graph import Graph, Source

    return Graph(model, Source("hand", "onnx", "hand", "0"), (), [], [])


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("x68", RequestError, "did you mean x86"),
        ("x86:openvin", RequestError, "did you mean x86:openvino"),
        ("jetson:orin-nano", RequestError, "did you mean orin-nano-8gb"),
        ("toaster", RequestError, "choose from x86"),
    ],
)
def test_unknown_targets(name, error, message):
    with pytest.raises(error, match=message):
        target_named(name)


def test_engine_names_are_traced_to_layers(block):
    names = LayerNames(block.model)
    assert names.find(["qkv_product/WithoutBiases"]) == "attn.qkv"
    assert names.find(["nothing", "packed"]) == "attn.qkv"
    assert names.find(["nothing at all"]) is None


def test_an_op_with_old_kernels_only_runs_in_onnxruntime_too(tmp_path):
    proto = onnx.parser.parse_model(
        '<ir_version: 11, opset_import: ["": 23]> g (float[1, 4, 8, 8] x) => (float[1, 4, 1, 1] y) '
        "{ y = GlobalLpPool (x) }"
    )
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)}
    graph = dataclasses.replace(block_like(ir.from_proto(proto)), examples=[feeds])
    ort = target_named("x86:ort")
    [candidate] = ort.candidates(graph, "fp32")
    ort.build(ort.lower(graph, candidate), candidate, tmp_path)
    engine = ort.open(tmp_path)
    expected = np.sqrt((feeds["x"].astype(np.float64) ** 2).sum(axis=(2, 3), keepdims=True))
    np.testing.assert_allclose(engine.run(feeds)["y"], expected, rtol=1e-6)
    engine.close()
