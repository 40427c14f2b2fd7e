"""The plugins' libraries by their own CMakeLists.txt and nvcc, as a device builds them; simulated headers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import tensorrt_build
from tensorrt_harness import Harness

from edgec.plugins.bindings import tensorrt

needs_nvcc = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("nvcc", "cmake", "g++")), reason="no nvcc, cmake or g++"
)


def sources(folder: Path, op_types: tuple[str, ...]) -> Path:
    tensorrt.write_sources(folder / "plugins", op_types)
    return folder / "plugins"


@needs_nvcc
@pytest.mark.parametrize(
    ("generation", "op_types", "architectures"),
    [
        (10, ("TokenMerge", "VarlenAttention"), ("87", "110")),
        # 7.5 stands for a Xavier's 7.2, which nvcc 13 no longer knows.
        pytest.param(8, ("TokenPrune",), ("75", "87"), marks=pytest.mark.full),
    ],
)
def test_a_devices_build(tmp_path: Path, generation: int, op_types: tuple[str, ...], architectures) -> None:
    where = sources(tmp_path, op_types)
    folder = tensorrt_build.with_cmake(tmp_path / "made", where, generation, architectures)
    made = {tensorrt.libraries()[op_type] for op_type in op_types}
    assert {path.name for path in folder.glob("libedgec*.so")} == made
    for name in made:
        for each in architectures:
            assert f"sm_{each}".encode() in (folder / name).read_bytes()
        symbols = subprocess.run(
            ["nm", "-DC", "--defined-only", folder / name], capture_output=True, text=True
        )
        # Two libraries with the same classes, loaded into one process, must not meet.
        assert "edgec" not in symbols.stdout
    registered = {f"ai.edgec::{op_type} 1" for op_type, name in tensorrt.libraries().items() if name in made}
    assert Harness(folder).creators() == registered


@pytest.mark.skipif(shutil.which("cmake") is None, reason="no cmake")
def test_a_build_for_no_gpu_says_what_to_give(tmp_path: Path) -> None:
    where = sources(tmp_path, ("TokenMerge",))
    done = subprocess.run(["cmake", "-S", where, "-B", tmp_path / "b"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "-DCMAKE_CUDA_ARCHITECTURES=87" in done.stderr


def test_the_sources_are_whole(tmp_path: Path) -> None:
    found = {path.name: path.read_text() for path in sources(tmp_path, tuple(tensorrt.libraries())).iterdir()}
    room = Path(tensorrt.__file__).parent
    assert {path.name for path in room.iterdir() if path.suffix in (".cpp", ".hpp", ".txt")} <= found.keys()
    included = {name for text in found.values() for name in re.findall(r'#include "(.+)"', text)}
    assert included <= found.keys()
    listed = found["CMakeLists.txt"]
    for name in found:
        made = name.removesuffix("_ops.cpp")
        assert not name.endswith(".cpp") or name in listed or f"{made}.cu" in found
