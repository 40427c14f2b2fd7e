"""The CPU token kernels called from Python on numpy arrays, one thread: for tests and benchmarks."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import numpy as np

from edgec.plugins.bindings.openvino.build import kernel_library

Outputs = tuple[np.ndarray, np.ndarray, np.ndarray]

INSTRUCTIONS = ("avx512", "avx2", "baseline")


class _Shape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("batch", "length", "channels", "heads", "depth", "r", "guarded", "half")
    ]


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(kernel_library()))
    library.edgec_token_workspace.restype = ctypes.c_int64
    library.edgec_token_instructions.restype = ctypes.c_char_p
    return library


def instructions() -> str:
    """The instruction set that this machine's kernels use: `avx512`, `avx2` or `baseline`."""
    return _library().edgec_token_instructions().decode()


def _float32(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=np.float32)


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def prepare(
    op_type: str,
    tokens: np.ndarray,
    metric: np.ndarray,
    sizes: np.ndarray,
    *,
    r: int,
    protected: int = 0,
    score: np.ndarray | None = None,
    merge: int = 1,
    margin: float = 0.5,
    isa: str = "",
) -> tuple[Callable[[], None], Outputs]:
    """A call of one kernel, ready to be made again and again, and the arrays it writes.

    Args:
        op_type: `TokenMerge`, `TokenMergeEnergy` or `TokenPrune`.
        tokens: (B, N, C).
        metric: (B, H, N, D).
        sizes: (B, N, 1).
        r: tokens to take away.
        protected: leading tokens that stay.
        score: (B, N), for `TokenPrune`.
        merge: for `TokenPrune`.
        margin: for `TokenMergeEnergy`.
        isa: one of `INSTRUCTIONS` instead of the machine's best.

    Returns:
        the call; merged (B, N - r, C), merged_sizes (B, N - r, 1), assignment (B, N).
    """
    tokens, metric, sizes = _float32(tokens), _float32(metric), _float32(sizes)
    batch, length, channels = tokens.shape
    shape = _Shape(batch, length, channels, metric.shape[1], metric.shape[3], r, protected, 0)
    outputs = (
        np.full((batch, length - r, channels), np.nan, np.float32),
        np.full((batch, length - r, 1), np.nan, np.float32),
        np.full((batch, length), -1, np.int32),
    )
    line = 64
    space = np.empty(_library().edgec_token_workspace(ctypes.byref(shape)) + line, np.uint8)
    space = space[-space.ctypes.data % line :]
    names = {"TokenMerge": "merge", "TokenMergeEnergy": "merge_energy", "TokenPrune": "prune"}
    entry = getattr(_library(), f"edgec_token_{names[op_type]}{'_' + isa if isa else ''}")
    held = [tokens, metric, sizes, space]
    arguments: list[object] = [ctypes.byref(shape)]
    if op_type == "TokenMergeEnergy":
        arguments += [ctypes.c_float(margin), _pointer(tokens)]
    elif op_type == "TokenPrune":
        assert score is not None
        score = _float32(score)
        held.append(score)
        arguments += [ctypes.c_int(merge), _pointer(tokens), _pointer(score)]
    else:
        arguments += [_pointer(tokens)]
    arguments += [_pointer(array) for array in (metric, sizes, *outputs, space)]
    arguments += [None, ctypes.c_int64(1)]

    def call() -> None:
        if entry(*arguments) != 0:
            raise ValueError(f"{op_type} refused r={r} of {held[0].shape[1]} tokens, {protected} protected")

    return call, outputs


def restore(tokens: np.ndarray, assignment: np.ndarray) -> np.ndarray | None:
    """`TokenRestore`, (B, M, C) and (B, N) to (B, N, C); None where the kernel refuses an assignment."""
    tokens, places = _float32(tokens), np.ascontiguousarray(assignment, dtype=np.int32)
    batch, kept, channels = tokens.shape
    length = places.shape[1]
    restored = np.full((batch, length, channels), np.nan, np.float32)
    sizes = (ctypes.c_int64(size) for size in (batch, kept, length, channels))
    arrays = (_pointer(array) for array in (tokens, places, restored))
    return None if _library().edgec_token_restore(*sizes, *arrays) else restored
