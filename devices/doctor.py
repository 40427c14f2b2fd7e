"""What this machine has for compiling and running, what it lacks, and what to do about it."""

from __future__ import annotations

import concurrent.futures
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from edgec.devices.check import Check
from edgec.devices.cpu import read_processor
from edgec.devices.packages import check_packages

__all__ = ["Check", "diagnose"]

MINIMUM_PYTHON = (3, 11)
TOOL_SECONDS = 4.0
FREE_GB = 2.0
"""A compile keeps the exporter's file and every candidate's engine at once: some copies of the weights."""


def diagnose() -> list[Check]:
    """Look at everything, within about fifteen seconds. Raises nothing: what goes wrong is a finding."""
    tools: list[Callable[[], Check]] = [_compiler, _nvcc, _tensorrt, _docker]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        packages = pool.submit(check_packages)
        found = [pool.submit(_guarded, tool) for tool in (_python, _processor, _disk, *tools)]
        machine = [future.result() for future in found]
        try:
            return machine + packages.result()
        except Exception as error:
            return [*machine, Check("packages", "broken", f"cannot be checked: {error}", "reinstall edgec")]


def _guarded(tool: Callable[[], Check]) -> Check:
    try:
        return tool()
    except Exception as error:  # whatever a foreign tool does is its finding, not the doctor's end
        return Check(tool.__name__.strip("_"), "unknown", f"cannot be checked: {error}")


def _python() -> Check:
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < MINIMUM_PYTHON:
        needed = ".".join(map(str, MINIMUM_PYTHON))
        return Check("python", "broken", found, f"use Python {needed} or newer")
    return Check("python", "ok", found)


def _processor() -> Check:
    processor = read_processor()
    isa = ", ".join(processor.isa) or "none of the instruction sets that speed products up"
    found = f"{processor.model}, {processor.usable_cores} of {processor.logical_cores} cores usable; {isa}"
    if processor.architecture == "x86_64" and "avx2" not in processor.isa:
        return Check(
            "processor", "missing", found, "expect slow engines: they are written for AVX2 and later"
        )
    return Check("processor", "ok", found)


def _disk() -> Check:
    folder = Path.cwd()
    free = shutil.disk_usage(folder).free / 1e9
    found = f"{free:.1f} GB free at {folder}"
    if free < FREE_GB:
        return Check("disk", "broken", found, f"free some space: a compile may need {FREE_GB:g} GB")
    return Check("disk", "ok", found)


def _compiler() -> Check:
    for name in ("g++", "clang++", "c++"):
        path = shutil.which(name)
        if path is not None:
            return Check("C++ compiler", "ok", _first_line(path, "--version"))
    fix = "install g++ or clang (Debian: apt install g++); kernels of custom ops are built with it"
    return Check("C++ compiler", "missing", "no g++, clang++ or c++ on the path", fix)


def _nvcc() -> Check:
    path = _tool("nvcc", "/usr/local/cuda/bin/nvcc")
    if path is None:
        return Check(
            "nvcc", "missing", "not found", "needed only to build CUDA kernels: install the CUDA toolkit"
        )
    release = re.search(r"release [\d.]+", _run(path, "--version"))
    return Check("nvcc", "ok", f"{release.group() if release else 'unknown release'} at {path}")


def _tensorrt() -> Check:
    from importlib.metadata import PackageNotFoundError, version

    found = []
    # JetPack installs trtexec off the path.
    path = _tool("trtexec", "/usr/src/tensorrt/bin/trtexec")
    if path is not None:
        found.append(f"trtexec at {path}")
    for package in ("tensorrt", "tensorrt-rtx"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    if found:
        return Check("TensorRT", "ok", ", ".join(found))
    fix = "needed only for NVIDIA devices: a Jetson has it from JetPack; elsewhere install tensorrt-rtx"
    return Check("TensorRT", "missing", "neither trtexec nor a TensorRT package", fix)


def _docker() -> Check:
    path = shutil.which("docker")
    if path is None:
        return Check(
            "docker", "missing", "not found", "needed only to build container images: install docker"
        )
    server = _run(path, "version", "--format", "{{.Server.Version}}").strip()
    if re.match(r"\d", server):
        return Check("docker", "ok", f"engine {server}")
    fix = "needed only to build container images: start the engine"
    return Check("docker", "missing", f"{_first_line(path, '--version')}; no engine answers", fix)


def _tool(name: str, elsewhere: str) -> str | None:
    """A tool on the path, or where its vendor puts it."""
    return shutil.which(name) or (elsewhere if Path(elsewhere).is_file() else None)


def _first_line(*command: str) -> str:
    return next(iter(_run(*command).splitlines()), "says nothing of its version")


def _run(*command: str) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TOOL_SECONDS,
        check=False,
    )
    return done.stdout
