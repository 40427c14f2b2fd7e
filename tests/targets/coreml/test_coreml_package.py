"""What ends up on disk: the same bytes each time, and nothing where it cannot be done."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from coreml_graphs import make_model
from onnx import helper

from edgec.core.errors import RequestError
from edgec.targets.coreml.lowering import program

BUILD = """
import sys
from pathlib import Path
import onnx_ir as ir
from edgec.targets.coreml.lowering.program import lower
from edgec.targets.coreml.package import save
from edgec.targets.coreml.versions import release
ios18 = release("ios18")
save(lower(ir.load(sys.argv[1]), ios18, half_inputs=True), Path(sys.argv[2]), ios18, "fp16")
"""


def small_model() -> onnx.ModelProto:
    import onnx_ir as ir

    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=(32, 32)).astype(np.float32) for name in ("a", "b")}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["y"]),
        helper.make_node("Gelu", ["y"], ["g"]),
        helper.make_node("MatMul", ["g", "b"], ["z"]),
        helper.make_node("Softmax", ["z"], ["p"]),
    ]
    outputs = {"z": ("float32", (1, 32)), "p": ("float32", (1, 32))}
    return ir.to_proto(make_model(nodes, {"x": ("float32", (1, 32))}, outputs, weights))


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    onnx.save(small_model(), file)
    digests = []
    for seed in ("1", "2"):
        package = tmp_path / f"{seed}.mlpackage"
        subprocess.run(
            [sys.executable, "-c", BUILD, str(file), str(package)],
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        digests.append(
            {
                path.relative_to(package): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in package.rglob("*")
                if path.is_file()
            }
        )
    assert digests[0] == digests[1]
    assert len(digests[0]) == 3


def test_a_model_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx_ir as ir

    monkeypatch.setattr(program, "MAX_BYTES", 1000)
    with pytest.raises(RequestError, match="stops at 2 GiB; split the model"):
        program.check_size(ir.from_proto(small_model()))
