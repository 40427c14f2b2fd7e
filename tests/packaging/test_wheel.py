"""`edgec package --wheel`: two wheels that pip installs, and a model that is imported."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from jetson_bundle import write_bundle

from edgec.core.bundle import Bundle
from edgec.core.errors import JobError
from edgec.packaging.wheel import EXTRAS, package_name, write_runtime_wheel, write_wheels


@pytest.fixture(scope="module")
def bare(x86_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of a fresh environment: both wheels, numpy, ONNX Runtime, and nothing of the compiler."""
    folder = tmp_path_factory.mktemp("bare")
    wheels = write_wheels(Bundle.open(x86_bundle), folder)
    return environment(folder / "env", wheels, list(PACKAGES))


PACKAGES = ("numpy", "onnxruntime")


def environment(folder: Path, wheels: list[Path], packages: list[str]) -> Path:
    """A virtual environment that has wheels, and links to packages that are installed here; its scripts."""
    venv.create(folder, symlinks=True)
    scripts = folder / "bin"
    site = next(folder.glob("lib/python*/site-packages"))
    pip = [sys.executable, "-m", "pip", "--python", str(scripts / "python"), "install", "-q", "--no-deps"]
    subprocess.run([*pip, "--no-index", *map(str, wheels)], check=True)
    for package in packages:
        for entry in importlib.metadata.files(package) or ():
            top = entry.parts[0]
            if not (site / top).exists() and top not in ("..", "__pycache__"):
                (site / top).symlink_to(Path(str(entry.locate())).parents[len(entry.parts) - 1] / top)
    return scripts


def output_of(command: list[str], status: int = 0) -> str:
    # Another site's packages would hide what is missing here.
    without = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=without)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if status == 0 else done.stderr


def test_the_wheels_install_and_the_model_runs_without_the_compiler(bare: Path) -> None:
    code = """
import sys, numpy, small_x86
with small_x86.load() as session:
    feeds, expected = session.bundle.samples()
    [y] = expected.references[0].values()
    numpy.testing.assert_allclose(session.run(feeds[0])["y"], y, rtol=1e-4, atol=1e-4)
print(sorted({'edgec', 'onnx', 'onnx_ir', 'torch', 'typer', 'starlette'} & set(sys.modules)))
"""
    assert output_of([str(bare / "python"), "-c", code]) == "[]\n"


def test_the_runtimes_own_command_verifies_runs_and_measures(bare: Path, x86_bundle: Path) -> None:
    command = str(bare / "edgec-runtime")
    assert "within the gate" in output_of([command, "verify", str(x86_bundle)])
    output = bare / "y.npz"
    assert output_of([command, "run", str(x86_bundle), "--output", str(output)]).startswith(
        "y  float32 [1, 8]"
    )
    assert np.load(output)["y"].shape == (1, 8)
    told = json.loads(output_of([command, "bench", str(x86_bundle), "--seconds", "0.1", "--json"]))
    assert 0 < told["p50"] <= told["p90"] <= told["p99"]
    assert "no such bundle" in output_of([command, "verify", "nothing"], status=2)
    said = output_of([command, "serve", str(x86_bundle)], status=2)
    assert "pip install 'edgec-runtime[serve]'" in said


def test_a_missing_engine_is_said_with_its_package(x86_bundle: Path, tmp_path: Path) -> None:
    runtime = write_runtime_wheel(tmp_path)
    scripts = environment(tmp_path / "env", [runtime], ["numpy"])
    said = output_of([str(scripts / "edgec-runtime"), "run", str(x86_bundle)], status=2)
    assert "needs the package onnxruntime" in said
    assert "pip install 'edgec-runtime[ort]'" in said


def test_the_runtime_is_small_and_whole(tmp_path: Path) -> None:
    path = write_runtime_wheel(tmp_path)
    assert path.stat().st_size <= 116_000
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".py"):
                text = archive.read(name).decode()
                assert not re.search(r"^\s*(from|import) edgec\b(?!_)", text, re.MULTILINE), name


def test_the_runtime_asks_for_the_servers_packages_as_edgec_does(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in ("serve", "sign", "pictures"):
        assert sorted(EXTRAS[extra]) == sorted(each.split(";")[0] for each in extras[extra])


def test_the_same_bundle_gives_the_same_bytes(x86_bundle: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        write_wheels(Bundle.open(x86_bundle), folder)
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert files[0] == files[1]


def test_the_metadata_names_what_is_needed(x86_bundle: Path, tmp_path: Path) -> None:
    paths = write_wheels(Bundle.open(x86_bundle), tmp_path)
    with zipfile.ZipFile(paths[1]) as archive:
        name = next(name for name in archive.namelist() if name.endswith("METADATA"))
        metadata = archive.read(name).decode()
    assert "Requires-Dist: edgec_runtime==" in metadata
    assert "Requires-Dist: onnxruntime==" in metadata


def test_a_bundle_for_another_device_is_refused(tmp_path: Path) -> None:
    bundle = Bundle.open(write_bundle(tmp_path / "b.edgec"))
    with pytest.raises(JobError, match="not run by edgec's own runtime"):
        write_wheels(bundle, tmp_path)
    assert not list(tmp_path.glob("*.whl"))


@pytest.mark.parametrize(
    ("folder", "name"),
    [("deit.x86.edgec", "deit_x86"), ("3d-net.x86.edgec", "model_3d_net_x86"), ("Übung.edgec", "bung")],
)
def test_a_bundle_gets_a_name_that_can_be_imported(tmp_path: Path, folder: str, name: str) -> None:
    assert package_name(Bundle.open(write_bundle(tmp_path / folder))) == name
