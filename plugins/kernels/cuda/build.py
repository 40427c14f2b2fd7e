"""Compiling the CUDA kernels: one shared library with code for every device that edgec targets."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgec.core.errors import JobError
from edgec.plugins.bindings.openvino.build import cache_folder

SOURCES = Path(__file__).parent

ARCHITECTURES = {
    "87": "Jetson Orin",
    "110": "Jetson Thor",
    "90": "H100 and H200, where the kernels are measured",
}
"""Compute capabilities, without the dot, and what has them."""

_TOKENS = ("token_cuda.h", "token_cuda.cu")
_VARLEN = ("varlen_cuda.h", "varlen_cuda.cu")
_FLAGS = ("-O3", "-std=c++17", "-Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra,-Werror,-fPIC")


def cuda_library(architectures: Sequence[str] = tuple(ARCHITECTURES)) -> Path:
    """The C entries of `token_cuda.h` as a shared library; compiled at the first call.

    Args:
        architectures: compute capabilities of `ARCHITECTURES` to hold code for.

    Raises:
        JobError: there is no nvcc, or it failed.
    """
    return _library("edgec_token_cuda", _TOKENS, architectures)


def varlen_library(architectures: Sequence[str] = tuple(ARCHITECTURES)) -> Path:
    """The C entry of `varlen_cuda.h` as a shared library, likewise."""
    return _library("edgec_varlen_cuda", _VARLEN, architectures)


def _library(name: str, files: tuple[str, str], architectures: Sequence[str]) -> Path:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise JobError("nvcc is not installed", fix="install the CUDA toolkit 12.6 or newer; sm_110 needs 13")
    digest = hashlib.sha256(subprocess.run([nvcc, "--version"], capture_output=True, check=False).stdout)
    digest.update(repr((_FLAGS, tuple(architectures))).encode())
    for each in files:
        digest.update((SOURCES / each).read_bytes())
    target = cache_folder() / f"{name}-{digest.hexdigest()[:16]}.so"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    code = [f"-gencode=arch=compute_{each},code=sm_{each}" for each in architectures]
    source = files[1]
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        made = Path(work) / "library.so"
        command = [
            nvcc,
            *_FLAGS,
            *code,
            "-cudart",
            "static",
            "-shared",
            str(SOURCES / source),
            "-o",
            str(made),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr.strip()]
            raise JobError(f"nvcc failed: {lines[0][:300]}", where=source)
        made.replace(target)
    return target
