"""The C++ builder and runner, compiled by its own CMakeLists.txt with every warning an error.

It is linked against a simulated TensorRT and CUDA (simulation/cpp, simulation/cudart.c), whose engine doubles
its input; where TensorRT's real headers are installed it is compiled against those as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from device_bundles import SIMULATION, cuda_folder, write_bundle

CPP = Path(__file__).resolve().parents[3] / "targets" / "jetson" / "on_device" / "cpp"
REAL_HEADERS = [*Path("/usr/include").glob("*/NvOnnxParser.h"), *Path("/usr/include").glob("NvOnnxParser.h")]

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("cmake", "g++", "gcc"))), reason="needs cmake and a C++ compiler"
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """edgec-engine, built and installed by its CMakeLists.txt."""
    folder = tmp_path_factory.mktemp("cpp")
    libraries = folder / "libraries"
    libraries.mkdir()
    source, include = SIMULATION / "cpp" / "tensorrt.cpp", SIMULATION / "cpp"
    command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", f"-I{include}"]
    subprocess.run([*command, "-o", str(libraries / "libnvinfer.so"), str(source)], check=True)
    shutil.copy(libraries / "libnvinfer.so", libraries / "libnvonnxparser.so")
    configure = [
        f"-DTENSORRT_INCLUDE={include}",
        f"-DCUDA_INCLUDE={include}",
        f"-DNVINFER={libraries / 'libnvinfer.so'}",
        f"-DNVONNXPARSER={libraries / 'libnvonnxparser.so'}",
        f"-DCUDART={cuda_folder() / 'libcudart.so'}",
    ]
    made = folder / "made"
    subprocess.run(["cmake", "-S", str(CPP), "-B", str(made), *configure], check=True, capture_output=True)
    done = subprocess.run(["cmake", "--build", str(made), "--parallel", "2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    subprocess.run(
        ["cmake", "--install", str(made), "--prefix", str(folder)], check=True, capture_output=True
    )
    return folder / "bin" / "edgec-engine"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", np.arange(32, dtype=np.float32).reshape(2, 16))
    return write_bundle(tmp_path / "b.edgec")


def call(program: Path, *words: object, gpu: str | None = "Orin:8.7") -> subprocess.CompletedProcess[str]:
    # What is installed has no path to the libraries in it, as on a device.
    libraries = f"{program.parent.parent / 'libraries'}:{cuda_folder()}"
    environment = {**os.environ, "LD_LIBRARY_PATH": libraries}
    if gpu is not None:
        environment["EDGEC_SIMULATED_GPU"] = gpu
    return subprocess.run([str(program), *map(str, words)], env=environment, capture_output=True, text=True)


def test_it_builds_runs_and_measures(program: Path, bundle: Path, tmp_path: Path) -> None:
    engine = tmp_path / "model.engine"
    done = call(program, "build", bundle, engine)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "model.engine.json").read_text())
    assert record["tensorrt"] == "10.3.0"
    assert record["gpu"] == "Orin"
    assert (tmp_path / "timing.cache").read_bytes() == b"timed"
    given = ("--input", f"x={tmp_path / 'x.npy'}")
    done = call(program, "run", bundle, engine, *given, "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "y.npy"), 2 * np.load(tmp_path / "x.npy"))
    # A record that edgec_engine wrote has more in it, and all four numbers of the version.
    record = {**record, "tensorrt": "10.3.0.30", "plugins": {}, "notes": [], "kept": False, "seconds": 1.5}
    (tmp_path / "model.engine.json").write_text(json.dumps(record))
    done = call(program, "bench", bundle, engine, *given, "--blocks", "3", "--runs", "5")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert len(report["latency"]["blocks"]) == 3
    assert report["latency"]["p50"] > 0


def test_int64_is_fed_to_an_engine_of_int32_where_it_fits(
    program: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT 8 narrows the model's int64, and a bundle's samples stay as the model has them."""
    monkeypatch.setenv("EDGEC_SIMULATED_INTEGERS", "1")
    engine, ids = tmp_path / "model.engine", tmp_path / "ids.npy"
    assert call(program, "build", bundle, engine).returncode == 0
    given = ("--input", f"x={ids}")
    numbers = np.arange(-16, 16).reshape(2, 16) << 25
    np.save(ids, numbers)
    done = call(program, "run", bundle, engine, *given, "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "y.npy"), 2 * numbers)
    for edge, fits in ((2**31 - 1, True), (2**31, False), (-(2**31), True), (-(2**31) - 1, False)):
        np.save(ids, np.full((2, 16), edge))
        done = call(program, "run", bundle, engine, *given)
        assert done.returncode == (0 if fits else 2), done.stderr
        assert fits or f"input 'x' holds {edge}, too large for <i4" in done.stderr
    np.save(ids, np.ones((2, 16), np.float32))
    assert "is <f4, the engine takes <i4" in call(program, "run", bundle, engine, *given).stderr


def test_its_sha256_is_sha256(program: Path, bundle: Path, tmp_path: Path) -> None:
    engine = tmp_path / "model.engine"
    for extra in range(0, 130, 13):
        model = bundle / "engine" / "model.onnx"
        model.write_bytes(b"x" * (1 + extra))
        assert call(program, "build", bundle, engine).returncode == 0
        record = json.loads((tmp_path / "model.engine.json").read_text())
        assert record["engine_sha256"] == hashlib.sha256(engine.read_bytes()).hexdigest()


def test_it_refuses_what_does_not_hold_here(program: Path, bundle: Path, tmp_path: Path) -> None:
    engine, given = tmp_path / "model.engine", ("--input", f"x={tmp_path / 'x.npy'}")

    def refused(*words: object, status: int = 1, gpu: str | None = "Orin:8.7") -> str:
        done = call(program, *words, gpu=gpu)
        assert done.returncode == status, done.stderr
        assert done.stderr.startswith("edgec-engine: ")
        return done.stderr

    assert "is not built yet" in refused("run", bundle, engine, *given)
    assert "compute capability 11.0" in refused("build", bundle, engine, gpu="Thor:11.0")
    assert "CUDA finds no GPU" in refused("build", bundle, engine, gpu=None)
    assert not engine.exists()
    assert call(program, "build", bundle, engine).returncode == 0
    assert "this machine has Orin NX" in refused("run", bundle, engine, *given, gpu="Orin NX:8.7")
    np.save(tmp_path / "five.npy", np.zeros((5, 16), np.float32))
    said = refused("run", bundle, engine, "--input", f"x={tmp_path / 'five.npy'}", status=2)
    assert "x [5, 16]: outside the engine's profiles; feed x [1, 16] to [4, 16]" in said
    np.save(tmp_path / "double.npy", np.zeros((2, 16)))
    said = refused("run", bundle, engine, "--input", f"x={tmp_path / 'double.npy'}", status=2)
    assert "is <f8, the engine takes <f4" in said
    assert "no array for input 'x'" in refused("run", bundle, engine, status=2)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-1])
    assert "is cut" in refused("run", bundle, engine, "--input", f"x={tmp_path / 'cut.npy'}", status=2)
    data = bytearray(engine.read_bytes())
    data[-1] ^= 1
    engine.write_bytes(bytes(data))
    assert "changed after it was built" in refused("run", bundle, engine, *given)
    record = json.loads((tmp_path / "model.engine.json").read_text())
    (tmp_path / "model.engine.json").write_text(json.dumps({**record, "tensorrt": "8.5.2"}))
    assert "built with TensorRT 8.5.2" in refused("run", bundle, engine, *given)
    (bundle / "engine" / "model.onnx").unlink()
    assert "does not take the model; the file cannot be opened" in refused("build", bundle, engine)
    (bundle / "engine" / "plan.json").write_text("{")
    assert "not JSON" in refused("build", bundle, engine)
    assert "no command fly" in refused("fly", write_bundle(tmp_path / "c.edgec"), engine, status=2)


@pytest.mark.skipif(not REAL_HEADERS, reason="TensorRT's headers are not installed")
@pytest.mark.parametrize("source", sorted((CPP / "source").glob("*.cpp")), ids=lambda path: path.stem)
def test_it_compiles_against_the_real_headers(source: Path) -> None:
    include = ["-isystem", str(REAL_HEADERS[0].parent), "-isystem", "/usr/local/cuda/include"]
    flags = ["-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"]
    done = subprocess.run(["g++", *flags, *include, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
