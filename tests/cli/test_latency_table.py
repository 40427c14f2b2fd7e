"""`edgec devices table`: a table made, shown again, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Command
from onnx import TensorProto, helper, numpy_helper

from edgec.targets import segment_timer


@pytest.fixture(autouse=True)
def short_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(segment_timer, "_BLOCKS", 2)
    monkeypatch.setattr(segment_timer, "_BLOCK_SECONDS", 0.002)


def test_a_table_is_measured_and_shown_again(edgec: Command, model_file: Path) -> None:
    assert edgec("devices", "table", "--json").json["tables"] == []
    done = edgec("devices", "table", model_file, "--target", "x86:ort", "--json")
    assert done.status == 0, done.err
    fields = done.json
    assert fields["kind"] == "measured"
    assert fields["base_ms"] > 0
    heads = next(unit for unit in fields["units"] if unit["name"].startswith("heads:"))
    assert heads["levels"][0] == {"kept": 2, "ms": pytest.approx(fields["base_ms"])}
    assert "refused" in fields
    shown = edgec("devices", "table", model_file, "--target", "x86:ort")
    assert "whole network" in shown.out
    assert "measured" in shown.out
    (kept,) = edgec("devices", "table", "--json").json["tables"]
    assert kept["table"]["kind"] == "measured"
    assert "block" in edgec("devices", "table").out


def test_a_device_that_is_not_connected_is_labelled(edgec: Command, model_file: Path) -> None:
    done = edgec("devices", "table", model_file, "--target", "coreml", "--device", "iphone-15", "--json")
    assert done.status == 0, done.err
    assert done.json["kind"] == "predicted"
    assert "predicted" in edgec("devices", "table").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--target", "coreml"), "name its profile with --device"),
        (("--target", "coreml", "--device", "iphone-99"), "no device profile is named"),
        (("--target", "x86:ort", "--device", "iphone-15"), "leave --device out"),
        (("--target", "x87"), "no target is named"),
    ],
)
def test_what_cannot_be_timed_is_one_sentence(
    edgec: Command, model_file: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = edgec("devices", "table", model_file, *arguments)
    assert done.status == 2
    assert said in done.err
    assert "Traceback" not in done.err


def test_a_word_too_many_and_a_network_without_units_are_told(edgec: Command, tmp_path: Path) -> None:
    assert "edgec devices table MODEL" in edgec("devices", "iphone-15", "model.onnx").err
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", value[:1], [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 4])], [weight])  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
              tmp_path / "add.onnx")  # fmt: skip
    done = edgec("devices", "table", tmp_path / "add.onnx", "--target", "x86:ort")
    assert done.status == 1
    assert "nothing can be cut out of" in done.err
