from __future__ import annotations

import pytest

from edgec.core.errors import RequestError
from edgec.runtime import threads


def test_the_environment_comes_before_the_bundle(monkeypatch):
    monkeypatch.setenv(threads.VARIABLE, "3")
    assert threads.worker_threads(2) == 3


def test_the_bundle_comes_before_the_machine(monkeypatch):
    monkeypatch.delenv(threads.VARIABLE, raising=False)
    assert threads.worker_threads(2) == 2


@pytest.mark.parametrize("value", ["0", "many", "-1", "1.5"])
def test_a_wrong_number_is_refused(monkeypatch, value):
    monkeypatch.setenv(threads.VARIABLE, value)
    with pytest.raises(RequestError, match=threads.VARIABLE):
        threads.worker_threads()


def test_two_threads_of_one_core_count_once(monkeypatch, tmp_path):
    monkeypatch.setattr(threads, "_CPUS", tmp_path)
    monkeypatch.setattr(threads, "_CGROUP_QUOTA", tmp_path / "none")
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    for cpu, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    assert threads.physical_cores() == 2


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 4), ("150000 100000", 2), ("50000 100000", 1)])
def test_a_control_group_limits_the_cores(monkeypatch, tmp_path, quota, cores):
    monkeypatch.setattr(threads, "_CPUS", tmp_path)
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    limit = tmp_path / "cpu.max"
    limit.write_text(quota + "\n")
    monkeypatch.setattr(threads, "_CGROUP_QUOTA", limit)
    assert threads.physical_cores() == cores
