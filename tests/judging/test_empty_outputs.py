"""An output that is empty on every sample proves nothing, and that is said."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgec.compiler import load, to_neutral
from edgec.core.progress import Silent
from edgec.passes.pipeline import default_pipeline


@pytest.mark.parametrize(("least", "said"), [(1e6, True), (0.0, False)])
def test_an_output_that_no_sample_fills_is_named(tmp_path: Path, least: float, said: bool) -> None:
    nodes = [
        helper.make_node("Exp", ["x"], ["score"]),
        helper.make_node("Greater", ["score", "least"], ["found"]),
        helper.make_node("Compress", ["score", "found"], ["kept"]),
    ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [16])],
        [helper.make_tensor_value_info("kept", TensorProto.FLOAT, [None])],
        [helper.make_tensor("least", TensorProto.FLOAT, [], [least])],
    )
    path = tmp_path / "detector.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    notes = Silent()
    to_neutral(load(str(path)), default_pipeline(), notes)
    assert any("output 'kept' is empty on every sample" in note for note in notes.notes) is said
