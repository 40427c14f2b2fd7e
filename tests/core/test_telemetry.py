"""Importing edgec turns off what the libraries under it would send."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import edgec, onnxruntime
from onnx import TensorProto, helper
value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value("x")], [value("y")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
"""


def run(code: str, home: Path, **more: str) -> list[Path]:
    """Files that a process leaves in its home."""
    environment = {key: value for key, value in os.environ.items() if "TELEMETRY" not in key}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), **more}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)
    return [path for path in home.rglob("*") if path.is_file()]


def test_onnx_runtime_leaves_no_device_id(tmp_path: Path) -> None:
    assert not run(RUN, tmp_path)


def test_openvino_finds_nothing_to_send_with(tmp_path: Path) -> None:
    try:
        importlib.metadata.version("openvino-telemetry")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("OpenVINO's telemetry is not installed")
    code = """
import edgec
try:
    import openvino_telemetry
except ImportError:
    pass
else:
    raise SystemExit("it was imported")
"""
    assert not run(code, tmp_path)


def test_whoever_wants_it_has_it() -> None:
    code = "import edgec, os, sys; sys.exit('ORT_DISABLE_TELEMETRY' in os.environ)"
    environment = {key: value for key, value in os.environ.items() if "TELEMETRY" not in key}
    subprocess.run([sys.executable, "-c", code], env={**environment, "EDGEC_TELEMETRY": "1"}, check=True)
