"""TVM's runtime for a processor: two shared libraries, from the installed package or from its wheels."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from edgec.core.errors import JobError, MissingExtraError
from edgec.plugins.kernels.cpu.build import cache_folder
from edgec.targets.tvm.machines import Core

FILES = ("libtvm_ffi.so", "libtvm_runtime.so")
"""In the order in which they are loaded."""

FOLDER = "EDGEC_TVM_AARCH64"
"""In the environment: a folder with the two libraries for ARM, where they are not to be fetched."""

_PLATFORMS = (
    "manylinux_2_28_aarch64",
    "manylinux_2_27_aarch64",
    "manylinux_2_24_aarch64",
    "manylinux2014_aarch64",
)
_PACKAGES = ("apache-tvm", "apache-tvm-ffi")


def version() -> str:
    """The installed TVM's version.

    Raises:
        MissingExtraError: it is not installed.
    """
    if importlib.util.find_spec("tvm") is None or importlib.util.find_spec("tvm_ffi") is None:
        raise MissingExtraError("apache-tvm", "tvm")
    return importlib.metadata.version("apache-tvm")


def runtime_folder(core: Core) -> Path:
    """A folder with the runtime's libraries for a processor.

    For another processor than this machine's they come out of the wheels of the installed version, which pip
    fetches once.

    Raises:
        MissingExtraError: TVM is not installed.
        JobError: the wheels cannot be had.
    """
    kept = cache_folder().parent / "tvm" / f"{core.processor}-{version()}"
    given = os.environ.get(FOLDER, "") if not core.is_here else ""
    if given:
        missing = [name for name in FILES if not (Path(given) / name).is_file()]
        if missing:
            raise JobError(
                f"{FOLDER} has no {missing[0]}", where=given, fix="give a folder with both libraries"
            )
        return Path(given)
    if all((kept / name).is_file() for name in FILES):
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as work:
        folder = Path(work) / "runtime"
        folder.mkdir()
        if core.is_here:
            _copy_installed(folder)
        else:
            _fetch(Path(work), folder)
        shutil.rmtree(kept, ignore_errors=True)
        folder.rename(kept)
    return kept


def _copy_installed(folder: Path) -> None:
    for package, name in zip(("tvm_ffi", "tvm"), FILES, strict=True):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        shutil.copyfile(Path(spec.origin).parent / "lib" / name, folder / name)


def _fetch(work: Path, folder: Path) -> None:
    wanted = [f"{name}=={importlib.metadata.version(name)}" for name in _PACKAGES]
    platforms = [word for each in _PLATFORMS for word in ("--platform", each)]
    command = ["pip", "download", "--no-deps", "--only-binary", ":all:", *platforms, "-d", str(work), *wanted]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if "ERROR" in line] or ["pip says nothing"]
        raise JobError(
            f"TVM's runtime for ARM cannot be fetched ({said[-1].strip()[:200]})",
            fix=f"fetch the wheels of {' and '.join(wanted)} for aarch64 elsewhere, unpack "
            f"{' and '.join(FILES)} into a folder and name it in {FOLDER}",
        )
    for wheel in work.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                if Path(member).name in FILES:
                    (folder / Path(member).name).write_bytes(archive.read(member))
