"""int8 engines of x86: what they compute, what is left alone, and where they are refused."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from x86_graphs import LENGTH, WIDTH, graph_of, saved_block

import edgec
from edgec.bench import suite
from edgec.cli import main
from edgec.core.dialect import source_layer
from edgec.core.errors import JobError
from edgec.core.evaluation import Evaluator
from edgec.passes.infra import MatchLog
from edgec.runtime.engine import EngineDescription
from edgec.search.peers import model_file, open_file
from edgec.targets import target_named
from edgec.targets.base import Candidate, Quantising
from edgec.targets.x86 import cpu, order, quantize_openvino, quantize_ort
from edgec.targets.x86.flat_linear import FlatLinear
from edgec.targets.x86.forms import BLOCKED, DECOMPOSED, EXPORTED
from edgec.targets.x86.target import X86

pytest.importorskip("nncf")

OPENVINO = Candidate("openvino", "int8", DECOMPOSED, rest="fp32", scheme=quantize_openvino.SYMMETRIC)
ORT = Candidate("ort", "int8", DECOMPOSED, rest="fp32", scheme=quantize_ort.STATIC)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("EDGEC_THREADS", "1")


@pytest.fixture(scope="module")
def block(tmp_path_factory):
    graph = saved_block(tmp_path_factory.mktemp("exported"))
    drawn = np.random.default_rng(5)
    shape = graph.examples[0]["x"].shape
    feeds = tuple({"x": drawn.standard_normal(shape).astype(np.float32)} for _ in range(8))
    return dataclasses.replace(graph, calibration=feeds)


def _engine(block, candidate, folder):
    folder.mkdir(exist_ok=True)
    x86 = target_named("x86")
    x86.build(x86.lower(block, candidate), candidate, folder)
    return x86.open(folder)


def _cosine(block, engine):
    found = np.concatenate([engine.run(feeds)["y"].ravel() for feeds in block.examples])
    expected = np.concatenate([reference["y"].ravel() for reference in block.references])
    return float(found @ expected / np.linalg.norm(found) / np.linalg.norm(expected))


@pytest.fixture(scope="module")
def quantised(block, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantised")
    _engine(block, OPENVINO, folder).close()
    return folder


@pytest.mark.parametrize(
    "candidate",
    [
        ORT,
        dataclasses.replace(ORT, scheme=quantize_ort.DYNAMIC),
        dataclasses.replace(ORT, scheme=quantize_ort.PLAIN),
        dataclasses.replace(OPENVINO, scheme=quantize_openvino.STATIC),
        dataclasses.replace(OPENVINO, scheme=quantize_openvino.WEIGHTED),
        dataclasses.replace(OPENVINO, scheme=quantize_openvino.PLAIN),
        dataclasses.replace(OPENVINO, scheme=quantize_openvino.WEIGHTS),
    ],
    ids=lambda candidate: f"{candidate.engine} {candidate.scheme}",
)
def test_every_scheme_is_near_the_source_and_not_equal(block, candidate, tmp_path):
    engine = _engine(block, candidate, tmp_path / "engine")
    assert 0.98 < _cosine(block, engine) < 1.0 - 1e-9
    assert engine.description.precision == "int8"
    assert engine.description.rest == "fp32"
    engine.close()


def test_weights_of_four_bits_lose_more_than_of_eight(block, tmp_path):
    eight, four = (
        _engine(block, dataclasses.replace(OPENVINO, scheme=scheme), tmp_path / scheme.replace(" ", "-"))
        for scheme in (quantize_openvino.WEIGHTS, quantize_openvino.WEIGHTS4)
    )
    assert _cosine(block, four) < _cosine(block, eight)
    four.close()
    eight.close()


def test_norms_softmaxes_and_residual_sums_are_not_quantised(quantised):
    import openvino

    model = openvino.Core().read_model(str(quantised / "model.xml"))
    readers = {
        target.get_node().get_type_name()
        for operation in model.get_ordered_ops()
        if operation.get_type_name() == "FakeQuantize"
        for target in operation.output(0).get_target_inputs()
    }
    assert "MatMul" in readers
    assert not readers & {"MVN", "Softmax", "Add"}


def test_kept_layers_are_left_alone_in_a_build(block, quantised, tmp_path):
    x86 = target_named("x86")
    layers = x86.rounded_layers(quantised)
    assert len(layers) > 2
    kept = dataclasses.replace(OPENVINO, kept=layers[:2])
    _engine(block, kept, tmp_path / "kept").close()
    assert not set(layers[:2]) & set(x86.rounded_layers(tmp_path / "kept"))


# Weights stay rounded: where they have 7 bits that is most of what a range for each input loses.
@pytest.mark.parametrize(
    ("candidate", "left"),
    [
        (OPENVINO, 0.7),
        (ORT, 0.7),
        (dataclasses.replace(ORT, scheme=quantize_ort.DYNAMIC), 0.9),
        (dataclasses.replace(ORT, scheme=quantize_ort.PLAIN), 0.9),
    ],
    ids=["openvino", "ort static", "ort dynamic", "ort plain"],
)
def test_keeping_all_layers_takes_the_damage_of_rounded_activations_away(block, candidate, left, tmp_path):
    folder = tmp_path / "engine"
    whole = _engine(block, candidate, folder)
    x86 = target_named("x86")
    assert isinstance(x86, Quantising)
    kept = x86.open_keeping(folder, frozenset(x86.rounded_layers(folder)))
    assert 1 - _cosine(block, kept) < left * (1 - _cosine(block, whole))
    kept.close()
    whole.close()


def test_one_layer_of_a_dynamically_quantised_engine_is_kept_by_its_name(block, tmp_path):
    folder = tmp_path / "engine"
    whole = _engine(block, dataclasses.replace(ORT, scheme=quantize_ort.DYNAMIC), folder)
    x86 = target_named("x86")
    layers = x86.rounded_layers(folder)
    assert layers.index("attn.qkv") < layers.index("attn.proj") < layers.index("fc2")
    kept = x86.open_keeping(folder, frozenset(["fc2"]))
    none = x86.open_keeping(folder, frozenset())
    feeds = block.examples[0]
    apart = np.abs(kept.run(feeds)["y"] - whole.run(feeds)["y"]).max()
    assert apart > 0
    np.testing.assert_array_equal(none.run(feeds)["y"], whole.run(feeds)["y"])
    for engine in (whole, kept, none):
        engine.close()


def test_a_layer_that_the_quantiser_parts_is_kept_too_and_keeps_its_name():
    """ONNX Runtime's dynamic quantiser makes a product and a sum of a Gemm."""
    from onnx import TensorProto, helper, numpy_helper

    drawn = np.random.default_rng(7)
    shapes = {"x": [4, 16], "y": [4, 8]}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    weights = {"w": drawn.standard_normal((16, 8)), "b": drawn.standard_normal(8)}
    constants = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    gemm = helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="head")
    gemm.metadata_props.add(key="edgec.source", value="classifier")
    proto = helper.make_graph([gemm], "g", values[:1], values[1:], constants)
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    graph = graph_of(model)
    dynamic = Candidate("ort", "int8", "exported", rest="fp32", scheme=quantize_ort.DYNAMIC)
    found = {
        kept: quantize_ort.quantised(graph, dataclasses.replace(dynamic, kept=kept))
        for kept in ((), ("classifier",))
    }
    assert "MatMulInteger" not in {node.op_type for node in found["classifier",].graph}
    products = [node for node in found[()].graph if node.op_type == "MatMulInteger"]
    assert [source_layer(node) for node in products] == ["classifier"]


def test_a_quantised_engine_keeps_its_layers_names(quantised, block):
    known = set(EngineDescription.read(quantised).layers.values())
    assert set(target_named("x86").rounded_layers(quantised)) <= known


def test_without_calibration_nothing_is_quantised(block):
    bare = dataclasses.replace(block, calibration=())
    offers = target_named("x86").lossy_candidates(bare, "auto")
    assert {offer.candidate.precision for offer in offers} == {"fp32", "bf16"}


def _processor(monkeypatch, *isa):
    real = cpu.read_processor()
    plain = dataclasses.replace(real, isa=isa, model="An old one")
    monkeypatch.setattr(cpu, "read_processor", lambda: plain)


def test_exact_engines_come_first_and_int8_in_the_order_of_the_processors_products(block, monkeypatch):
    def order(*isa):
        _processor(monkeypatch, *isa)
        offers = target_named("x86").lossy_candidates(block, "auto")
        assert not [offer for offer in offers if offer.refused and offer.candidate.precision != "bf16"]
        return [offer.candidate for offer in offers]

    for isa in (("avx2",), ("avx2", "avx512_vnni"), ("avx2", "avx512_vnni", "avx512_bf16")):
        found = order(*isa)
        exact = list(itertools.takewhile(lambda candidate: candidate.exact == candidate, found))
        assert len(set(found)) == len(found)
        # The form for fp32 linear layers comes last where bf16 computes what is not quantised.
        fp32 = Candidate("openvino", "fp32", BLOCKED)
        assert fp32 in (found[-1:] if "avx512_bf16" in isa else exact)
        assert all(candidate.exact in exact for candidate in found if candidate != fp32)

    def schemes(*isa):
        found = [candidate for candidate in order(*isa) if candidate.scheme]
        # What a user would have run comes before edgec's own.
        assert [candidate.plain for candidate in found[:3]] == [True, True, False]
        return list(dict.fromkeys((each.engine, each.scheme) for each in found if not each.plain))

    assert schemes("avx2")[0] == ("ort", quantize_ort.PLAIN)
    assert schemes("avx2", "avx512_vnni")[0] == ("openvino", quantize_openvino.SYMMETRIC)


def test_a_processor_without_avx2_has_no_int8_at_all(block, monkeypatch):
    _processor(monkeypatch)
    with pytest.raises(JobError, match="--precision int8 needs a processor with"):
        target_named("x86").lossy_candidates(block, "int8")


@pytest.mark.parametrize(
    ("engine", "scheme"),
    [
        ("ort", quantize_ort.STATIC),
        ("ort", quantize_ort.DYNAMIC),
        ("openvino", quantize_openvino.SYMMETRIC),
        ("openvino", quantize_openvino.STATIC),
    ],
)
def test_weights_leave_room_for_sums_of_16_bits_where_the_processor_has_no_others(
    block, monkeypatch, engine, scheme, tmp_path
):
    def largest(*isa):
        _processor(monkeypatch, *isa)
        folder = tmp_path / isa[-1]
        _engine(block, Candidate(engine, "int8", "decomposed", rest="fp32", scheme=scheme), folder).close()
        if engine == "ort":
            constants = ir.load(folder / "model.onnx").graph.initializers.values()
            arrays = [value.const_value.numpy() for value in constants if value.dtype == ir.DataType.INT8]
        else:
            import openvino

            operations = openvino.Core().read_model(str(folder / "model.xml")).get_ordered_ops()
            arrays = [
                operation.data
                for operation in operations
                if operation.get_type_name() == "Constant"
                and operation.get_element_type().to_string() == "i8"
            ]
        return max(np.abs(array.astype(int)).max() for array in arrays if array.size > 1)

    # Two products of an activation of 8 bits and a weight of 7 stay below 2^15.
    assert 2 * 255 * largest("avx2") < 2**15
    assert largest("avx2", "avx512_vnni") > 2**15 / (2 * 255)


def test_a_processor_without_bf16_computes_the_rest_in_fp32(block, monkeypatch):
    _processor(monkeypatch, "avx2", "avx512_vnni")
    offers = target_named("x86:openvino").lossy_candidates(block, "auto")
    assert {offer.candidate.precision for offer in offers if offer.refused} == {"bf16"}
    int8 = [offer.candidate for offer in offers if offer.candidate.precision == "int8"]
    assert {candidate.rest for candidate in int8} == {"fp32"}


def _image_mlp() -> ir.Model:
    """x [1,4,5,C] through two linear layers with bias and GELU, and a sum with x."""
    from onnx import TensorProto, helper, numpy_helper

    drawn = np.random.default_rng(3)
    constants = {
        "w1": drawn.standard_normal((WIDTH, 2 * WIDTH)).astype(np.float32) / 10,
        "b1": drawn.standard_normal((1, 1, 1, 2 * WIDTH)).astype(np.float32),
        "w2": drawn.standard_normal((2 * WIDTH, WIDTH)).astype(np.float32) / 10,
        "b2": drawn.standard_normal(WIDTH).astype(np.float32),
    }
    shape = [1, 4, 5, WIDTH]
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["m1"], name="fc1"),
        helper.make_node("Add", ["m1", "b1"], ["a1"], name="bias1"),
        helper.make_node("Gelu", ["a1"], ["g"], name="gelu"),
        helper.make_node("MatMul", ["g", "w2"], ["m2"], name="fc2"),
        helper.make_node("Add", ["b2", "m2"], ["a2"], name="bias2"),
        helper.make_node("Add", ["x", "a2"], ["y"], name="residual"),
    ]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def test_linear_layers_over_images_run_in_rank_three_and_mean_the_same():
    model = _image_mlp()
    feeds = {"x": np.random.default_rng(4).standard_normal((1, 4, 5, WIDTH)).astype(np.float32)}
    with Evaluator(model) as evaluator:
        expected = evaluator.run(feeds)["y"]
    log = MatchLog()
    FlatLinear().apply(model, log)
    with Evaluator(model) as evaluator:
        np.testing.assert_allclose(evaluator.run(feeds)["y"], expected, atol=1e-5)
    assert len(log.matches) == 2
    ranks = {node.op_type: len(node.outputs[0].shape) for node in model.graph if node.op_type != "Reshape"}
    assert (ranks["MatMul"], ranks["Gelu"]) == (3, 3)
    # One Reshape in front and one behind: the layers between share them.
    assert sum(node.op_type == "Reshape" for node in model.graph) == 2


def test_a_value_that_others_read_too_is_given_back_in_its_own_shape():
    model = _image_mlp()
    gelu = next(node.outputs[0] for node in model.graph if node.op_type == "Gelu")
    model.graph.outputs.append(gelu)
    feeds = {"x": np.random.default_rng(4).standard_normal((1, 4, 5, WIDTH)).astype(np.float32)}
    with Evaluator(model) as evaluator:
        expected = evaluator.run(feeds)["g"]
    FlatLinear().apply(model, MatchLog())
    with Evaluator(model) as evaluator:
        np.testing.assert_allclose(evaluator.run(feeds)["g"], expected, atol=1e-5)


def test_sequences_are_left_as_they_are(block):
    model = block.clone().model
    log = MatchLog()
    FlatLinear().apply(model, log)
    assert LENGTH
    assert not log.matches


def plain_offers(graph):
    return [offer for offer in target_named("x86").lossy_candidates(graph, "auto") if offer.candidate.plain]


def test_what_a_user_would_have_run_is_among_the_candidates(block, monkeypatch):
    _processor(monkeypatch, "avx2", "avx512_vnni", "avx512_bf16")
    found = {(offer.candidate.engine, offer.candidate.precision) for offer in plain_offers(block)}
    assert found == {(engine, precision) for engine, precision in suite.PEERS}
    assert all(offer.candidate.form == EXPORTED and not offer.refused for offer in plain_offers(block))


def test_what_a_user_would_have_run_and_cannot_ship_is_told(block):
    [ort, openvino] = plain_offers(dataclasses.replace(block, exported=None))
    assert {ort.candidate.engine, openvino.candidate.engine} == {"ort", "openvino"}
    assert ort.refused == "it cannot ship: the source left no ONNX file of its own"


@pytest.mark.parametrize("engine", ["ort", "openvino"])
def test_the_plain_candidate_is_the_peer(block, engine, tmp_path):
    """Built from the exporter's file by the engine's own tool, it computes what the peer computes."""
    [candidate] = (
        offer.candidate
        for offer in plain_offers(block)
        if (offer.candidate.engine, offer.candidate.precision) == (engine, "int8")
    )
    mine = _engine(block, candidate, tmp_path / "engine")
    (tmp_path / "peer").mkdir()
    peer = open_file(engine, "int8", model_file(block, engine, "int8", tmp_path / "peer"))
    for feeds in block.examples:
        theirs = peer.run(feeds)["y"]
        assert np.abs(mine.run(feeds)["y"] - theirs).max() <= 1e-5 * np.abs(theirs).max()
    mine.close()


def test_products_of_two_computed_tensors_stay_where_only_layers_with_weights_are_quantised(block, tmp_path):
    def rounded(scheme):
        folder = tmp_path / scheme.replace(" ", "-")
        _engine(block, dataclasses.replace(OPENVINO, scheme=scheme), folder).close()
        return target_named("x86").rounded_layers(folder)

    every, weighted = rounded(quantize_openvino.STATIC), rounded(quantize_openvino.WEIGHTED)
    assert set(weighted) < set(every)
    # What the scores are made of.
    assert set(every) - set(weighted) == {"q", "k"}


def test_a_graph_without_products_of_computed_tensors_is_not_quantised_twice(block):
    schemes = {candidate.scheme for candidate in order.tried(block, ["openvino"], "auto")}
    assert quantize_openvino.WEIGHTED in schemes
    linear = block.clone()
    attention = next(node for node in linear.model.graph if node.op_type == "Attention")
    attention.op_type = "Sum"
    schemes = {candidate.scheme for candidate in order.tried(linear, ["openvino"], "auto")}
    assert quantize_openvino.STATIC in schemes
    assert quantize_openvino.WEIGHTED not in schemes


@pytest.mark.parametrize(("engine", "recipe"), [("ort", "quantize_dynamic"), ("openvino", "nncf default")])
def test_a_bundle_of_the_plain_candidate_verifies_and_runs(block, engine, recipe, tmp_path, monkeypatch):
    offered = X86.lossy_candidates

    def only_plain(self, graph, precision):
        return [offer for offer in offered(self, graph, precision) if offer.candidate.plain]

    monkeypatch.setattr(X86, "lossy_candidates", only_plain)
    calib = np.random.default_rng(3).standard_normal((8, LENGTH, WIDTH)).astype(np.float32)
    np.savez(tmp_path / "calib.npz", x=calib)
    bundle = edgec.compile(
        block.exported,
        target=f"x86:{engine}",
        precision="int8",
        calib=tmp_path / "calib.npz",
        output=tmp_path / "b.edgec",
    )
    [chosen] = [entry for entry in bundle.report()["latency"]["entries"] if entry["role"] == "chosen"]
    assert recipe in chosen["name"]
    assert chosen["form"] == EXPORTED
    assert main.run(["verify", str(bundle.path)], debug=False) == 0
    with edgec.load(bundle.path) as session:
        assert session.run({"x": calib[:1]})["y"].shape == (1, LENGTH, WIDTH)
