"""An edited graph, sealed again: with onnx-graphsurgeon, as TensorRT's users edit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from jetson_bundle import write_bundle

from edgec.cli.main import run
from edgec.core.bundle import Bundle
from edgec.targets.jetson.plan import Plan

surgeon = pytest.importorskip("onnx_graphsurgeon")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    kept = {"/fc/MatMul": "fp32", "/act/Relu": "fp32"}
    weak = {"tensorrt": "8.5", "strongly_typed": False, "flags": ["fp16"], "layer_precisions": kept}
    return write_bundle(tmp_path / "b.edgec", **weak)


def edit(bundle: Path, change) -> None:
    path = bundle / "engine" / "model.onnx"
    graph = surgeon.import_onnx(onnx.load(path))
    change(graph)
    graph.cleanup().toposort()
    onnx.save(surgeon.export_onnx(graph), path)


def node(graph, op: str):
    return next(one for one in graph.nodes if one.op == op)


def relu_as_clip(graph) -> None:
    relu = node(graph, "Relu")
    zero = surgeon.Constant("zero", np.array(0, np.float32))
    clip = surgeon.Node("Clip", "/act/Clip", inputs=[relu.inputs[0], zero], outputs=list(relu.outputs))
    relu.outputs.clear()
    graph.nodes.append(clip)


def reseal(bundle: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict]:
    capsys.readouterr()
    status = run(["reseal", str(bundle), "--json"], debug=False)
    return status, json.loads(capsys.readouterr().out)


def test_an_equal_graph_is_sealed_and_the_plan_follows(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(bundle, relu_as_clip)
    assert run(["verify", str(bundle)], debug=False) == 1  # the seal is broken
    status, fields = reseal(bundle, capsys)
    assert status == 0, fields
    assert fields["changed"] == ["engine/model.onnx"]
    assert fields["said"] == ["/act/Relu is gone, and its precision with it"]
    opened = Bundle.open(bundle)
    plan = Plan.read(bundle / "engine")
    assert plan.layer_precisions == {"/fc/MatMul": "fp32"}
    assert plan.model_sha256 == opened.manifest["files"]["engine/model.onnx"]
    assert "/act/Clip" in plan.sources
    assert "was edited after the compile" in opened.report()["model"]["notes"][-1]
    assert reseal(bundle, capsys)[1]["changed"] == []


def off_by_a_little(graph) -> None:
    weight = next(tensor for tensor in graph.tensors().values() if tensor.name == "w")
    weight.values = 1.2 * weight.values


def own_plugin(graph) -> None:
    relu = node(graph, "Relu")
    relu.op, relu.domain = "EfficientNMS_TRT", "nvidia"


def other_output(graph) -> None:
    graph.outputs[0].name = "z"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (off_by_a_little, "no longer computes the samples: output 'y' is off by"),
        (own_plugin, "EfficientNMS_TRT '/act/Relu' (layer /act/Relu): its domain is unknown"),
        (other_output, "output 'z' is new and 'y' is gone"),
    ],
)
def test_what_is_not_the_same_network_any_more_is_refused_and_left_as_it_is(
    bundle: Path, change, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(bundle, change)
    before = (bundle / "manifest.json").read_bytes()
    status, fields = reseal(bundle, capsys)
    assert status in (1, 2)
    assert said in fields["error"]["what"]
    assert (bundle / "manifest.json").read_bytes() == before


def test_something_else_than_the_graph_is_no_edit(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(bundle, relu_as_clip)
    (bundle / "samples" / "0.outputs.npz").write_bytes(b"")
    status, fields = reseal(bundle, capsys)
    assert status != 0
    assert "samples/0.outputs.npz changed too" in fields["error"]["what"]


def test_a_file_that_is_no_onnx_is_said(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle / "engine" / "model.onnx").write_bytes(b"not a model")
    status, fields = reseal(bundle, capsys)
    assert status != 0
    assert "cannot be read as ONNX" in fields["error"]["what"]
