"""Kernels for processors as packed functions of TVM, compiled into the library that TVM exports."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgec.core.errors import MissingExtraError
from edgec.plugins.infra import CpuKernel, Plugin
from edgec.plugins.kernels.cpu.build import INCLUDE, Machine, Unit, relocatable, units_of, with_cpu_kernels

_HERE = Path(__file__).parent

PREFIX = "edgec_"
"""Of a packed function's name: the op's type follows."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A kernel as TVM calls it.

    Attributes:
        op_type: the name of its `EDGEC_CPU_KERNEL`.
        kernel: where it is.
        inputs: how many.
        outputs: how many.
        attributes: by name, in their order: whether a float.
    """

    op_type: str
    kernel: CpuKernel
    inputs: int
    outputs: int
    attributes: Mapping[str, bool]

    @classmethod
    def of(cls, plugin: Plugin) -> Entry:
        """The entry of a plugin that has a kernel for processors."""
        kinds = {name: isinstance(default, float) for name, default in plugin.attributes.items()}
        return cls(plugin.op_type, plugin.kernels["cpu"], len(plugin.inputs), len(plugin.outputs), kinds)

    def numbers(self, values: Mapping[str, int | float]) -> list[int]:
        """What the packed function is given for the attributes: integers, floats by the bits of a float64.

        A float among the arguments would go through TVM's arithmetic of shapes, which is in integers.
        """
        return [
            int(np.float64(values[name]).view(np.int64)) if is_real else int(values[name])
            for name, is_real in self.attributes.items()
        ]


def plugin_entries() -> dict[str, Entry]:
    """The plugins' kernels that TVM can call, by op type: those whose outputs' sizes are known beforehand."""
    return {plugin.op_type: Entry.of(plugin) for plugin in with_cpu_kernels() if plugin.open_size is None}


def kernel_object(entries: Sequence[Entry], machine: Machine) -> Path:
    """One object with the packed functions `edgec_<op type>` of some kernels, to be linked into a library.

    Raises:
        MissingExtraError: TVM is not installed.
        JobError: no compiler, or it failed.
    """
    include = (f"-isystem{tvm_headers()}", *INCLUDE, f"-I{_HERE}", "-fvisibility=hidden")
    units = [
        *units_of({entry.op_type: entry.kernel for entry in entries}, machine),
        Unit("packed", _HERE / "packed.cpp", include),
        Unit("pool", _HERE / "pool.cpp", include),
        Unit("functions", _functions(entries), include),
    ]
    return relocatable("edgec_tvm", units, machine)


def tvm_headers() -> Path:
    """The folder of TVM's C headers.

    Raises:
        MissingExtraError: TVM is not installed.
    """
    spec = importlib.util.find_spec("tvm_ffi")
    if spec is None or spec.origin is None:
        raise MissingExtraError("apache-tvm", "tvm")
    return Path(spec.origin).parent / "include"


def _functions(entries: Sequence[Entry]) -> str:
    lines = ['#include "packed.hpp"', 'extern "C" {']
    for entry in entries:
        name, count = f"{PREFIX}{entry.op_type}", len(entry.attributes)
        names = ", ".join(f'"{each}"' for each in entry.attributes) or '""'
        real = ", ".join(str(each).lower() for each in entry.attributes.values()) or "false"
        lines += [
            f"int {name}(const edgec_cpu_call*);",
            '__attribute__((visibility("default")))',
            f"int __tvm_ffi_{name}(void*, const TVMFFIAny* arguments, int32_t count, TVMFFIAny*) {{",
            f"    static const char* const names[] = {{{names}}};",
            f"    static const bool real[] = {{{real}}};",
            f'    static const edgec::Packed packed = {{"{entry.op_type}", {name}, {entry.inputs}, '
            f"{entry.outputs}, {count}, names, real}};",
            "    return edgec::call_packed(packed, arguments, count);",
            "}",
        ]
    return "\n".join([*lines, "}", ""])
