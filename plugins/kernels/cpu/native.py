"""The kernels for processors called from Python on numpy arrays, one thread: for tests and benchmarks."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgec.plugins.infra import INSTRUCTIONS, Kind, Plugin
from edgec.plugins.kernels import calls
from edgec.plugins.kernels.cpu.build import kernel_library

_LINE = 64

SCRATCH = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int64)
"""`edgec_scratch`."""

TASK = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)
PARALLEL = ctypes.CFUNCTYPE(None, ctypes.c_int64, TASK, ctypes.c_void_p, ctypes.c_int)
"""`edgec_parallel`."""


class Call(ctypes.Structure):
    """`edgec_cpu_call`."""

    _fields_ = [
        ("inputs", ctypes.POINTER(calls.Tensor)),
        ("outputs", ctypes.POINTER(calls.Tensor)),
        ("attributes", ctypes.POINTER(calls.Attribute)),
        ("attribute_count", ctypes.c_int64),
        ("parallel", PARALLEL),
        ("scratch", SCRATCH),
        ("threads", ctypes.c_int64),
    ]


@functools.cache
def library() -> ctypes.CDLL:
    """The kernels of all plugins."""
    return ctypes.CDLL(str(kernel_library()))


def instructions() -> list[str]:
    """The instruction sets that this machine runs, of `amx` and `INSTRUCTIONS`, the best first."""
    return [isa for isa in ("amx", *INSTRUCTIONS) if library().edgec_runs(isa.encode())]


class Scratch:
    """Memory of a call, as large as it asks for.

    Attributes:
        function: what a call is given.
    """

    def __init__(self) -> None:
        self._block = np.empty(0, np.uint8)
        self.function = SCRATCH(self._ask)

    def _ask(self, size: int) -> int:
        if self._block.nbytes < size + _LINE:
            self._block = np.empty(size + _LINE, np.uint8)
        return self._block.ctypes.data + -self._block.ctypes.data % _LINE


def prepare(
    plugin: Plugin,
    feeds: Mapping[str, np.ndarray],
    attributes: Mapping[str, int | float],
    *,
    isa: str = "",
    kernels: ctypes.CDLL | None = None,
) -> tuple[Callable[[], None], list[np.ndarray]]:
    """A call of a plugin's kernel, ready to be made again and again, and the arrays it writes.

    Args:
        plugin: has a kernel for processors.
        feeds: input by name, in the types that the kernel takes.
        attributes: attribute by name; those left out have their defaults.
        isa: one of `instructions()` instead of the machine's best.
        kernels: a library of kernels other than that of all plugins.

    Returns:
        the call, which raises ValueError where the kernel refuses the sizes; the outputs.
    """
    kernels = library() if kernels is None else kernels
    held = [np.ascontiguousarray(feeds[port.name]) for port in plugin.inputs]
    given = calls.tensors([(array.ctypes.data, array.shape, array.dtype.name) for array in held])
    values = {**plugin.attributes, **attributes}
    settings = calls.attributes(values)
    scratch = Scratch()
    call = Call(given, None, settings, len(values), PARALLEL(), scratch.function, 1)
    entry = getattr(kernels, f"edgec_{plugin.op_type}{'_' + isa if isa else ''}")
    open_size = -1
    if plugin.open_size is not None:
        asked = getattr(kernels, f"edgec_{plugin.op_type}_open_size")
        asked.restype = ctypes.c_int64
        open_size = asked(ctypes.byref(call))
    shapes = output_shapes(plugin, [array.shape for array in held], values, open_size)
    outputs = [
        np.full(shape, 77, held[0].dtype if port.kind is Kind.LIKE_FIRST else np.dtype(port.kind.value))
        for port, shape in zip(plugin.outputs, shapes, strict=True)
    ]
    made = calls.tensors([(array.ctypes.data, array.shape, array.dtype.name) for array in outputs])
    call.outputs = made

    def run() -> None:
        # What ctypes makes of an array or a function lives no longer than what holds it.
        if entry(ctypes.byref(call)) != 0 or not (held and given and settings and scratch and made):
            raise ValueError(f"{plugin.op_type} refused {[array.shape for array in held]} with {values}")

    return run, outputs


def output_shapes(
    plugin: Plugin,
    shapes: Sequence[tuple[int, ...]],
    attributes: Mapping[str, int | float],
    open_size: int = -1,
) -> list[tuple[int, ...]]:
    """Shapes of the outputs from the inputs', none of them below 0.

    Args:
        plugin: the plugin.
        shapes: of its inputs.
        attributes: all of its attributes.
        open_size: the size that depends on the data, where it has one.
    """
    known = {name: value for name, value in attributes.items() if isinstance(value, int)}
    for port, shape in zip(plugin.inputs, shapes, strict=True):
        known |= {size.name: length for size, length in zip(port.sizes, shape, strict=True) if size.name}
    if plugin.open_size is not None:
        known.setdefault(plugin.open_size, open_size)
    return [tuple(max(0, size.value(known) or 0) for size in port.sizes) for port in plugin.outputs]
