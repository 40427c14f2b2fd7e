"""What runs on the device, run with a simulated TensorRT and CUDA runtime (simulation/tensorrt.py, cudart.c).

The simulation follows the real module's names at each release and runs by ONNX Runtime: these tests prove the
calls, their order and every refusal, not what TensorRT makes of a model.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from device_bundles import cuda_folder, device_environment, edgec_engine, write_bundle

from edgec.core.numerics import GATES
from edgec.targets.jetson.on_device import copy_to

ON_DEVICE = Path(__file__).resolve().parents[3] / "targets" / "jetson" / "on_device" / "edgec_engine"
QUICK = ("--blocks", "2", "--seconds", "0.01")
JETPACK_5 = {"tensorrt": "8.5", "jetpack": "5.1.2", "cuda": "11.4", "strongly_typed": False}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "small.jetson.edgec")


def header(bundle: Path) -> dict:
    """What the simulated builder was told, from the engine that it wrote."""
    data = Path(f"{bundle}.device/model.engine").read_bytes()
    return json.loads(data.split(b"\0")[1])


@pytest.mark.parametrize("path", sorted(ON_DEVICE.glob("*.py")), ids=lambda path: path.stem)
def test_the_package_is_python_3_8_with_numpy_and_tensorrt_only(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    roots = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    roots |= {
        (node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
    }

    assert roots <= {*sys.stdlib_module_names, "numpy", "edgec_engine"}
    # `X | Y` and `list[X]` are for annotations only, which 3.8 does not evaluate.
    assert "from __future__ import annotations" in path.read_text() or path.stem in ("__init__", "__main__")


def test_all_that_is_copied_to_a_device_runs_on_python_3_8(tmp_path: Path) -> None:
    """By vermin's table of what each release of the standard library and the language has."""
    tool = shutil.which("vermin", path=str(Path(sys.executable).parent))
    assert tool is not None
    copied = copy_to(tmp_path) / "edgec_engine"
    assert (copied / "serving" / "server.py").is_file()
    done = subprocess.run(
        [tool, "-t=3.8-", "--no-tips", "--violations", str(copied)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("version", "changes"),
    [
        ("8.5.2", JETPACK_5),
        ("8.6.2", {**JETPACK_5, "tensorrt": "8.6", "jetpack": "6.0"}),
        ("10.3.0", {}),
        ("10.13.3", {"tensorrt": "10.13", "jetpack": "7.0", "cuda": "13.0"}),
        ("11.0.0", {"tensorrt": "11.0", "jetpack": "7.0", "cuda": "13.0"}),
    ],
)
def test_every_release_is_built_run_verified_and_measured(
    tmp_path: Path, version: str, changes: dict
) -> None:
    bundle = write_bundle(tmp_path / "b.edgec", **changes)
    simulated = {"tensorrt": version, "jetpack": changes.get("jetpack", "6.2")}
    status, built, said = edgec_engine(bundle, "build", **simulated)
    assert status == 0, said
    assert built["tensorrt"] == version
    assert built["compute_capability"] == "8.7"
    told = header(bundle)
    assert told["workspace"] == 1 << 28
    assert "TF32" not in told["flags"]
    assert told["profiles"] == [{"x": [[1, 16], [2, 16], [4, 16]]}]
    assert told["level"] == (None if version.startswith("8.5") else 3)
    assert ("Timing graph nodes" in said) == (not version.startswith("8."))
    status, report, said = edgec_engine(bundle, "bench", *QUICK, **simulated)
    assert status == 0, said
    assert report["verified"]["passed"]
    assert [layer["source"] for layer in report["layers"]] == ["encoder.fc", "encoder.act"]
    assert report["latency"]["p50"] > 0
    assert report["device"]["power_mode"] == "15W"
    assert report == json.loads(Path(f"{bundle}.device/measured.json").read_text())


def test_a_weakly_typed_build_sets_flags_and_keeps_layers(tmp_path: Path) -> None:
    kept = {"/fc/MatMul": "fp32", "/gone": "fp32"}
    flags = ["fp16", "obey_precision_constraints"]
    bundle = write_bundle(tmp_path / "b.edgec", **JETPACK_5, flags=flags, layer_precisions=kept)
    status, built, said = edgec_engine(bundle, "build", tensorrt="8.5.2", jetpack="5.1.2")
    assert status == 0, said
    assert header(bundle)["precisions"] == {"/fc/MatMul": "FLOAT"}
    assert header(bundle)["flags"] == ["FP16", "OBEY_PRECISION_CONSTRAINTS"]
    assert built["notes"] == ["no layer of /gone was found to keep it in fp32"]


def test_flags_that_a_release_no_longer_has_are_refused(tmp_path: Path) -> None:
    changes = {**JETPACK_5, "tensorrt": "11.0", "jetpack": "7.0", "flags": ["fp16"]}
    bundle = write_bundle(tmp_path / "b.edgec", **changes)
    status, fields, _ = edgec_engine(bundle, "build", tensorrt="11.0.0", jetpack="7.0")
    assert status == 1
    assert "builder flag fp16" in fields["error"]["what"]


def test_types_in_the_graph_are_refused_where_unknown(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b.edgec", **{**JETPACK_5, "strongly_typed": True})
    status, fields, _ = edgec_engine(bundle, "build", tensorrt="8.5.2", jetpack="5.1.2")
    assert status == 1
    assert "precision in the graph" in fields["error"]["what"]


def test_int64_inputs_are_fed_as_what_the_engine_takes(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b.edgec", ids=True, **JETPACK_5)
    simulated = {"tensorrt": "8.5.2", "jetpack": "5.1.2"}
    assert edgec_engine(bundle, "build", **simulated)[0] == 0
    assert edgec_engine(bundle, "verify", **simulated)[0] == 0
    np.savez(tmp_path / "large.npz", x=np.full((1, 16), 1 << 40))
    status, fields, _ = edgec_engine(bundle, "run", "--input", str(tmp_path / "large.npz"), **simulated)
    assert status == 2
    assert "int32" in fields["error"]["what"]


def test_a_good_engine_is_kept_and_the_timing_cache_is_used_again(bundle: Path) -> None:
    assert edgec_engine(bundle, "build")[1]["kept"] is False
    assert edgec_engine(bundle, "build")[1]["kept"] is True
    status, fields, said = edgec_engine(bundle, "build", "--again")
    assert (status, fields["kept"]) == (0, False)
    assert "using what was timed before" in said
    # A cache of another device is left aside, not an error.
    status, _, said = edgec_engine(bundle, "build", "--again", tensorrt="10.7.0")
    assert status == 0
    assert "timed before" not in said


def test_the_bundle_itself_is_never_written_to(bundle: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in bundle.rglob("*")}
    for command in ("check", "build", "verify", "info"):
        assert edgec_engine(bundle, command)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in bundle.rglob("*")} == before


@pytest.mark.parametrize(
    ("simulated", "word"),
    [
        ({"gpu": "Thor:11.0"}, "compute capability 11.0"),
        ({"tensorrt": "8.5.2"}, "TensorRT 8.5.2"),
        ({"tensorrt": "10.0.1"}, "TensorRT 10.0.1"),
        ({"jetpack": "5.1.2-b104"}, "JetPack 5.1.2"),
    ],
)
def test_a_device_that_does_not_fit_is_refused_before_anything_is_built(
    bundle: Path, simulated: dict[str, str], word: str
) -> None:
    status, fields, _ = edgec_engine(bundle, "check", **simulated)
    assert status == 1
    errors = [entry for entry in fields["checks"] if entry["status"] == "error"]
    assert any(word in entry["what"] for entry in errors)
    assert all(entry["fix"] for entry in errors)
    status, fields, _ = edgec_engine(bundle, "build", **simulated)
    assert status == 1
    assert word in fields["error"]["what"]
    assert not Path(f"{bundle}.device").exists()


@pytest.mark.parametrize("need", ["memory_bytes", "disk_bytes"])
def test_too_little_memory_or_disk_is_refused(tmp_path: Path, need: str) -> None:
    bundle = write_bundle(tmp_path / "b.edgec", needs={need: 1 << 60})
    status, fields, _ = edgec_engine(bundle, "build")
    assert status == 1
    assert f"of {need.split('_')[0]} free" in fields["error"]["what"]


def test_no_tensorrt_and_no_gpu_are_said(bundle: Path, tmp_path: Path) -> None:
    environment = device_environment(bundle)
    environment["PYTHONPATH"] = str(bundle / "device")
    del environment["EDGEC_SIMULATED_GPU"]
    command = ["python", "-B", "-m", "edgec_engine", "check", str(bundle), "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    said = [entry["what"] for entry in json.loads(done.stdout)["checks"] if entry["status"] == "error"]
    assert done.returncode == 1
    assert any("TensorRT's Python module does not load" in what for what in said)
    assert "CUDA finds no GPU here" in said


@pytest.mark.parametrize(
    ("simulated", "word"),
    [({"gpu": "Orin NX:8.7"}, "built on Orin"), ({"tensorrt": "10.7.0"}, "built with TensorRT 10.3.0")],
)
def test_an_engine_of_another_gpu_or_version_is_not_loaded(
    bundle: Path, simulated: dict[str, str], word: str
) -> None:
    assert edgec_engine(bundle, "build")[0] == 0
    status, fields, _ = edgec_engine(bundle, "run", **simulated)
    assert status == 1
    assert word in fields["error"]["what"]
    assert "build --again" in fields["error"]["fix"]


def test_a_machine_without_a_gpu_does_not_run_the_engine_of_one(bundle: Path) -> None:
    assert edgec_engine(bundle, "build")[0] == 0
    environment = device_environment(bundle)
    del environment["EDGEC_SIMULATED_GPU"]
    command = [sys.executable, "-B", "-m", "edgec_engine", "run", str(bundle), "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 1
    assert error["what"] == "the engine was built on Orin, CUDA finds no GPU here"
    assert "on the device" in error["fix"]


@pytest.mark.parametrize("at", [0, 500, -1])
def test_an_engine_with_a_changed_byte_is_not_loaded(bundle: Path, at: int) -> None:
    assert edgec_engine(bundle, "build")[0] == 0
    engine = Path(f"{bundle}.device/model.engine")
    data = bytearray(engine.read_bytes())
    data[at] ^= 1
    engine.write_bytes(bytes(data))
    status, fields, _ = edgec_engine(bundle, "run")
    assert status == 1
    assert "changed after it was built" in fields["error"]["what"]
    assert edgec_engine(bundle, "build")[1]["kept"] is False
    assert edgec_engine(bundle, "run")[0] == 0


def test_a_bundle_with_a_changed_byte_is_not_built(bundle: Path) -> None:
    model = bundle / "engine" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    status, fields, _ = edgec_engine(bundle, "build")
    assert status == 1
    assert "model.onnx: changed after it was written" in fields["error"]["what"]


def test_shapes_outside_the_profiles_are_refused_with_the_ranges(bundle: Path, tmp_path: Path) -> None:
    assert edgec_engine(bundle, "build")[0] == 0
    np.savez(tmp_path / "x.npz", x=np.zeros((5, 16), np.float32))
    status, fields, _ = edgec_engine(bundle, "run", "--input", str(tmp_path / "x.npz"))
    assert status == 2
    assert fields["error"]["what"] == "x [5, 16]: outside the engine's profiles"
    assert fields["error"]["fix"] == "feed x [1..4, 16]"


def test_a_fixed_shape_is_held_to_without_profiles(tmp_path: Path) -> None:
    inputs = [{"name": "x", "shape": [2, 16], "dtype": "float32"}]
    bundle = write_bundle(tmp_path / "b.edgec", batch=2, profiles=[], inputs=inputs)
    assert edgec_engine(bundle, "build")[0] == 0
    assert edgec_engine(bundle, "verify")[0] == 0
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 16), np.float32))
    status, fields, _ = edgec_engine(bundle, "run", "--input", str(tmp_path / "x.npz"))
    assert status == 2
    assert fields["error"]["fix"] == "feed x [2, 16]"


def test_the_profile_that_fits_is_chosen(tmp_path: Path) -> None:
    shapes = ([1, 16], [3, 16])
    buckets = [{"inputs": {"x": {"min": shape, "opt": shape, "max": shape}}} for shape in shapes]
    bundle = write_bundle(tmp_path / "b.edgec", profiles=buckets)
    assert edgec_engine(bundle, "build")[0] == 0
    for size, expected in ((1, 0), (3, 0), (2, 2)):
        np.savez(tmp_path / "x.npz", x=np.ones((size, 16), np.float32))
        output = tmp_path / "y.npz"
        options = ("--input", str(tmp_path / "x.npz"), "--output", str(output))
        status, fields, said = edgec_engine(bundle, "run", *options)
        assert status == expected, said
        if expected == 0:
            assert np.load(output)["y"].shape == (size, 8)
        else:
            assert fields["error"]["fix"] == "feed x [1, 16] or x [3, 16]"


@pytest.mark.parametrize(("arrays", "word"), [({}, "no array"), ({"x": 1, "z": 1}, "no input 'z'")])
def test_missing_and_unknown_inputs_are_refused(
    bundle: Path, tmp_path: Path, arrays: dict, word: str
) -> None:
    assert edgec_engine(bundle, "build")[0] == 0
    np.savez(tmp_path / "x.npz", **{name: np.zeros((1, 16), np.float32) for name in arrays})
    status, fields, _ = edgec_engine(bundle, "run", "--input", str(tmp_path / "x.npz"))
    assert status == 2
    assert word in fields["error"]["what"]


@pytest.mark.parametrize("damage", ["missing", "text", "cut", "one array"])
def test_a_file_that_is_no_npz_is_refused(bundle: Path, tmp_path: Path, damage: str) -> None:
    assert edgec_engine(bundle, "build")[0] == 0
    path = tmp_path / "x.npz"
    if damage == "text":
        path.write_text("x: 1\n")
    elif damage == "cut":
        np.savez(path, x=np.zeros((1, 16), np.float32))
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "one array":
        with path.open("wb") as file:
            np.save(file, np.zeros((1, 16), np.float32))
    status, fields, said = edgec_engine(bundle, "run", "--input", str(path))
    assert status == 2
    assert ("no such file" if damage == "missing" else "not an .npz file") in fields["error"]["what"]
    assert "pickle" not in fields["error"]["what"]
    assert "Traceback" not in said


GATE = dataclasses.asdict(GATES["fp16"])


def test_an_engine_that_is_off_fails_and_is_not_measured(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b.edgec", gate={**GATE, "scaled": -1.0})
    assert edgec_engine(bundle, "build")[0] == 0
    status, fields, _ = edgec_engine(bundle, "bench", *QUICK)
    assert status == 1
    assert "is off by" in fields["error"]["what"]
    assert not Path(f"{bundle}.device/measured.json").exists()


def test_too_little_gpu_memory_at_run_time_is_said(bundle: Path) -> None:
    assert edgec_engine(bundle, "build")[0] == 0
    status, fields, _ = edgec_engine(bundle, "run", gpu_bytes="8")
    assert status == 1
    assert "cudaMalloc failed: out of memory" in fields["error"]["what"]


def test_a_failed_build_leaves_no_engine_and_keeps_the_old_one(bundle: Path) -> None:
    status, fields, _ = edgec_engine(bundle, "build", build="fails")
    assert status == 1
    assert "Could not find any implementation for node x" in fields["error"]["what"]
    assert not list(Path(f"{bundle}.device").glob("model.engine*"))
    assert edgec_engine(bundle, "build")[0] == 0
    assert edgec_engine(bundle, "build", "--again", build="fails")[0] == 1
    assert edgec_engine(bundle, "run")[0] == 0


def test_two_builds_at_once_are_one_too_many(bundle: Path) -> None:

    environment = device_environment(bundle, build_seconds="20")
    command = [sys.executable, "-B", "-m", "edgec_engine", "build", str(bundle)]
    first = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert first.stderr is not None
        while "building the engine" not in first.stderr.readline():
            assert first.poll() is None
        status, fields, _ = edgec_engine(bundle, "build")
        assert status == 1
        assert "another build runs" in fields["error"]["what"]
    finally:
        os.kill(first.pid, 9)
        first.communicate()
    time.sleep(0.1)
    assert edgec_engine(bundle, "build")[0] == 0  # a killed build leaves no lock


@pytest.fixture
def plugin_bundle(tmp_path: Path) -> Path:
    """A bundle whose plugin library is there, built; it registers TokenMerge."""
    folder = tmp_path / "b.edgec"
    (folder / "plugins").mkdir(parents=True)
    source = tmp_path / "plugin.c"
    source.write_text('const char *edgec_simulated_creators(void) { return "TokenMerge"; }\n')
    library = folder / "plugins" / "libedgec_plugins.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return write_bundle(folder, plugins=[{"op": "TokenMerge", "library": library.name}])


def test_plugins_are_loaded_and_held_to_what_they_were(plugin_bundle: Path) -> None:
    status, built, said = edgec_engine(plugin_bundle, "build")
    assert status == 0, said
    assert list(built["plugins"]) == ["libedgec_plugins.so"]
    assert edgec_engine(plugin_bundle, "run")[0] == 0
    with (plugin_bundle / "plugins" / "libedgec_plugins.so").open("ab") as file:
        file.write(b"\0")
    status, fields, _ = edgec_engine(plugin_bundle, "run")
    assert status == 1
    assert "libedgec_plugins.so is changed" in fields["error"]["what"]


def test_a_plugin_that_no_library_registers_is_named(plugin_bundle: Path, tmp_path: Path) -> None:
    plan = plugin_bundle / "engine" / "plan.json"
    plugins = [{"op": "TokenPrune", "library": "libedgec_plugins.so"}]
    bundle = tmp_path / "c.edgec"
    (bundle / "plugins").mkdir(parents=True)
    shutil.copy(plugin_bundle / "plugins" / "libedgec_plugins.so", bundle / "plugins")
    write_bundle(bundle, plugins=plugins)
    assert plan.is_file()
    status, fields, _ = edgec_engine(bundle, "build")
    assert status == 1
    assert "registers the plugin TokenPrune" in fields["error"]["what"]


def test_plugins_that_came_as_sources_are_compiled_on_the_device(tmp_path: Path) -> None:
    folder = tmp_path / "b.edgec"
    (folder / "plugins").mkdir(parents=True)
    (folder / "plugins" / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(plugins C)\n"
        "if(NOT CMAKE_CUDA_ARCHITECTURES STREQUAL 87)\n  message(FATAL_ERROR wrong)\nendif()\n"
        "add_library(edgec_plugins SHARED plugin.c)\n"
    )
    (folder / "plugins" / "plugin.c").write_text(
        'const char *edgec_simulated_creators(void) { return "TokenMerge"; }\n'
    )
    bundle = write_bundle(folder, plugins=[{"op": "TokenMerge", "library": "libedgec_plugins.so"}])
    status, _, said = edgec_engine(bundle, "build")
    assert status == 0, said
    assert "compiling the plugins" in said
    assert Path(f"{bundle}.device/plugins/libedgec_plugins.so").is_file()
    assert edgec_engine(bundle, "verify")[0] == 0


def test_the_cuda_calls_exist_in_the_real_runtime_library() -> None:
    """Names in cuda.py and in the simulation are those of the toolkit's own libcudart, where there is one."""

    real = sorted(Path("/usr/local").glob("cuda*/lib64/libcudart.so"))
    if not real:
        pytest.skip("no CUDA toolkit")
    called = set(re.findall(r'"(cuda[A-Z]\w+)"', (ON_DEVICE / "cuda.py").read_text())) | {
        "cudaGetErrorString"
    }
    for library in (real[0], cuda_folder() / "libcudart.so"):
        symbols = subprocess.run(["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True)
        exported = {line.split()[-1].split("@")[0] for line in symbols.stdout.splitlines() if line}
        assert called <= exported, library
