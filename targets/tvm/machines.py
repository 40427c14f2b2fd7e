"""The processors that a model is compiled for: compilers, flags, and what the processor must have."""

from __future__ import annotations

import dataclasses
import difflib
import platform
import shutil
from collections.abc import Mapping

from edgec.core.errors import IntegrityError, JobError, RequestError
from edgec.plugins.kernels.cpu.build import X86_64, Machine, compiler

X86 = "x86_64"
ARM = "aarch64"

CROSS_COMPILER = "aarch64-linux-gnu-g++"


@dataclasses.dataclass(frozen=True)
class Core:
    """A kind of processor.

    Attributes:
        name: as users name it; empty for any of its family.
        processor: `x86_64` or `aarch64`.
        llvm: what TVM's loops are compiled for.
        flags: of the C++ compiler, for what is compiled once.
        needs: words that the processor's flags in /proc/cpuinfo must have.
        emulated: QEMU's name of the processor that stands in for it; empty where none is needed.
    """

    name: str
    processor: str
    llvm: Mapping[str, str]
    flags: tuple[str, ...]
    needs: tuple[str, ...]
    emulated: str = ""

    @property
    def is_here(self) -> bool:
        """Whether this machine has such a processor."""
        return platform.machine() == self.processor and platform.system() == "Linux"

    def machine(self) -> Machine:
        """What the kernels are compiled for.

        Raises:
            JobError: there is no compiler for it.
        """
        if self.processor == X86:
            return X86_64
        return Machine(f"{self.processor}-{self.name or 'any'}", self.compiler(), {"baseline": self.flags})

    def compiler(self) -> str:
        """The C++ compiler for it.

        Raises:
            JobError: there is none.
        """
        if self.processor == X86:
            return compiler()
        name = "g++" if self.is_here else CROSS_COMPILER
        found = shutil.which(name)
        if found is None:
            raise JobError(
                f"no C++ compiler for {self.processor} is installed ({name})",
                fix="install Debian's g++-aarch64-linux-gnu, or compile on the board",
            )
        return found


def _arm(name: str, cpu: str, *needs: str) -> Core:
    llvm = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": cpu}
    return Core(name, ARM, llvm, (f"-mcpu={cpu}",), ("asimd", *needs), name or "cortex-a53")


ANY_X86 = Core("", X86, {"kind": "llvm", "mcpu": "x86-64-v3"}, (), ("avx2", "fma"))
"""TVM's own loops are for AVX2; the kernels hold every instruction set and pick one when they run."""

CORES = {
    core.name: core
    for core in (
        _arm("", "generic"),
        _arm("cortex-a72", "cortex-a72"),
        _arm("cortex-a76", "cortex-a76", "asimddp", "atomics"),
        _arm("neoverse-n1", "neoverse-n1", "asimddp", "atomics"),
    )
}
"""ARM's cores by name: Raspberry Pi 4 (A72), Raspberry Pi 5 and RK3588 (A76), Ampere Altra (N1)."""


def core_named(name: str | None) -> Core:
    """The ARM core of a name; any with 64 bits where none is named.

    Raises:
        RequestError: it is not known; says the nearest.
    """
    if name is not None and (name not in CORES or not name):
        known = [core for core in CORES if core]
        near = difflib.get_close_matches(name, known, n=1)
        raise RequestError(
            f"no ARM core is named {name!r}",
            fix=f"did you mean arm:{near[0]}?" if near else f"choose from {', '.join(known)}, or plain arm",
        )
    return CORES[name or ""]


def core_for(name: str) -> Core:
    """The ARM core that an engine's description names.

    Raises:
        IntegrityError: it names none that is known.
    """
    if name not in CORES:
        raise IntegrityError(f"the engine is for an unknown core, {name!r}", fix="compile the model again")
    return CORES[name]
