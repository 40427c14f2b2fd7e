"""The kernels compiled for ARM and called under QEMU, one process for all calls."""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from edgec.plugins.bindings.tvm import Entry
from edgec.plugins.kernels import calls
from edgec.plugins.kernels.cpu.build import FLAGS, INCLUDE, relocatable, units_of, with_cpu_kernels
from edgec.targets.tvm.emulated import EMULATOR
from edgec.targets.tvm.kernels import ENTRIES
from edgec.targets.tvm.machines import CROSS_COMPILER, Core

HERE = Path(__file__).parent


def missing() -> str:
    """What is not installed; empty where all is."""
    lacking = [name for name in (EMULATOR, CROSS_COMPILER) if shutil.which(name) is None]
    return f"{' and '.join(lacking)} not installed" if lacking else ""


class ArmKernels:
    """Every kernel on an emulated core."""

    def __init__(self, core: Core) -> None:
        entries = {plugin.op_type: Entry.of(plugin) for plugin in with_cpu_kernels()} | ENTRIES
        self.entries = entries
        self._places = {name: place for place, name in enumerate(entries)}
        units = units_of({name: entry.kernel for name, entry in entries.items()}, core.machine())
        made = relocatable("edgec_test", units, core.machine())
        self._work = tempfile.TemporaryDirectory()
        folder = Path(self._work.name)
        (folder / "kernels.inc").write_text(_table(entries), encoding="utf-8")
        command = [
            core.compiler(),
            *FLAGS,
            *core.flags,
            *INCLUDE,
            f"-I{folder}",
            str(HERE / "kernel_pipe.cpp"),
        ]
        subprocess.run([*command, str(made), "-static", "-o", str(folder / "pipe")], check=True)
        self._process = subprocess.Popen(
            [EMULATOR, "-cpu", core.emulated, str(folder / "pipe")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def call(self, name, inputs, outputs, numbers):
        """Outputs, of shapes and types, that a kernel makes of arrays; its status must be 0."""
        entry, to, back = self.entries[name], self._process.stdin, self._process.stdout
        to.write(struct.pack("<2q", self._places[name], len(inputs)))
        for array in inputs:
            to.write(_head(array.shape, array.dtype.name) + np.ascontiguousarray(array).tobytes())
        to.write(struct.pack("<q", len(outputs)))
        for shape, dtype in outputs:
            to.write(_head(shape, np.dtype(dtype).name))
        for key, is_real in entry.attributes.items():
            value = numbers[key]
            to.write(struct.pack("<qd", 0 if is_real else int(value), float(value)))
        to.flush()
        (status,) = struct.unpack("<q", back.read(8))
        assert status == 0, (name, status)
        return [
            np.frombuffer(back.read(int(np.prod(shape)) * np.dtype(dtype).itemsize), dtype).reshape(shape)
            for shape, dtype in outputs
        ]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._work.cleanup()


def _head(shape, dtype) -> bytes:
    return struct.pack(f"<{2 + len(shape)}q", calls.TYPES[dtype], len(shape), *shape)


def _table(entries) -> str:
    lines = ['#include "kernel.h"', "#include <vector>", 'extern "C" {']
    lines += [f"int edgec_{name}(const edgec_cpu_call*);" for name in entries]
    lines += ["}", "struct Kernel { edgec_cpu_entry run; std::vector<const char*> attributes; };"]
    lines += ["static const Kernel KERNELS[] = {"]
    for name, entry in entries.items():
        listed = ", ".join(f'"{each}"' for each in entry.attributes)
        lines += [f"{{edgec_{name}, {{{listed}}}}},"]
    return "\n".join([*lines, "};", ""])
