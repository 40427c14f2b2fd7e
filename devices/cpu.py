"""What the operating system tells of this machine's processor and memory (Linux and macOS)."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

_ISA = {
    "x86_64": [
        "avx2",
        "fma",
        "f16c",
        "avx512f",
        "avx512_bf16",
        "avx512_fp16",
        "avx512_vnni",
        "avx_vnni",
        "avx_vnni_int8",
        "avx10",
        "amx_tile",
        "amx_bf16",
        "amx_int8",
        "amx_fp16",
    ],
    "aarch64": ["asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2", "svebf16", "svei8mm", "sme"],
}
"""Instruction sets that decide how fast a product runs, by the names of /proc/cpuinfo."""

_MACOS_ISA = {
    "asimd": "hw.optional.AdvSIMD",
    "asimdhp": "hw.optional.arm.FEAT_FP16",
    "asimddp": "hw.optional.arm.FEAT_DotProd",
    "bf16": "hw.optional.arm.FEAT_BF16",
    "i8mm": "hw.optional.arm.FEAT_I8MM",
    "sme": "hw.optional.arm.FEAT_SME",
}


@dataclasses.dataclass(frozen=True)
class Cache:
    """One level of cache, as the first usable core sees it.

    Attributes:
        level: 1, 2 or 3.
        kind: `data`, `instruction` or `unified`.
        kib: size, KiB.
        shared_by: logical cores that share it.
    """

    level: int
    kind: str
    kib: int
    shared_by: int


@dataclasses.dataclass(frozen=True)
class Processor:
    """This machine's processor and memory.

    Attributes:
        model: the name the processor gives itself.
        architecture: `x86_64` or `aarch64`.
        physical_cores: cores, without their hardware threads.
        logical_cores: cores as the system counts them.
        usable_cores: cores that this process may use, by affinity and by the control group's quota.
        isa: those of the instruction sets that matter for products, present here.
        caches: the caches, smallest level first.
        memory_gb: memory, GB (1e9 bytes), or the control group's limit where that is lower.
    """

    model: str
    architecture: str
    physical_cores: int
    logical_cores: int
    usable_cores: int
    isa: tuple[str, ...]
    caches: tuple[Cache, ...]
    memory_gb: float


def read_processor(root: Path = Path("/")) -> Processor:
    """Read the processor and memory.

    Args:
        root: where `/proc` and `/sys` are; another folder reads another machine's copies.
    """
    architecture = {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())
    if platform.system() == "Darwin" and root == Path("/"):
        return _macos(architecture)
    records = _cpuinfo(root)
    first = records[0] if records else {}
    logical = len(records) or os.cpu_count() or 1
    cores = {
        (record.get("physical id"), record.get("core id", str(index))) for index, record in enumerate(records)
    }
    flags = set((first.get("flags") or first.get("Features") or "").split())
    model = first.get("model name") or _device_tree_model(root) or platform.processor() or "unknown"
    return Processor(
        model=model,
        architecture=architecture,
        physical_cores=len(cores) or logical,
        logical_cores=logical,
        usable_cores=_usable_cores(root),
        isa=tuple(name for name in _ISA.get(architecture, ()) if name in flags),
        caches=_caches(root),
        memory_gb=_memory_gb(root),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\x00\n ")
    except OSError:
        return ""


def _cpuinfo(root: Path) -> list[dict[str, str]]:
    records: list[dict[str, str]] = []
    for block in _text(root / "proc/cpuinfo").split("\n\n"):
        pairs = (line.split(":", 1) for line in block.splitlines() if ":" in line)
        record = {key.strip(): value.strip() for key, value in pairs}
        if "processor" in record:
            records.append(record)
    return records


def _device_tree_model(root: Path) -> str:
    return _text(root / "proc/device-tree/model")


def _usable_cores(root: Path) -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_cores(root)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def _cgroup_folders(root: Path, controller: str) -> list[Path]:
    """This process's control group and its parents, innermost first (versions 1 and 2)."""
    base = root / "sys/fs/cgroup"
    paths: list[Path] = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            start = base
        elif controller in controllers.split(","):
            start = base / controller
        else:
            continue
        folder = start / group.lstrip("/")
        paths += [folder, *(parent for parent in folder.parents if parent.is_relative_to(start))]
    return [*paths, base]


def _cgroup_cores(root: Path) -> float | None:
    quotas: list[float] = []
    for folder in _cgroup_folders(root, "cpu"):
        words = _text(folder / "cpu.max").split()
        if not words:
            words = [_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")]
        if len(words) == 2 and all(re.fullmatch(r"\d+", word) for word in words) and int(words[1]) > 0:
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def _memory_gb(root: Path) -> float:
    found = re.search(r"^MemTotal:\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    limits = [int(found.group(1)) * 1024] if found else []
    for folder in _cgroup_folders(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _text(folder / name)
            if text.isdigit():
                limits.append(int(text))
    return round(min(limits) / 1e9, 2) if limits else 0.0


def _caches(root: Path) -> tuple[Cache, ...]:
    caches: list[Cache] = []
    for folder in sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index*")):
        size = re.fullmatch(r"(\d+)([KM]?)", _text(folder / "size"))
        level = _text(folder / "level")
        if size is None or not level.isdigit():
            continue
        kib = int(size.group(1)) * (1024 if size.group(2) == "M" else 1)
        shared = _count_cores(_text(folder / "shared_cpu_list"))
        caches.append(Cache(int(level), _text(folder / "type").lower(), kib, shared))
    return tuple(sorted(caches, key=lambda cache: (cache.level, cache.kind)))


def _count_cores(ranges: str) -> int:
    """How many cores a list such as `0-3,8` names."""
    total = 0
    for part in filter(None, ranges.split(",")):
        first, _, last = part.partition("-")
        total += int(last or first) - int(first) + 1
    return max(total, 1)


def _macos(architecture: str) -> Processor:
    names = ["machdep.cpu.brand_string", "hw.physicalcpu", "hw.logicalcpu", "hw.memsize", "hw.l1dcachesize"]
    names += ["hw.l2cachesize", *_MACOS_ISA.values()]
    values: Mapping[str, str] = {name: _sysctl(name) for name in names}
    logical = int(values["hw.logicalcpu"] or os.cpu_count() or 1)
    caches = [
        Cache(level, kind, int(values[name]) // 1024, 1)
        for level, kind, name in ((1, "data", "hw.l1dcachesize"), (2, "unified", "hw.l2cachesize"))
        if values[name]
    ]
    return Processor(
        model=values["machdep.cpu.brand_string"] or "unknown",
        architecture=architecture,
        physical_cores=int(values["hw.physicalcpu"] or logical),
        logical_cores=logical,
        usable_cores=logical,
        isa=tuple(name for name, key in _MACOS_ISA.items() if values[key] == "1"),
        caches=tuple(caches),
        memory_gb=round(int(values["hw.memsize"] or 0) / 1e9, 2),
    )


def _sysctl(name: str) -> str:
    command = ["sysctl", "-n", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
