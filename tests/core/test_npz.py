"""npz files from outside: within bounds, never unpickled, and numpy's advice is never shown."""

from __future__ import annotations

import contextlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.core import npz
from edgec.core.bundle import read_arrays
from edgec.core.errors import RequestError


def member(header: str, body: bytes = b"", version: int = 2) -> bytes:
    raw = header.encode()
    return b"\x93NUMPY" + bytes([version, 0]) + len(raw).to_bytes(4, "little") + raw + body


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def described(shape: str, kind: str = "<f4") -> str:
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"


BROKEN = {
    "a shape of 4 TiB": {"x.npy": member(described(f"({2**40},)"), bytes(64))},
    "a negative shape": {"x.npy": member(described("(-1,)"), bytes(64))},
    "no shape": {"x.npy": member("{}" + " " * 100_000)},
    "a header that is code": {"x.npy": member("__import__('os').mkdir('PWNED')")},
    "a deep header": {"x.npy": member("(" * 5000)},
    "Python objects": {"x.npy": member(described("(1,)", "|O"), b"\x80\x04N.")},
    "less than it says": {"x.npy": member(described("(4,)"), bytes(15))},
    "more than it says": {"x.npy": member(described("(4,)"), bytes(17))},
    "an unknown version": {"x.npy": member(described("(4,)"), bytes(16), version=9)},
    "no array": {"x.txt": b"text"},
    "nothing in it": {"x.npy": b""},
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_array_is_one_sentence(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError) as caught:
        read_arrays(archive(tmp_path / "a.npz", BROKEN[what]))
    assert "allow_pickle" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("PWNED").exists()


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros(10_000))
    assert read_arrays(path)["x"].shape == (10_000,)
    monkeypatch.setenv("EDGEC_MAX_ARRAY_BYTES", "50000")
    with pytest.raises(RequestError, match="over the limit"):
        read_arrays(path)


def test_every_layout_and_type_comes_back() -> None:
    arrays = {
        "columns": np.arange(6.0).reshape(2, 3).T,
        "swapped": np.arange(3, dtype=">i4"),
        "empty": np.empty((0, 3), np.float16),
        "scalar": np.array(True),
        "file": np.arange(2),
    }
    file = io.BytesIO()
    npz.write(file, arrays)
    found = npz.read(file, 1 << 20)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


@given(st.binary(max_size=40), st.integers(0, 400))
def test_any_damage_is_an_npz_error_or_harmless(junk: bytes, place: int) -> None:
    file = io.BytesIO()
    npz.write(file, {"x": np.arange(8.0)})
    data = bytearray(file.getvalue())
    data[place : place + len(junk)] = junk
    with contextlib.suppress(npz.NpzError):
        npz.read(io.BytesIO(bytes(data)), 1 << 20)
