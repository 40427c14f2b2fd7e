"""Compiling the kernels: once, and again where the kept library is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgec.plugins.bindings.openvino import openvino_library
from edgec.plugins.kernels.cpu.build import kernel_library


def test_a_library_is_compiled_once() -> None:
    first = openvino_library()
    stamp = first.stat().st_mtime_ns
    assert openvino_library() == first
    assert first.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("damage", ["cut short", "a byte changed", "empty"])
def test_a_damaged_library_is_compiled_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str
) -> None:
    compiler = tmp_path / "g++"
    compiler.write_text(
        f'#!/bin/sh\nfor made; do :; done\n[ "$made" = --version ] && exit 0\n'
        f'echo {"library " * 20} > "$made"\necho >> {tmp_path / "calls"}\n',
        encoding="utf-8",
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", str(compiler))
    kept = kernel_library()
    whole, calls = kept.read_bytes(), (tmp_path / "calls").stat().st_size
    assert kernel_library() == kept
    assert (tmp_path / "calls").stat().st_size == calls
    kept.write_bytes({"cut short": whole[:-7], "a byte changed": b"x" + whole[1:], "empty": b""}[damage])
    assert kernel_library() == kept
    assert kept.read_bytes() == whole
    assert (tmp_path / "calls").stat().st_size == 2 * calls


def test_no_compiler_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from edgec.core.errors import JobError

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(JobError, match="no C\\+\\+ compiler"):
        kernel_library()
    assert not list(tmp_path.rglob("*.so"))
