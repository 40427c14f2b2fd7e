"""What a bundle needs of this machine is seen before anything native is loaded."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_bundles import write_bundle

from edgec.core import bundle as bundles
from edgec.core.bundle import Bundle
from edgec.core.errors import IntegrityError, JobError, MissingExtraError
from edgec.runtime import machine
from edgec.runtime.engine import EngineDescription
from edgec.runtime.session import load

HERE = importlib.metadata.version("onnxruntime")


def changed(path: Path, **fields: object) -> Path:
    bundles.seal(path, {"samples": 0, **fields})
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(write_bundle(tmp_path, "ort", 2)[0])


@pytest.mark.parametrize(("version", "runs"), [(HERE, True), ("0.1", True), ("999.1.0", False), ("x", True)])
def test_an_engine_older_than_the_bundles_is_refused(path: Path, version: str, runs: bool) -> None:
    changed(path, tools={"onnxruntime": version})
    if runs:
        load(path).close()
        return
    with pytest.raises(JobError, match=rf"pip install onnxruntime=={version}"):
        load(path)


def test_a_missing_engine_is_said_with_its_extra(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(MissingExtraError, match=r"edgec\[ort\]"):
        load(path)


def test_another_machines_bundle_is_refused(path: Path) -> None:
    changed(path, device={"architecture": "riscv64"})
    with pytest.raises(JobError, match="verified on riscv64"):
        load(path)


@pytest.mark.parametrize(
    ("precision", "had", "flags", "runs"),
    [
        ("int8", ["avx512_vnni"], "fpu avx2", False),
        ("int8", ["avx512_vnni"], "fpu avx_vnni", True),
        ("int8", ["avx2"], "fpu avx2", True),
        ("bf16", ["amx_bf16"], "fpu avx2", False),
        ("fp32", ["avx512_vnni"], "fpu avx2", True),
        ("int8", ["avx512_vnni"], None, True),
    ],
)
def test_the_processor_has_what_the_numbers_rest_on(
    path: Path, tmp_path: Path, precision: str, had: list[str], flags: str | None, runs: bool
) -> None:
    bundle = Bundle.open(changed(path, device={"isa": had}))
    root = tmp_path / "root"
    if flags is not None:
        (root / "proc").mkdir(parents=True)
        (root / "proc" / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    if runs:
        machine.check_processor(bundle, precision, root)
        return
    with pytest.raises(JobError, match="this processor lacks"):
        machine.check_processor(bundle, precision, root)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x7fELF" + bytes(14) + b"\xf3\x00", "for another processor"),
        (Path(sys.executable).resolve().read_bytes()[:64], "plugins were built for"),
    ],
)
def test_a_plugin_for_another_machine_is_refused(path: Path, content: bytes, said: str) -> None:
    description = EngineDescription.read(path / "engine")
    dataclasses.replace(description, extensions=("kernels.so",)).write(path / "engine")
    (path / "engine" / "kernels.so").write_bytes(content)
    changed(path, tools={"onnxruntime": "0.1"})
    with pytest.raises((IntegrityError, JobError), match=said):
        load(path)


def test_a_plugin_that_is_not_recorded_is_refused(path: Path) -> None:
    description = EngineDescription.read(path / "engine")
    dataclasses.replace(description, extensions=("kernels.so",)).write(path / "engine")
    changed(path)
    with pytest.raises(IntegrityError, match="not part of the bundle"):
        load(path)


def test_damaged_bundles_are_refused_before_a_library_loads(path: Path, tmp_path: Path) -> None:
    """Bytes turned, cut and added at drawn places; the child that opens them may load no engine."""
    rng = np.random.default_rng(0)
    files = sorted(name for name in path.rglob("*") if name.is_file())
    folders = []
    for index in range(60):
        copy = tmp_path / f"{index}.edgec"
        for name in files:
            place = copy / name.relative_to(path)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(name.read_bytes())
        place = copy / files[index % len(files)].relative_to(path)
        data = bytearray(place.read_bytes())
        at = int(rng.integers(len(data)))
        if index % 3 == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif index % 3 == 1:
            del data[at:]
        else:
            data[at:at] = rng.bytes(7)
        place.write_bytes(data)
        folders.append(str(copy))
    code = (
        "import sys\n"
        "from edgec.core.errors import EdgecError\n"
        "from edgec.runtime.session import load\n"
        "for path in sys.argv[1:]:\n"
        "    try: load(path)\n"
        "    except EdgecError: continue\n"
        "    sys.exit(path)\n"
        "sys.exit('an engine was loaded' if {'onnxruntime', 'openvino'} & set(sys.modules) else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
