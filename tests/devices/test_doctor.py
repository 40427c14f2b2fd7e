"""The doctor: what is broken is found and explained, and nothing takes the doctor with it."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from edgec.devices import doctor, packages
from edgec.devices.check import Check
from edgec.devices.packages import Imported, Wanted, judge, try_imports


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_imports_that_fail_exit_crash_or_print_are_told_apart(modules: Path) -> None:
    texts = {
        "fails_here": "raise RuntimeError('operator x::y does not exist\\nsecond line')",
        "exits_here": "raise SystemExit(3)",
        "dies_here": "import os; os._exit(7)",
        "crashes_here": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "prints_here": "print('hello', flush=True)",
        "works_here": "import json",
    }
    for name, text in texts.items():
        (modules / f"{name}.py").write_text(text, encoding="utf-8")
    found = try_imports([*texts, "is_not_there"], seconds=30)
    assert found["fails_here"] == Imported(True, "RuntimeError: operator x::y does not exist")
    assert found["exits_here"] == Imported(True, "SystemExit: 3")
    assert found["dies_here"] == Imported(True, "the process ended with exit status 7")
    assert found["crashes_here"] == Imported(True, "the process ended with signal SIGSEGV")
    assert found["prints_here"] == found["works_here"] == Imported(True)
    assert "ModuleNotFoundError" in (found["is_not_there"].error or "")


def test_an_import_that_hangs_is_given_up(modules: Path) -> None:
    (modules / "hangs_here.py").write_text("import time; time.sleep(60)", encoding="utf-8")
    (modules / "works_first.py").write_text("", encoding="utf-8")
    start = time.monotonic()
    found = try_imports(["works_first", "hangs_here", "json"], seconds=4)
    assert time.monotonic() - start < 20
    assert found["works_first"] == Imported(True)
    assert found["hangs_here"] == found["json"] == Imported(False)


def test_the_working_folder_is_not_on_the_path(
    tmp_path: Path, modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "json.py").write_text("raise RuntimeError", encoding="utf-8")
    monkeypatch.chdir(folder)
    assert try_imports(["json"], seconds=30)["json"] == Imported(True)


NEED = Wanted("somepackage", "zoo", ">=2.0")


@pytest.mark.parametrize(
    ("version", "imported", "status", "word"),
    [
        (None, None, "missing", "not installed"),
        ("1.9", Imported(True), "broken", "edgec needs >=2.0"),
        ("2.1", Imported(True, "ImportError: libx.so"), "broken", "does not import: ImportError: libx.so"),
        ("2.1", Imported(False), "unknown", "not finished in time"),
        ("2.1", Imported(True), "ok", "2.1"),
        ("3.0rc1", Imported(True), "ok", "3.0rc1"),
    ],
)
def test_a_package_is_judged(version: str | None, imported: Imported | None, status: str, word: str) -> None:
    check = judge(NEED, version, imported, {})
    assert check.status == status
    assert word in check.found
    assert (check.fix is None) == (status == "ok")
    assert check.name == "somepackage [zoo]"


def test_a_missing_package_of_edgec_itself_is_broken() -> None:
    assert judge(Wanted("numpy", "", ""), None, None, {}).status == "broken"


def test_a_torchvision_of_another_torch_is_explained() -> None:
    error = "RuntimeError: operator torchvision::nms does not exist"
    check = judge(
        Wanted("torchvision", "torch", ""), "0.28.0", Imported(True, error), {"torch": "2.13.0+cpu"}
    )
    assert check.status == "broken"
    assert "built for torch 2.13.0+cpu" in (check.fix or "")


def test_what_edgec_wants_is_read_from_its_metadata() -> None:
    wanted = {need.package: need for need in packages.wanted_packages()}
    assert wanted["onnxruntime"].extra == ""
    assert wanted["openvino"].extra == "openvino"
    assert wanted["timm"].versions.startswith(">=")
    assert "edgec" not in wanted
    assert "pytest" not in wanted


def test_diagnose_reports_everything_and_survives_a_broken_tool(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\nsleep 60\n", encoding="utf-8")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(doctor, "TOOL_SECONDS", 0.5)
    monkeypatch.setattr(doctor, "check_packages", lambda: [Check("numpy", "ok", "2")])
    checks = {check.name: check for check in doctor.diagnose()}
    assert checks["docker"].status == "unknown"
    assert checks["python"].status == "ok"
    assert sys.executable in checks["python"].found
    assert {"processor", "disk", "C++ compiler", "nvcc", "TensorRT", "numpy"} <= set(checks)
    assert all(check.fix for check in checks.values() if check.status in ("missing", "broken"))
    json.dumps([vars(check) for check in checks.values()])


def test_a_full_disk_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 5e8})())
    check = doctor._disk()
    assert check.status == "broken"
    assert "0.5 GB free" in check.found


def test_a_failing_package_check_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[Check]:
        raise OSError("no processes left")

    monkeypatch.setattr(doctor, "check_packages", fail)
    last = doctor.diagnose()[-1]
    assert last.status == "broken"
    assert "no processes left" in last.found
