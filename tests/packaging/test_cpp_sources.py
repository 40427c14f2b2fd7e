"""`edgec package --cpp`: a folder that CMake builds, and commands that work as printed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edgec.cli.main import run
from edgec.core.bundle import Bundle


def test_the_folder_has_the_bundle_and_the_commands_name_what_is_there(
    x86_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "with space"
    assert run(["package", str(x86_bundle), "--cpp", "-o", str(folder)], debug=False) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == str(folder)
    assert f"'{folder}'" in said[1]
    Bundle.open(folder / "bundle")
    assert (folder / "sample" / "0.npy").is_file()


@pytest.mark.full
@pytest.mark.skipif(not all(map(shutil.which, ("cmake", "g++"))), reason="needs cmake and a C++ compiler")
def test_the_commands_work_as_printed(
    x86_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["package", str(x86_bundle), "--cpp", "-o", str(tmp_path / "m.cpp")], debug=False) == 0
    _, *commands = capsys.readouterr().out.splitlines()
    for command in commands:
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert done.stdout == "y float32 [1, 8]\n"


def test_a_bundle_for_another_device_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from jetson_bundle import write_bundle

    path = write_bundle(tmp_path / "b.jetson.edgec", tensorrt="10.3", jetpack="6.2")
    assert run(["package", str(path), "--cpp", "-o", str(tmp_path / "m.cpp")], debug=False) == 1
    assert "is not run by edgec's own runtime" in capsys.readouterr().err
    assert not (tmp_path / "m.cpp").exists()
