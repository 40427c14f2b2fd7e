"""The CUDA kernels compile for every device, warnings as errors; they are run by a benchmark."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgec.core.errors import JobError
from edgec.plugins.kernels.cuda import build as cuda_build


@pytest.mark.full
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
@pytest.mark.parametrize("source", cuda_build.cuda_sources(), ids=lambda source: source.stem)
def test_the_kernels_compile_for_every_device(
    source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library = cuda_build.cuda_library(source)
    for name in cuda_build.ARCHITECTURES:
        assert f"sm_{name}".encode() in library.read_bytes()


def test_no_nvcc_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(JobError, match="nvcc is not installed"):
        cuda_build.cuda_library(cuda_build.cuda_sources()[0])
