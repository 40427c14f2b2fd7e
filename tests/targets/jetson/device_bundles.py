"""A small Jetson bundle made by hand, and the environment of a simulated device that opens it."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnxruntime

from edgec.core import bundle as bundles
from edgec.core.bundle import InputsOutputs
from edgec.core.graph import TensorSpec
from edgec.core.numerics import GATES, Expected
from edgec.targets.jetson.on_device import copy_to

SIMULATION = Path(__file__).parent / "simulation"
SOURCES = {"/fc/MatMul": "encoder.fc", "/fc/Add": "encoder.fc", "/act/Relu": "encoder.act"}


def write_bundle(
    folder: Path,
    *,
    batch: str | int = "batch",
    ids: bool = False,
    others: Mapping[str, float] | None = None,
    **changes: Any,
) -> Path:
    """Write a sealed bundle with a linear layer and a ReLU; `changes` replace fields of its plan.

    `others` are variants' graphs, `model_NAME.onnx` by name, whose weights are so many times as large.
    """
    (folder / "engine").mkdir(parents=True)
    for name, scale in (others or {}).items():
        onnx.save(_model(batch, ids, name, scale), folder / "engine" / f"model_{name}.onnx")
    model = _model(batch, ids)
    onnx.save(model, folder / "engine" / "model.onnx")
    rng = np.random.default_rng(0)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = [_feed(rng, ids, 1 if isinstance(batch, str) else batch) for _ in range(3)]
    references = [{"y": session.run(["y"], feed)[0]} for feed in feeds]
    bundles.write_samples(folder, feeds, Expected(references))
    sizes = [1, 2, 4] if isinstance(batch, str) else [batch] * 3
    ranges = dict(zip(("min", "opt", "max"), ([size, 16] for size in sizes), strict=True))
    plan = {
        "schema": 1,
        "tensorrt": "10.3",
        "jetpack": "6.2",
        "cuda": "12.6",
        "compute_capability": "8.7",
        "device": "jetson-orin-nano-8gb",
        "model": "model.onnx",
        "model_sha256": bundles.file_sha256(folder / "engine" / "model.onnx"),
        "strongly_typed": True,
        "flags": [],
        "layer_precisions": {},
        "profiles": [{"inputs": {"x": ranges}}],
        "workspace_bytes": 1 << 28,
        "timing_cache": "timing.cache",
        "optimization_level": 3,
        "plugins": [],
        "needs": {"memory_bytes": 1 << 20, "disk_bytes": 1 << 20},
        "inputs": [{"name": "x", "shape": [-1, 16], "dtype": "int64" if ids else "float32"}],
        "outputs": [{"name": "y", "shape": [-1, 8], "dtype": "float32"}],
        "gate": dataclasses.asdict(GATES["fp16"]),
        "sources": SOURCES,
        **changes,
    }
    bundles.write_json(folder / "engine" / "plan.json", plan)
    copy_to(folder)
    specs = [TensorSpec("x", (batch, 16), plan["inputs"][0]["dtype"], "features")]
    outputs = [TensorSpec("y", (batch, 8), "float32", "features")]
    bundles.write_json(folder / "io.json", InputsOutputs(tuple(specs), tuple(outputs), {}, ()).to_json())
    bundles.write_json(folder / "report.json", {"schema": 1, "model": {"name": "small"}})
    (folder / "report.html").write_text("<!doctype html>")
    manifest = {
        "samples": 3,
        "target": "jetson",
        "engine": "tensorrt",
        "precision": "fp16",
        "device": {},
        "model": {"name": "small"},
        "latency": {"measured": False, "device": "", "entries": [], "predicted": []},
    }
    bundles.seal(folder, manifest)
    return folder


def variant(precision: str, edit: str = "", model: str = "", **changes: Any) -> dict[str, Any]:
    """A variant as a plan has it; `model` names one of the bundle's others."""
    return {
        "name": "_".join(filter(None, (precision, edit))),
        "what": f"types {precision}, edit {edit or 'none'}",
        "precision": precision,
        "edit": edit,
        "model": f"model_{model}.onnx" if model else "model.onnx",
        "model_sha256": "0" * 64,
        "flags": [],
        "layer_precisions": {},
        **changes,
    }


def _model(batch: str | int, ids: bool, name: str = "small", scale: float = 1.0) -> onnx.ModelProto:
    rng = np.random.default_rng(1)
    weight = scale * rng.standard_normal((16, 8)).astype(np.float32)
    first = "f" if ids else "x"
    nodes = [onnx.helper.make_node("Cast", ["x"], ["f"], name="/cast", to=1)] if ids else []
    nodes += [
        onnx.helper.make_node("MatMul", [first, "w"], ["m"], name="/fc/MatMul"),
        onnx.helper.make_node("Add", ["m", "b"], ["a"], name="/fc/Add"),
        onnx.helper.make_node("Relu", ["a"], ["y"], name="/act/Relu"),
    ]
    kind = onnx.TensorProto.INT64 if ids else onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        name,
        [onnx.helper.make_tensor_value_info("x", kind, [batch, 16])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [batch, 8])],
        [onnx.numpy_helper.from_array(weight, "w"), onnx.numpy_helper.from_array(weight[0], "b")],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def _feed(rng: np.random.Generator, ids: bool, batch: int) -> dict[str, np.ndarray]:
    if ids:
        return {"x": rng.integers(1, 100, (batch, 16))}
    return {"x": rng.standard_normal((batch, 16)).astype(np.float32)}


@functools.cache
def cuda_folder() -> Path:
    """The simulated CUDA runtime, compiled once a test process."""
    folder = Path(tempfile.mkdtemp(prefix="edgec-simulated-cuda-"))
    library = folder / "libcudart.so"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SIMULATION / "cudart.c")]
    subprocess.run(command, check=True)
    return folder


def device_environment(bundle: Path | None = None, **simulated: str) -> dict[str, str]:
    """The environment of a process on the device; `simulated` become EDGEC_SIMULATED_… variables."""
    path = [str(SIMULATION)] + ([str(bundle / "device")] if bundle else [])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "LD_LIBRARY_PATH": str(cuda_folder()),
        "PATH": os.pathsep.join(
            [str(SIMULATION / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
        ),
        "EDGEC_SIMULATED_GPU": "Orin:8.7",
        "OMP_NUM_THREADS": "1",
    }
    environment.update({f"EDGEC_SIMULATED_{name.upper()}": value for name, value in simulated.items()})
    return environment


def edgec_engine(
    bundle: Path, command: str, *options: str, **simulated: str
) -> tuple[int, dict[str, Any], str]:
    """Run a subcommand on the simulated device: exit status, its JSON, what it said."""
    done = subprocess.run(
        [sys.executable, "-B", "-m", "edgec_engine", command, str(bundle), "--json", *options],
        env=device_environment(bundle, **simulated),
        capture_output=True,
        text=True,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr
