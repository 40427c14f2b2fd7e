"""`edgec package --wheel`: two wheels that pip installs, and a model that is imported."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from jetson_bundle import write_bundle

from edgec.core.bundle import Bundle
from edgec.core.errors import JobError
from edgec.packaging.wheel import package_name, write_wheels


def test_the_wheels_install_and_the_model_runs_without_the_compiler(x86_bundle: Path, tmp_path: Path) -> None:
    runtime, model = write_wheels(Bundle.open(x86_bundle), tmp_path)
    assert runtime.name.startswith("edgec_runtime-")
    assert model.name.startswith("small_x86-")
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(runtime), str(model)], check=True)
    code = """
import sys, numpy, small_x86
with small_x86.load() as session:
    feeds, expected = session.bundle.samples()
    [y] = expected.references[0].values()
    numpy.testing.assert_allclose(session.run(feeds[0])["y"], y, rtol=1e-4, atol=1e-4)
import edgec
print(edgec.__file__, sorted({'onnx', 'onnx_ir', 'torch', 'typer'} & set(sys.modules)))
"""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(site / "edgec" / "__init__.py"), "[]"]


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
