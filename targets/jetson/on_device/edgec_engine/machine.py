"""What this device is: JetPack, TensorRT, CUDA, GPU, memory, disk, power mode and clocks.

Whatever cannot be found out is None: a container sees less than the device.
"""

from __future__ import annotations

import contextlib
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from edgec_engine import cuda
from edgec_engine.errors import DeviceError
from edgec_engine.tensorrt_module import tensorrt

_L4T_TO_JETPACK = {"32": "4", "34": "5", "35": "5", "36": "6", "38": "7", "39": "7"}
"""Major release of Jetson Linux → of JetPack, by NVIDIA's JetPack archive."""


def describe(state: Path) -> dict[str, Any]:
    """All facts, as plain data.

    Args:
        state: the folder that the engine will be written to, for the free space on its disk.
    """
    found = cuda.try_gpu()
    facts: dict[str, Any] = {
        "machine": platform.machine(),
        "board": _board(),
        "jetpack": jetpack(),
        "l4t": l4t(),
        "tensorrt": None,
        "tensorrt_module": None,
        "cuda": None,
        "gpu": found[0] if found else None,
        "compute_capability": found[1] if found else None,
        "memory_free_bytes": free_memory(),
        "disk_free_bytes": free_disk(state),
        "power_mode": power_mode(),
        "clocks": clocks(),
    }
    try:
        module = tensorrt()
        facts["tensorrt"], facts["tensorrt_module"] = module.__version__, module.__name__
    except DeviceError:
        pass
    with contextlib.suppress(DeviceError):
        facts["cuda"] = cuda.runtime_version()
    return facts


def l4t() -> str | None:
    """The release of Jetson Linux, `36.4.3`, from `/etc/nv_tegra_release` or the package's version."""
    try:
        text = Path("/etc/nv_tegra_release").read_text(encoding="utf-8", errors="replace")
        match = re.search(r"R(\d+)[^,]*,\s*REVISION:\s*([\d.]+)", text)
        if match:
            return f"{match.group(1)}.{match.group(2)}"
    except OSError:
        pass
    version = _package("nvidia-l4t-core")
    return version.split("-")[0] if version else None


def jetpack() -> str | None:
    """JetPack's version, `6.2`; only the major number where the package itself is not installed."""
    version = _package("nvidia-jetpack")
    if version:
        return version.split("+")[0].split("-")[0]
    release = l4t()
    return _L4T_TO_JETPACK.get(release.split(".")[0]) if release else None


def free_memory() -> int | None:
    """Bytes that can be allocated; a Jetson's GPU takes its memory from the same."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r"MemAvailable:\s*(\d+) kB", text)
    return int(match.group(1)) * 1024 if match else None


def free_disk(folder: Path) -> int:
    """Free bytes on the disk that the folder is or will be on."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(str(folder)).free


def power_mode() -> str | None:
    """The power mode's name as `nvpmodel -q` says it, `15W`."""
    text = _output(["nvpmodel", "-q"])
    match = re.search(r"NV Power Mode:\s*(\S+)", text or "")
    return match.group(1) if match else None


def clocks() -> dict[str, dict[str, int]]:
    """Clock now, lowest and highest, in kHz, of the GPU and the first CPU core; what can be read of it.

    A clock whose lowest is its highest is locked, as `jetson_clocks` does.
    """
    found: dict[str, dict[str, int]] = {}
    for folder in sorted(Path("/sys/class/devfreq").glob("*")):
        if re.search(r"gpu|gv11b|ga10b|gb10b", folder.name):
            frequencies = _frequencies(folder, "{}_freq", 1000)
            if frequencies:
                found["gpu"] = frequencies
            break
    cpu = _frequencies(Path("/sys/devices/system/cpu/cpu0/cpufreq"), "scaling_{}_freq", 1)
    if cpu:
        found["cpu"] = cpu
    return found


def _frequencies(folder: Path, pattern: str, divide: int) -> dict[str, int]:
    found = {}
    for key in ("cur", "min", "max"):
        try:
            found[key] = int((folder / pattern.format(key)).read_text(encoding="utf-8")) // divide
        except (OSError, ValueError):
            return {}
    return found


def _board() -> str | None:
    try:
        return Path("/proc/device-tree/model").read_text(encoding="utf-8").strip("\0\n ")
    except OSError:
        return None


def _package(name: str) -> str | None:
    text = _output(["dpkg-query", "--show", "--showformat=${Version}", name])
    return text.strip() if text and text.strip() else None


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None
