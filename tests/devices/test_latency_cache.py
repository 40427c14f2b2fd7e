"""Times on disk: of one device only, whole or not there, whoever writes at the same time."""

from __future__ import annotations

import concurrent.futures
import dataclasses
from pathlib import Path

import pytest

from edgec.devices import latency_cache
from edgec.devices.latency_tables import Device

HERE = Device("Test CPU", "cpu 1", "openvino fp32", "openvino 1.0")
WHAT = {"segment": "abc", "row": 4}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "edgec" / "latency"


def test_times_come_back_for_the_same_device_engine_version_and_shapes_only() -> None:
    latency_cache.write(HERE, WHAT, {"3x64": 1.5})
    assert latency_cache.read(HERE, WHAT) == {"3x64": 1.5}
    for field in ("identity", "engine", "version"):
        assert latency_cache.read(dataclasses.replace(HERE, **{field: "another"}), WHAT) is None
    assert latency_cache.read(HERE, {**WHAT, "row": 2}) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"of": "something else", "times": {}}'])
def test_a_broken_file_is_measured_again(cache: Path, text: str) -> None:
    latency_cache.write(HERE, WHAT, {"3x64": 1.5})
    (path,) = cache.glob("*.json")
    path.write_text(text)
    assert latency_cache.read(HERE, WHAT) is None
    latency_cache.write(HERE, WHAT, {"3x64": 2.5})
    assert latency_cache.read(HERE, WHAT) == {"3x64": 2.5}


def _write(number: int) -> None:
    for _ in range(20):
        latency_cache.write(HERE, WHAT, {"3x64": float(number), "filler": "x" * 20_000})
        found = latency_cache.read(HERE, WHAT)
        assert found is not None
        assert len(found["filler"]) == 20_000


def test_writers_at_once_leave_a_whole_file(cache: Path) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(_write, range(4)))
    assert len(list(cache.iterdir())) == 1


def test_a_home_that_cannot_be_written_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    latency_cache.write(HERE, WHAT, {"3x64": 1.5})
    assert latency_cache.read(HERE, WHAT) is None
    assert latency_cache.kept() == []
