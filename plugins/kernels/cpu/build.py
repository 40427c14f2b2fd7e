"""Compiling the kernels for processors: one shared library for plain calls, and the parts of others.

All libraries for x86-64 hold the same objects for every instruction set and pick one at run time, so a
library made on one machine serves on another; one for ARM is for one core. Libraries are kept by the hash of
their sources, the compiler and what they are linked to; a second call finds the first one's. A kept library
ends in the sha256 of the rest, so that a damaged one is compiled again instead of being loaded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgec.core.errors import JobError
from edgec.plugins.infra import KERNELS, CpuKernel, Plugin, plugins

HERE = Path(__file__).parent
INCLUDE = (f"-I{KERNELS}", f"-I{HERE}")

FLAGS = ("-O3", "-std=c++17", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-fno-math-errno")
_AVX512 = ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma", "-mprefer-vector-width=512")
_INSTRUCTIONS = {
    "amx": (*_AVX512, "-mamx-tile", "-mamx-bf16"),
    "avx512": _AVX512,
    "avx2": ("-mavx2", "-mfma"),
    "baseline": (),
}


@dataclasses.dataclass(frozen=True)
class Unit:
    """One object of a library.

    Attributes:
        name: of the object, once in a library.
        source: a file, or the text of one that is generated.
        flags: of the compiler, beside those that all have.
    """

    name: str
    source: Path | str
    flags: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Machine:
    """What kernels are compiled for.

    Attributes:
        name: `x86_64`, or another processor's.
        compiler: the C++ compiler; empty for this machine's.
        instructions: flags by instruction set, of those that a kernel may be compiled for.
    """

    name: str
    compiler: str
    instructions: Mapping[str, tuple[str, ...]]

    @property
    def chooses(self) -> bool:
        """Whether a kernel's variant is picked at run time."""
        return len(self.instructions) > 1


X86_64 = Machine("x86_64", "", _INSTRUCTIONS)


def cache_folder() -> Path:
    """Where compiled libraries are kept: `edgec/kernels` under `$XDG_CACHE_HOME` or `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "edgec" / "kernels"


def compiler() -> str:
    """The C++ compiler: `$CXX`, else g++.

    Raises:
        JobError: there is none, or this is not an x86-64 Linux.
    """
    if platform.machine() not in ("x86_64", "AMD64") or platform.system() != "Linux":
        raise JobError(
            "the kernels are built for x86-64 Linux only",
            where=f"{platform.system()} {platform.machine()}",
        )
    found = shutil.which(os.environ.get("CXX", "g++"))
    if found is None:
        raise JobError("no C++ compiler is installed", fix="install g++ 11 or newer, or set CXX")
    return found


def with_cpu_kernels(chosen: Iterable[Plugin] | None = None) -> list[Plugin]:
    """The plugins that have a kernel for processors; all there are where none are given."""
    every = plugins().values() if chosen is None else chosen
    return sorted((plugin for plugin in every if "cpu" in plugin.kernels), key=lambda plugin: plugin.op_type)


def kernel_library(chosen: Iterable[Plugin] | None = None, flags: Sequence[str] = ()) -> Path:
    """An entry `edgec_<op type>` for each plugin's kernel as a shared library; compiled at the first call.

    Args:
        chosen: the plugins; all where None.
        flags: of the compiler and the linker besides, such as those of a sanitizer.

    Raises:
        JobError: no compiler, or it failed.
    """
    units = kernel_units(with_cpu_kernels(chosen))
    if flags:
        units = [dataclasses.replace(unit, flags=(*unit.flags, *flags)) for unit in units]
    return library("edgec_kernels", units, flags)


def kernel_units(chosen: Sequence[Plugin]) -> list[Unit]:
    """What a library of some plugins' kernels is made of."""
    return units_of({plugin.op_type: plugin.kernels["cpu"] for plugin in chosen}, X86_64)


def units_of(kernels: Mapping[str, CpuKernel], machine: Machine) -> list[Unit]:
    """What kernels, by the names of their entries, are made of: an `edgec_<name>` for each."""
    found: dict[tuple[Path, str], Unit] = {}
    for kernel in kernels.values():
        for isa, source in _variants(kernel, machine).items():
            flags = (*machine.instructions[isa], *INCLUDE, f"-DEDGEC_ISA={isa}")
            found[source, isa] = Unit(f"{source.stem}-{isa}", source, flags)
    dispatch = [Unit("dispatch", HERE / "dispatch.cpp", INCLUDE)] if machine.chooses else []
    return [*found.values(), *dispatch, Unit("entries", _entries(kernels, machine), INCLUDE)]


def _variants(kernel: CpuKernel, machine: Machine) -> dict[str, Path]:
    return {isa: source for isa, source in kernel.variants.items() if isa in machine.instructions}


def _entries(kernels: Mapping[str, CpuKernel], machine: Machine) -> str:
    lines = ['#include "dispatch.h"', 'extern "C" {']
    for op_type, kernel in kernels.items():
        variants = [f"edgec_{op_type}_{isa}" for isa in _variants(kernel, machine)]
        lines += [f"int {name}(const edgec_cpu_call*);" for name in variants]
        lines += [f"int edgec_{op_type}(const edgec_cpu_call* call) {{"]
        if machine.chooses:
            listed = ", ".join(f'{{"{name.rpartition("_")[2]}", {name}}}' for name in variants)
            lines += [
                f"    static const edgec_variant variants[] = {{{listed}}};",
                f"    return edgec_dispatch(variants, {len(variants)}, call);",
            ]
        else:
            lines += [f"    return {variants[0]}(call);"]
        lines += ["}"]
    return "\n".join([*lines, "}", ""])


def library(
    stem: str, units: Sequence[Unit], link: Sequence[str] = (), salt: str = "", machine: Machine | None = None
) -> Path:
    """A shared library of some units, compiled where it is not kept yet.

    Args:
        stem: of its file's name.
        units: what it is made of.
        link: what the linker is given besides.
        salt: what else the library depends on: the release of what it is linked to.
        machine: what it is for, where that is not this machine.

    Raises:
        JobError: no compiler, or it failed.
    """
    cxx = (machine.compiler if machine is not None else "") or compiler()
    return _kept(stem, ".so", units, cxx, ("-shared", "-s"), link, salt)


def relocatable(stem: str, units: Sequence[Unit], machine: Machine) -> Path:
    """One object of some units, to be linked into a library, compiled where it is not kept yet.

    Raises:
        JobError: no compiler, or it failed.
    """
    cxx = machine.compiler or compiler()
    return _kept(f"{stem}-{machine.name}", ".o", units, cxx, ("-r", "-nostdlib"), (), "")


def _kept(
    stem: str,
    suffix: str,
    units: Sequence[Unit],
    cxx: str,
    kind: Sequence[str],
    link: Sequence[str],
    salt: str,
) -> Path:
    digest = hashlib.sha256()
    version = subprocess.run([cxx, "--version"], capture_output=True, check=False).stdout
    for part in (version, salt.encode(), repr(FLAGS).encode()):
        digest.update(part)
    folders = {unit.source.parent for unit in units if isinstance(unit.source, Path)} | {KERNELS}
    for header in sorted(path for folder in folders for path in folder.glob("*.h*")):
        digest.update(header.read_bytes())
    for unit in units:
        text = unit.source if isinstance(unit.source, str) else unit.source.read_text(encoding="utf-8")
        flags = tuple(flag for flag in unit.flags if not flag.startswith(("-I", "-isystem")))
        digest.update(repr((unit.name, flags, text)).encode())
    target = cache_folder() / f"{stem}-{digest.hexdigest()[:16]}{suffix}"
    if _is_whole(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        folder = Path(work)
        commands = [_compilation(cxx, unit, folder) for unit in units]
        with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
            list(pool.map(_run, commands))
        made = folder / f"library{suffix}"
        _run([cxx, *kind, *(command[-1] for command in commands), *link, "-o", str(made)])
        content = made.read_bytes()
        made.write_bytes(content + hashlib.sha256(content).digest())
        made.replace(target)
    return target


def _compilation(cxx: str, unit: Unit, folder: Path) -> list[str]:
    source = unit.source
    if isinstance(source, str):
        source = folder / f"{unit.name}.cpp"
        source.write_text(unit.source, encoding="utf-8")  # type: ignore[arg-type]
    return [cxx, *FLAGS, *unit.flags, "-c", str(source), "-o", str(folder / f"{unit.name}.o")]


def _is_whole(library: Path) -> bool:
    """Whether a kept library is there and as it was written: loaders ignore what lies behind an ELF file."""
    if not library.is_file():
        return False
    content = library.read_bytes()
    size = hashlib.sha256().digest_size
    return hashlib.sha256(content[:-size]).digest() == content[-size:]


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr.strip()]
        raise JobError(
            f"the C++ compiler failed: {lines[0][:300]}",
            where=Path(command[-3]).name,
            fix="a g++ of version 11 or newer is known to work",
        )
