"""Compiling the kernels: one shared library for plain calls, one as an OpenVINO extension.

Both hold the same objects for every x86-64 instruction set and pick one at run time, so a library made
on one machine serves on another. Libraries are kept by the hash of their sources, the compiler and the
OpenVINO release; a second call finds the first one's. A kept library ends in the sha256 of the rest, so that
a damaged one is compiled again instead of being loaded.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgec.core.errors import JobError, MissingExtraError

SOURCES = Path(__file__).parents[2] / "kernels" / "cpu"
OPENVINO_OPS = frozenset(
    {
        "PackTokens",
        "SizeBias",
        "TokenMerge",
        "TokenMergeEnergy",
        "TokenPrune",
        "TokenRestore",
        "UnpackTokens",
        "VarlenAttention",
        "VarlenWindowAttention",
    }
)
"""The ops of `ai.edgec` that the OpenVINO extension implements."""

_FLAGS = ("-O3", "-std=c++17", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-fno-math-errno")
_INSTRUCTIONS = {
    "avx512": ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"),
    "avx2": ("-mavx2", "-mfma"),
    "baseline": (),
}
_HEADERS = ("vectors.h", "token_kernels.h", "varlen_attend.h", "varlen_kernels.h")
_PER_ISA = ("token_kernels_isa.cpp", "varlen_kernels_isa.cpp")
_AMX = "varlen_kernels_amx.cpp"
_AMX_FLAGS = (*_INSTRUCTIONS["avx512"], "-mamx-tile", "-mamx-bf16")
_PLAIN = ("token_kernels.cpp", "varlen_kernels.cpp")
_EXTENSION = Path(__file__).parent / "extension.cpp"


def cache_folder() -> Path:
    """Where compiled libraries are kept: `edgec/kernels` under `$XDG_CACHE_HOME` or `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "edgec" / "kernels"


def compiler() -> str:
    """The C++ compiler: `$CXX`, else g++.

    Raises:
        JobError: there is none, or this is not an x86-64 Linux.
    """
    if platform.machine() not in ("x86_64", "AMD64") or platform.system() != "Linux":
        raise JobError(
            "the token kernels are built for x86-64 Linux only",
            where=f"{platform.system()} {platform.machine()}",
        )
    found = shutil.which(os.environ.get("CXX", "g++"))
    if found is None:
        raise JobError("no C++ compiler is installed", fix="install g++ 11 or newer, or set CXX")
    return found


def kernel_library() -> Path:
    """The plain C entries of the kernels' headers as a shared library; compiled at the first call.

    Raises:
        JobError: no compiler, or it failed.
    """
    return _library("edgec_kernels", (), (), salt="")


def openvino_library() -> Path:
    """The OpenVINO extension for `core.add_extension`; compiled at the first call, in some seconds.

    It links to OpenVINO by library name alone, so it can be copied beside a model and loaded wherever the
    same OpenVINO release is installed.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        JobError: no compiler, or it failed.
    """
    spec = importlib.util.find_spec("openvino")
    if spec is None or spec.origin is None:
        raise MissingExtraError("openvino", "openvino")
    root = Path(spec.origin).parent
    libraries = [_one(root / "libs", name) for name in ("openvino", "openvino_onnx_frontend", "tbb")]
    include = (f"-isystem{root / 'include'}",)
    return _library(
        "edgec_openvino",
        include,
        [str(path) for path in libraries],
        salt=importlib.metadata.version("openvino"),
        extension=_EXTENSION,
    )


def _one(folder: Path, name: str) -> Path:
    found = sorted(folder.glob(f"lib{name}.so.*"))
    if not found:
        raise JobError(
            f"the installed OpenVINO has no lib{name}.so",
            where=str(folder),
            fix="install openvino from PyPI, whose wheel ships headers and libraries",
        )
    return found[0]


def _library(
    stem: str,
    include: Sequence[str],
    link: Sequence[str],
    *,
    salt: str,
    extension: Path | None = None,
) -> Path:
    cxx = compiler()
    digest = hashlib.sha256()
    version = subprocess.run([cxx, "--version"], capture_output=True, check=False).stdout
    for part in (version, salt.encode(), repr((_FLAGS, _INSTRUCTIONS, _AMX_FLAGS)).encode()):
        digest.update(part)
    for name in (*_HEADERS, *_PER_ISA, _AMX, *_PLAIN, *([extension] if extension else [])):
        digest.update((SOURCES / name).read_bytes())
    target = cache_folder() / f"{stem}-{digest.hexdigest()[:16]}.so"
    if _is_whole(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        folder = Path(work)
        units: list[tuple[str | Path, str, tuple[str, ...]]] = [
            (name, isa, (*flags, f"-DEDGEC_ISA={isa}"))
            for isa, flags in _INSTRUCTIONS.items()
            for name in _PER_ISA
        ]
        units += [(_AMX, "amx", _AMX_FLAGS), *((name, "plain", ()) for name in _PLAIN)]
        if extension:
            units.append((extension, "plain", (*include, f"-I{SOURCES}")))
        objects = [folder / f"{Path(name).name}-{isa}.o" for name, isa, _ in units]
        commands = [
            [cxx, *_FLAGS, *flags, "-c", str(SOURCES / name), "-o", str(made)]
            for (name, _, flags), made in zip(units, objects, strict=True)
        ]
        with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
            list(pool.map(_run, commands))
        made = folder / "library.so"
        _run([cxx, "-shared", "-s", *map(str, objects), *link, "-o", str(made)])
        content = made.read_bytes()
        made.write_bytes(content + hashlib.sha256(content).digest())
        made.replace(target)
    return target


def _is_whole(library: Path) -> bool:
    """Whether a kept library is there and as it was written: loaders ignore what lies behind an ELF file."""
    if not library.is_file():
        return False
    content = library.read_bytes()
    size = hashlib.sha256().digest_size
    return hashlib.sha256(content[:-size]).digest() == content[-size:]


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr.strip()]
        raise JobError(
            f"the C++ compiler failed: {lines[0][:300]}",
            where=Path(command[-3]).name,
            fix="a g++ of version 11 or newer is known to work",
        )
