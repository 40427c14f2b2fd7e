"""The targets jetson and rtx, from a name to a bundle."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from jetson_graphs import LENGTH, WIDTH, block, drawn, model

import edgec
from edgec.cli.main import run
from edgec.core.bundle import Bundle, file_sha256
from edgec.core.errors import JobError, RequestError, UnsupportedError
from edgec.core.graph import OpenSize
from edgec.core.numerics import GATES, Gate
from edgec.judging.gates import check
from edgec.runtime.engine import EngineDescription
from edgec.targets import open_for_checking, target_named
from edgec.targets.jetson import writing
from edgec.targets.jetson.crash import first_to_crash
from edgec.targets.jetson.devices import device, names
from edgec.targets.jetson.plan import Plan
from edgec.targets.jetson.preview import has_fp32_products, nearest_capability, preview
from edgec.targets.jetson.shapes import shape_profiles

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed"
)


@pytest.mark.parametrize(
    ("name", "jetpack", "tensorrt", "capability"),
    [
        ("orin-nano-8gb", "6.2", "10.3", "8.7"),
        ("orin-nano-8gb:jetpack5", "5.1.2", "8.5", "8.7"),
        ("xavier-nx-8gb", "5.1.2", "8.5", "7.2"),
        ("thor-t5000", "7.0", "10.13", "11.0"),
        ("thor-t5000:jetpack7.2", "7.2", "10.16", "11.0"),
        ("jetson-agx-orin-64gb:7", "7.2", "10.16", "8.7"),
    ],
)
def test_a_name_means_a_device_and_its_release(name, jetpack, tensorrt, capability):
    found = device(name)
    assert (found.jetpack, found.tensorrt, found.capability) == (jetpack, tensorrt, capability)
    assert found.dialect.version == tensorrt


def test_what_is_left_open_is_said():
    assert "means jetson-orin-nano-8gb" in device(None).assumed[0]
    assert any("JetPack 5.1.2, JetPack 7.2" in said for said in device(None).assumed)
    assert device("xavier-nx-8gb").assumed == ()
    assert device("orin-nano-8gb:jetpack6").assumed == ()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("jetson:orin-nano-8g", "orin-nano-8gb"),
        ("jetson:orin-nano-8gb:jetpack4", "jetpack6.2"),
        ("jetson:xavier-nx-8gb:jetpack6", "jetpack5.1.2"),
        ("jetson:iphone-15", "choose from"),
        ("rtx:sm87", "sm86"),
        ("rtx:sm90", "did you mean"),
        ("jetsn", "jetson"),
    ],
)
def test_unknown_names_get_the_nearest(name, said):
    with pytest.raises(RequestError, match=said):
        target_named(name)


def test_every_profile_is_a_target():
    assert len(names()) > 10
    for name in names():
        assert target_named(name).device.dialect.version


@pytest.mark.parametrize(("own", "nearest"), [(72, 75), (87, 86), (110, 120), (89, 89), (121, 121)])
def test_the_preview_takes_the_nearest_capability(own, nearest):
    assert nearest_capability(own) == nearest


def test_a_graph_with_fp32_products_is_not_previewed_for_turing():
    assert nearest_capability(72, fp32_products=True) == 80
    assert nearest_capability(87, fp32_products=True) == 86
    assert has_fp32_products(block().model)
    half = model("p (float16[2, 4] a, float16[4, 3] b) => (float16[2, 3] y) { y = MatMul (a, b) }")
    assert not has_fp32_products(half)


def test_a_bucket_of_sizes_is_a_profile():
    built = model("n (float[batch, tokens, 4] x) => (float[batch, tokens, 4] y) { y = Relu (x) }")
    given = block()
    from edgec.core.graph import tensor_spec

    given.inputs = tuple(tensor_spec(value) for value in built.graph.inputs)
    with pytest.raises(RequestError, match="batch, tokens"):
        shape_profiles(given)
    given.open_sizes = {"batch": OpenSize(1, 1, (1,)), "tokens": OpenSize(1, 512)}
    found = [profile.inputs["x"] for profile in shape_profiles(given)]
    assert [(one.min[1], one.max[1]) for one in found] == [(1, 256), (257, 512)]
    assert all(one.opt == one.max for one in found)
    given.open_sizes = {"batch": OpenSize(1, 4, (1, 4)), "tokens": OpenSize(64, 128, (64, 128))}
    found = [profile.inputs["x"] for profile in shape_profiles(given)]
    assert [one.min for one in found] == [(1, 64, 4), (1, 128, 4), (4, 64, 4), (4, 128, 4)]


@pytest.fixture
def file(tmp_path):
    """The block as an ONNX file."""
    path = tmp_path / "block.onnx"
    onnx.save(ir.to_proto(block(mask=True).model), path)
    return path


@needs_rtx
def test_compile_for_a_jetson_end_to_end(file, tmp_path):
    bundle = edgec.compile(str(file), target="jetson", output=tmp_path / "b.edgec")
    folder = bundle.engine_folder
    plan = Plan.read(folder)
    assert (plan.tensorrt, plan.compute_capability, plan.device) == ("10.3", "8.7", "jetson-orin-nano-8gb")
    assert plan.strongly_typed
    assert plan.flags == ()
    assert plan.model_sha256 == file_sha256(folder / plan.model)
    assert [(one.name, one.dtype) for one in plan.inputs] == [("x", "float32"), ("seen", "int64")]
    assert plan.layer_precisions.keys() <= plan.sources.keys()
    assert any("normed" in name for name in plan.layer_precisions)
    assert plan.needs.memory_bytes > plan.workspace_bytes
    record = json.loads((folder / "preview.json").read_text())
    assert record["compute_capability"] == "8.6"
    assert record["attention"] == {"sites": 1, "native": 0, "pattern": 1, "plugin": 0, "in_parts": []}
    assert (bundle.path / "device" / "edgec_engine").is_dir()
    notes = bundle.report()["model"]["notes"]
    assert any("jetson without a device means" in note for note in notes)
    gates = bundle.report()["numerics"]["gates"]
    assert [gate["gate"]["scaled"] for gate in gates] == [1e-4, 1e-4, 5e-2]
    assert bundle.report()["latency"]["measured"] is False
    with pytest.raises(RequestError, match="built and run on its Jetson"):
        edgec.load(bundle.path)
    engine = open_for_checking(folder)
    feeds, expected = bundle.samples()
    for feed, reference in zip(feeds, expected.references, strict=True):
        assert np.abs(engine.run(feed)["y"] - reference["y"]).max() < 5e-2
    engine.close()


@needs_rtx
def test_an_old_jetpack_gets_flags_and_narrow_integers_and_the_same_bytes_twice(file, tmp_path):
    built = [
        edgec.compile(str(file), target="jetson:orin-nano-8gb:jetpack5", output=tmp_path / name)
        for name in ("one.edgec", "two.edgec")
    ]
    plan = Plan.read(built[0].engine_folder)
    assert not plan.strongly_typed
    assert plan.flags == ("fp16", "obey_precision_constraints")
    assert [one.dtype for one in plan.inputs] == ["float32", "int32"]
    assert onnx.load(built[0].engine_folder / plan.model).opset_import[0].version == 17
    for name in ("model.onnx", "plan.json", "preview.json", "engine.json"):
        one, two = (bundle.engine_folder / name for bundle in built)
        assert one.read_bytes() == two.read_bytes(), name


def test_the_device_allows_what_the_compile_allowed():
    """A reduced graph's own gate in fp16 is wider; in fp32 no choice of tokens flips, and it has none."""
    given = block()
    wide = Gate(1.5, 0.5, 2.0, 0.1, "choices between nearly equal tokens")
    reduced = dataclasses.replace(given, gates={"fp16": wide})
    for one, precision, gate in (
        (reduced, "fp16", wide),
        (reduced, "fp32", GATES["fp32"]),
        (given, "fp16", GATES["fp16"]),
    ):
        judged = check(one, lambda _, one=one: one.references[0], stage="", precision=precision).gate
        assert writing.shipped_gate(one, precision) == judged == gate


@needs_rtx
def test_rtx_bundles_hold_the_engine(file, tmp_path):
    bundle = edgec.compile(str(file), target="rtx:sm86", output=tmp_path / "b.edgec")
    assert (bundle.engine_folder / "model.engine").stat().st_size > 10_000
    record = json.loads((bundle.engine_folder / "preview.json").read_text())
    assert record["compute_capabilities"] == ["8.6"]
    assert record["attention"]["native"] == 1


@needs_rtx
def test_int8_is_taken_within_the_budget(file, tmp_path):
    samples = {
        "x": np.concatenate([drawn(1, LENGTH, WIDTH, seed=seed) for seed in range(8)]),
        "seen": np.repeat((np.arange(LENGTH)[None] < LENGTH - 3).astype(np.int64), 8, axis=0),
    }
    np.savez(tmp_path / "calib.npz", **samples)
    bundle = edgec.compile(
        str(file),
        target="jetson",
        precision="int8",
        max_drop=0.05,
        calib=tmp_path / "calib.npz",
        output=tmp_path / "b.edgec",
    )
    found = onnx.load(bundle.engine_folder / "model.onnx")
    assert sum(node.op_type == "QuantizeLinear" for node in found.graph.node) == 4
    # int8 is off by more than rounding is: the device is told how far.
    assert Plan.read(bundle.engine_folder).gate.scaled > 0.25
    assert bundle.report()["accuracy"]["source"] - bundle.report()["accuracy"]["engine"] <= 0.05
    with pytest.raises(JobError, match="budget"):
        edgec.compile(
            str(file),
            target="jetson",
            precision="int8",
            max_drop=0.0,
            calib=tmp_path / "calib.npz",
            output=tmp_path / "c.edgec",
        )
    assert not (tmp_path / "c.edgec").exists()


def test_what_a_jetson_has_not_is_refused(file, tmp_path):
    with pytest.raises(JobError, match="bf16"):
        edgec.compile(str(file), target="jetson", precision="bf16", output=tmp_path / "b.edgec")
    with pytest.raises(RequestError, match="--latency"):
        edgec.compile(str(file), target="jetson", latency=5.0, output=tmp_path / "b.edgec")


@needs_rtx
def test_a_refusal_of_the_parser_names_node_and_layer():
    built = model("d (float[3, 3] x) => (float z) { y = Relu (x) z = Det (y) }")
    with pytest.raises(UnsupportedError, match=r"Det 'node_z' \(layer layers.z\)"):
        preview(built, [86], target="jetson")


@needs_rtx
def test_a_refusal_of_the_builder_names_node_and_layer():
    text = (
        "a (float[1, 2, 6, 64] q, float[1, 2, 6, 64] k) => (float[1, 2, 6, 64] y) { y = Attention (q, k, k) }"
    )
    with pytest.raises(UnsupportedError, match=r"Attention 'node_y' \(layer layers.y\).*kernel"):
        preview(model(text), [86], target="jetson")


@needs_rtx
def test_a_crash_of_the_builder_names_node_and_layer():
    """One fp16 tensor as queries and keys: tensorrt-rtx 1.7.1 ends with signal 11."""
    text = """a (float[1, 2, 6, 64] x) => (float[1, 2, 6, 64] y) {
        r = Relu (x) q = Cast <to = 10> (r) h = Attention (q, q, q) w = Cast <to = 1> (h) y = Tanh (w)
    }"""
    with pytest.raises(UnsupportedError, match=r"Attention 'node_h' \(layer layers.h\).*crashes on this"):
        preview(model(text), [86], target="jetson")


@pytest.mark.parametrize("culprit", range(5))
def test_the_first_node_to_crash_is_found(culprit):
    body = "a = Relu (x) b = Tanh (a) c = Add (a, b) d = Neg (x) y = Add (c, d)"
    built = model(f"c (float[2] x) => (float[2] y) {{ {body} }}")
    names = [node.name for node in built.graph]

    def crashes(part):
        onnx.checker.check_model(ir.to_proto(part), full_check=True)
        return names[culprit] in {node.name for node in part.graph}

    assert first_to_crash(built, crashes).name == names[culprit]
    assert [node.name for node in built.graph] == names


def test_a_plan_survives_writing_and_reading(tmp_path):
    target = target_named("jetson:xavier-nx-8gb")
    given = block()
    [candidate] = target.candidates(given, "fp32")
    target._shipped = None
    target.build(target.lower(given, candidate), candidate, tmp_path)
    plan = Plan.read(tmp_path)
    (tmp_path / "again").mkdir()
    plan.write(tmp_path / "again")
    assert Plan.read(tmp_path / "again") == plan
    assert plan.flags == ()
    assert plan.gate.scaled == 1e-4


def test_the_stand_in_runs_in_threads_and_says_when_it_is_closed(tmp_path):
    ir.save(
        ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 20]>
        doubled (float[64, 64] x) => (float[64, 64] y) { y = Add(x, x) }
    """),
        tmp_path / "model.onnx",
    )
    EngineDescription("tensorrt", "model.onnx", "fp32", 0, "", {}).write(tmp_path)
    engine = open_for_checking(tmp_path)

    def right(number):
        feeds = {"x": np.full((64, 64), number, np.float32)}
        return all(np.all(engine.run(feeds)["y"] == 2 * number) for _ in range(50))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(right, range(8)))
    engine.close()
    engine.close()
    with pytest.raises(RequestError, match="closed"):
        right(0)


@needs_rtx
def test_what_tensorrt_is_known_to_get_wrong_is_warned_about(tmp_path, capsys):
    text = """
        <ir_version: 9, opset_import: ["" : 18]>
        warped (float[1, 2, 6, 6] x, float[1, 4, 4, 2] grid) => (float[1, 2, 4, 4] y) {
            y = GridSample <mode = "bilinear"> (x, grid)
        }
    """
    onnx.save(onnx.parser.parse_model(text), tmp_path / "warped.onnx")
    made = tmp_path / "warped.edgec"
    compiled = run(
        ["compile", str(tmp_path / "warped.onnx"), "--target", "jetson", "-o", str(made)], debug=True
    )
    assert compiled == 0
    assert "known to be wrong: GridSample in TensorRT" in capsys.readouterr().out
    [finding] = Bundle.open(made).report()["known_wrong"]
    assert "github.com/NVIDIA/TensorRT/issues/4813" in finding["sources"]
    assert run(["package", str(made), "--docker", "-o", str(tmp_path / "context")], debug=True) == 0
    assert "known to be wrong: GridSample in TensorRT" in capsys.readouterr().err
