"""The kernels of standard ops called from Python, one thread, for one instruction set or an emulated core."""

from __future__ import annotations

import ctypes
import functools

import numpy as np
import pytest
from arm_kernels import ArmKernels, missing

from edgec.plugins.kernels import calls
from edgec.plugins.kernels.cpu.build import X86_64, library, units_of
from edgec.plugins.kernels.cpu.native import PARALLEL, Call, Scratch, instructions
from edgec.targets.tvm.kernels import ENTRIES
from edgec.targets.tvm.machines import CORES

ARM = "neon"
ISAS = [*(isa for isa in instructions() if isa != "amx"), ARM]


@functools.cache
def kernels():
    units = units_of({name: entry.kernel for name, entry in ENTRIES.items()}, X86_64)
    return ctypes.CDLL(str(library("edgec_tvm_kernels", units)))


@functools.cache
def arm():
    if missing():
        pytest.skip(missing())
    return ArmKernels(CORES[""])


def call(name, inputs, shape, numbers, isa):
    """The output of a kernel, float32 of a shape, written over a pattern that shows what was left out."""
    if isa == ARM:
        return arm().call(name, inputs, [(shape, np.float32)], numbers)[0]
    entry = ENTRIES[name]
    held = [np.ascontiguousarray(array) for array in inputs]
    output = np.full(shape, 77, np.float32)
    given = calls.tensors([(array.ctypes.data, array.shape, array.dtype.name) for array in held])
    made = calls.tensors([(output.ctypes.data, output.shape, "float32")])
    typed = {key: (float if is_real else int)(numbers[key]) for key, is_real in entry.attributes.items()}
    settings = calls.attributes(typed)
    scratch = Scratch()
    packed = Call(given, made, settings, len(typed), PARALLEL(), scratch.function, 1)
    assert getattr(kernels(), f"edgec_{name}_{isa}")(ctypes.byref(packed)) == 0
    return output
