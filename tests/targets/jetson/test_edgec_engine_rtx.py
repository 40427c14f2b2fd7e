"""The device's builder with a real TensorRT: TensorRT-RTX, whose API follows TensorRT 10 and 11.

It parses and builds with no GPU, for a compute capability that it is told; nothing is run here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from device_bundles import write_bundle

pytest.importorskip("tensorrt_rtx")


def build(bundle: Path, *options: str) -> tuple[int, dict, str]:
    environment = {
        **os.environ, "PYTHONPATH": str(bundle / "device"), "EDGEC_TENSORRT": "tensorrt_rtx",
    }  # fmt: skip
    command, *rest = options
    done = subprocess.run(
        [sys.executable, "-B", "-m", "edgec_engine", command, str(bundle), "--json", *rest],
        env=environment,
        capture_output=True,
        text=True,
    )
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "small.jetson.edgec", tensorrt="10.3")


def test_the_real_parser_and_builder_take_the_plan(bundle: Path) -> None:
    status, built, said = build(bundle, "build")
    assert status == 0, said
    assert built["tensorrt_module"] == "tensorrt_rtx"
    assert built["engine_bytes"] > 1000
    assert "parsing the model" in said
    assert (Path(f"{bundle}.device") / "timing.cache").is_file()
    assert build(bundle, "build")[1]["kept"] is True
    status, fields, _ = build(bundle, "run")
    assert status == 1
    assert "only built here, not run" in fields["error"]["what"]


def test_what_the_real_parser_refuses_is_told_with_node_and_layer(tmp_path: Path) -> None:
    import onnx

    folder = tmp_path / "b.edgec"
    bundle = write_bundle(folder, tensorrt="10.3")
    model = onnx.load(folder / "engine" / "model.onnx")
    model.graph.node[1].op_type = "NoSuchOp"
    onnx.save(model, folder / "engine" / "model.onnx")
    from edgec.core.bundle import seal

    manifest = json.loads((folder / "manifest.json").read_text())
    seal(folder, {key: value for key, value in manifest.items() if key not in ("files", "sha256")})
    status, fields, _ = build(bundle, "build")
    assert status == 1
    assert "NoSuchOp '/fc/Add' (layer encoder.fc)" in fields["error"]["what"]
