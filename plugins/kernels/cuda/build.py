"""Compiling the CUDA kernels: one shared library a source, with code for every device that edgec targets."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgec.core.errors import JobError
from edgec.plugins.infra import KERNELS, plugins
from edgec.plugins.kernels.cpu.build import cache_folder

HERE = Path(__file__).parent

ARCHITECTURES = {
    "87": "Jetson Orin",
    "110": "Jetson Thor",
    "90": "H100 and H200, where the kernels are measured",
}
"""Compute capabilities, without the dot, and what has them."""

_FLAGS = ("-O3", "-std=c++17", "-Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra,-Werror,-fPIC")


def cuda_sources() -> list[Path]:
    """The CUDA sources of all plugins' kernels, each once."""
    return sorted({plugin.kernels["cuda"].path for plugin in plugins().values() if "cuda" in plugin.kernels})


def headers() -> list[Path]:
    """What the sources include of edgec's."""
    return sorted([*HERE.glob("*.h"), *KERNELS.glob("*.h")])


def cuda_library(source: Path, architectures: Sequence[str] = tuple(ARCHITECTURES)) -> Path:
    """The entries of one source, `edgec_cuda_<op type>`, as a shared library; compiled at the first call.

    Args:
        source: one of `cuda_sources`.
        architectures: compute capabilities of `ARCHITECTURES` to hold code for.

    Raises:
        JobError: there is no nvcc, or it failed.
    """
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise JobError("nvcc is not installed", fix="install the CUDA toolkit 12.6 or newer; sm_110 needs 13")
    digest = hashlib.sha256(subprocess.run([nvcc, "--version"], capture_output=True, check=False).stdout)
    digest.update(repr((_FLAGS, tuple(architectures))).encode())
    for each in (source, *headers()):
        digest.update(each.read_bytes())
    target = cache_folder() / f"edgec_cuda_{source.stem}-{digest.hexdigest()[:16]}.so"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    code = [f"-gencode=arch=compute_{each},code=sm_{each}" for each in architectures]
    include = [f"-I{KERNELS}", f"-I{HERE}"]
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        made = Path(work) / "library.so"
        linked = ["-cudart", "static", "-shared", str(source), "-o", str(made)]
        done = subprocess.run(
            [nvcc, *_FLAGS, *include, *code, *linked], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr.strip()]
            raise JobError(f"nvcc failed: {lines[0][:300]}", where=source.name)
        made.replace(target)
    return target
