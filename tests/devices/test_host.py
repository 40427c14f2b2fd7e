"""This machine's profile and rates, and other machines' as copies of their /proc and /sys."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edgec.devices import host, rates
from edgec.devices.cpu import Cache, read_processor


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


CPUINFO = "\n\n".join(
    f"processor\t: {index}\nmodel name\t: Test CPU 9000\nphysical id\t: 0\ncore id\t: {index // 2}\n"
    "flags\t\t: fpu avx2 fma avx512f avx512_bf16 amx_tile hypervisor"
    for index in range(8)
)


def test_this_machine_is_plausible() -> None:
    profile = host.host_profile()
    processor = profile.processor
    assert 1 <= processor.usable_cores <= processor.logical_cores <= 4096
    assert 1 <= processor.physical_cores <= processor.logical_cores
    assert processor.usable_cores <= len(os.sched_getaffinity(0))
    assert 0.2 < processor.memory_gb < 100_000
    assert processor.model in profile.name
    json.dumps(profile.to_dict())


def test_threads_of_one_core_are_told_from_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    processor = read_processor(tree(tmp_path, {"proc/cpuinfo": CPUINFO}))
    assert (processor.physical_cores, processor.logical_cores) == (4, 8)
    assert processor.model == "Test CPU 9000"
    assert processor.isa == ("avx2", "fma", "avx512f", "avx512_bf16", "amx_tile")


def test_an_arm_board_is_named_by_its_device_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    files = {
        "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp\n\nprocessor\t: 1\n",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\x00",
        "proc/meminfo": "MemTotal:        7990000 kB\n",
    }
    processor = read_processor(tree(tmp_path, files))
    assert processor.model == "NVIDIA Jetson Orin Nano Developer Kit"
    assert processor.isa == ("asimd", "asimdhp", "asimddp")
    assert processor.physical_cores == 2
    assert processor.memory_gb == 8.18


@pytest.mark.parametrize(
    "files",
    [
        {
            "proc/self/cgroup": "0::/jobs/mine\n",
            "sys/fs/cgroup/jobs/mine/cpu.max": "max 100000",
            "sys/fs/cgroup/jobs/cpu.max": "50000 100000",
            "sys/fs/cgroup/jobs/memory.max": "1000000000",
        },
        {
            "proc/self/cgroup": "5:memory:/jobs\n4:cpu,cpuacct:/jobs\n",
            "sys/fs/cgroup/cpu/jobs/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu/jobs/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/jobs/memory.limit_in_bytes": "1000000000",
        },
    ],
    ids=["version 2", "version 1"],
)
def test_the_control_group_limits_cores_and_memory(tmp_path: Path, files: dict[str, str]) -> None:
    files = {**files, "proc/cpuinfo": CPUINFO, "proc/meminfo": "MemTotal: 7990000 kB\n"}
    processor = read_processor(tree(tmp_path, files))
    assert processor.usable_cores == 1
    assert processor.memory_gb == 1.0


def test_caches_are_read_with_their_sharing(tmp_path: Path) -> None:
    folder = "sys/devices/system/cpu/cpu0/cache"
    files = {
        f"{folder}/index0/{name}": text
        for name, text in {"level": "3", "type": "Unified", "size": "32M", "shared_cpu_list": "0-3,8"}.items()
    }
    files |= {f"{folder}/index1/level": "1", f"{folder}/index1/type": "Data", f"{folder}/index1/size": "48K"}
    assert read_processor(tree(tmp_path, files)).caches == (
        Cache(1, "data", 48, 1),
        Cache(3, "unified", 32768, 5),
    )


def test_an_empty_machine_still_has_a_core(tmp_path: Path) -> None:
    processor = read_processor(tmp_path)
    assert processor.usable_cores >= 1
    assert processor.memory_gb == 0.0


def test_rates_are_measured_once_and_again_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured: list[int] = []

    def fake(threads: int) -> rates.Rates:
        measured.append(threads)
        return rates.Rates(1024, threads, (rates.ProductRate("onnxruntime", "fp32", 100.0, 0.1),), 10.0, 0.1)

    monkeypatch.setattr(host, "measure_rates", fake)
    first, second = host.measured_rates(), host.measured_rates()
    assert first == second
    assert len(measured) == 1
    host.measured_rates(again=True)
    assert len(measured) == 2
    for path in (tmp_path / "edgec").iterdir():
        path.write_text("{", encoding="utf-8")
    assert host.measured_rates().rates.best("fp32") == first.rates.best("fp32")
    assert len(measured) == 3


def test_another_processor_or_version_is_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    processor = read_processor()
    here = host._cache_file(processor, {"onnxruntime": "1"})
    assert here != host._cache_file(processor, {"onnxruntime": "2"})


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setattr(host, "measure_rates", lambda threads: rates.Rates(8, threads, (), 1.0, 0.0))
    assert host.measured_rates().rates.copy_gbps == 1.0


def test_a_relative_cache_home_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert host.cache_folder() == Path.home() / ".cache" / "edgec"


def test_products_are_measured_through_the_engines() -> None:
    found = rates.measure_rates(1, size=64, copy_bytes=2**20)
    engines = {(rate.engine, rate.precision) for rate in found.products}
    assert {("onnxruntime", "fp32"), ("onnxruntime", "int8")} <= engines
    assert all(rate.gflops > 0 for rate in found.products)
    assert found.copy_gbps > 0
    assert found.best("fp64") is None
    best = found.best("int8")
    assert best is not None
    assert best.gflops == max(rate.gflops for rate in found.products if rate.precision == "int8")
