"""What a kernel is called with, for ctypes: the structures of `arguments.h`. It needs nothing of edgec."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

TYPES = {"float32": 0, "float16": 1, "bfloat16": 2, "int32": 3, "bool": 4}
"""`EDGEC_FLOAT32` … by element type."""


class Tensor(ctypes.Structure):
    """`edgec_tensor`."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("sizes", ctypes.POINTER(ctypes.c_int64)),
        ("rank", ctypes.c_int64),
        ("type", ctypes.c_int64),
    ]


class Attribute(ctypes.Structure):
    """`edgec_attribute`."""

    _fields_ = [("name", ctypes.c_char_p), ("integer", ctypes.c_int64), ("number", ctypes.c_double)]


class CudaCall(ctypes.Structure):
    """`edgec_cuda_call`."""

    _fields_ = [
        ("inputs", ctypes.POINTER(Tensor)),
        ("outputs", ctypes.POINTER(Tensor)),
        ("attributes", ctypes.POINTER(Attribute)),
        ("attribute_count", ctypes.c_int64),
        ("workspace", ctypes.c_void_p),
        ("stream", ctypes.c_void_p),
    ]


def tensors(given: Sequence[tuple[int, Sequence[int], str]]) -> ctypes.Array[Tensor]:
    """Tensors of an address, sizes and an element type each."""
    made = (Tensor * len(given))()
    for one, (address, sizes, dtype) in zip(made, given, strict=True):
        held = (ctypes.c_int64 * max(1, len(sizes)))(*sizes)
        one.data, one.rank, one.type = address, len(sizes), TYPES[dtype]
        one.sizes = ctypes.cast(held, ctypes.POINTER(ctypes.c_int64))
    return made


def attributes(given: Mapping[str, int | float]) -> ctypes.Array[Attribute]:
    """Attributes by name, all that the op declares."""
    made = (Attribute * max(1, len(given)))()
    for one, (name, value) in zip(made, given.items(), strict=False):
        one.name, one.number = name.encode(), float(value)
        one.integer = 0 if isinstance(value, float) else value
    return made
