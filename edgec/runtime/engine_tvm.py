"""The engine `tvm`: a library that TVM compiled, opened through the plain C of the loader beside it."""

from __future__ import annotations

import ctypes
import platform
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgec.core.errors import IntegrityError, JobError
from edgec.core.graph import Arrays
from edgec.runtime.engine import EngineDescription, LayerTime, closed
from edgec.runtime.layer_times import summarize
from edgec.runtime.threads import worker_threads

_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
_KINDS = {code: kind for kind, code in _CODES.items()}
"""DLPack's type codes by numpy's kinds; a bool has 8 bits."""

OTHERS = "what lies between the kernels"
"""The layer of all that the kernels' times leave."""

_CPUINFO = Path("/proc/cpuinfo")


class _Array(ctypes.Structure):
    """`edgec_array`."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("sizes", ctypes.POINTER(ctypes.c_int64)),
        ("rank", ctypes.c_int64),
        ("code", ctypes.c_int32),
        ("bits", ctypes.c_int32),
    ]


class TvmEngine:
    """A compiled library, one run at a time: its kernels share one pool of threads.

    Args:
        folder: the engine's folder, with its `engine.json`.

    Raises:
        IntegrityError: the description or the library cannot be read.
        JobError: this processor cannot run it.
    """

    def __init__(self, folder: Path) -> None:
        self.description = EngineDescription.read(folder)
        check_processor(self.description, folder)
        self._lock = threading.Lock()
        if not self.description.extensions:
            raise IntegrityError(
                "the engine's description names no loader", where=str(folder), fix="compile the model again"
            )
        try:
            self._library = _declared(ctypes.CDLL(str(folder / self.description.extensions[0])))
        except (OSError, AttributeError) as error:
            raise IntegrityError(
                f"its loader cannot be loaded ({error})", where=str(folder), fix="compile the model again"
            ) from error
        error_text = ctypes.create_string_buffer(1024)
        self._model: Any = self._library.edgec_tvm_open(
            str(folder / self.description.model).encode(),
            worker_threads(self.description.threads),
            error_text,
            len(error_text),
        )
        if not self._model:
            raise IntegrityError(
                f"TVM's runtime cannot open it ({error_text.value.decode(errors='replace')})",
                where=str(folder / self.description.model),
                fix="compile the model again with this version of edgec",
            )

    def run(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run once; the outputs are fresh arrays.

        Raises:
            RequestError: the engine is closed.
            JobError: the library refuses the inputs.
        """
        held = [np.ascontiguousarray(feeds[name]) for name in self.description.inputs]
        given = (_Array * max(1, len(held)))(*map(_array_of, held))
        with self._lock:
            if self._model is None:
                raise closed()
            if self._library.edgec_tvm_run(self._model, given, len(held)) != 0:
                said = self._library.edgec_tvm_error(self._model).decode(errors="replace")
                raise JobError(f"the compiled library does not run ({said})", fix="compile the model again")
            made = {}
            for place, name in enumerate(self.description.outputs):
                one = _Array()
                self._library.edgec_tvm_output(self._model, place, ctypes.byref(one))
                made[name] = _copy_of(one)
            return made

    def profile(self, feeds: Mapping[str, np.ndarray], runs: int = 20) -> list[LayerTime]:
        """Run with the kernels' own timers; what TVM's loops take between them is one row, the last."""
        warmup = 2
        calls: dict[str, list[float]] = {}
        ops: dict[str, str] = {OTHERS: "TVM"}
        rest: list[float] = []
        for _ in range(warmup + runs):
            with self._lock:
                if self._model is None:
                    raise closed()
                self._library.edgec_tvm_time(self._model, 1)
            begun = time.perf_counter()
            self.run(feeds)
            total = (time.perf_counter() - begun) * 1e6
            with self._lock:
                times, sites = ctypes.POINTER(ctypes.c_double)(), ctypes.POINTER(ctypes.c_int64)()
                count = self._library.edgec_tvm_times(self._model, ctypes.byref(times), ctypes.byref(sites))
                for place in range(count):
                    calls.setdefault(str(sites[place]), []).append(times[place])
                rest.append(total - sum(times[place] for place in range(count)))
                self._library.edgec_tvm_time(self._model, 0)
        calls[OTHERS] = rest
        ops |= {site: "edgec" for site in calls if site != OTHERS}
        return summarize(calls, ops, {**self.description.layers, OTHERS: OTHERS}, warmup)

    def close(self) -> None:
        """Free the model and its threads, once the run under way has ended."""
        with self._lock:
            if self._model is not None:
                self._library.edgec_tvm_close(self._model)
            self._model = None


def check_processor(description: EngineDescription, folder: Path) -> None:
    """See that this processor can run an engine, before anything of it is loaded.

    Raises:
        JobError: it is another one, or lacks an instruction set.
    """
    wanted = description.settings.get("processor", "")
    if platform.machine() != wanted:
        raise JobError(
            f"the library is for {wanted or 'no processor that it names'}, not for {platform.machine()}",
            where=str(folder),
            fix="compile the model for this machine",
        )
    try:
        said = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    lines = (line.partition(":") for line in said.splitlines())
    flags = {
        word
        for key, _, words in lines
        if key.strip().lower() in ("flags", "features")
        for word in words.split()
    }
    lacking = [word for word in description.settings.get("needs", "").split() if word not in flags]
    if flags and lacking:
        raise JobError(
            f"the library needs a processor with {', '.join(lacking)}, which this one has not",
            where=str(folder),
            fix="compile the model for this processor: --target arm is for any with 64 bits"
            if wanted == "aarch64"
            else "compile the model on this machine with --target x86",
        )


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.edgec_tvm_open.argtypes = [ctypes.c_char_p, number, ctypes.c_char_p, number]
    library.edgec_tvm_open.restype = pointer
    library.edgec_tvm_run.argtypes = [pointer, ctypes.POINTER(_Array), number]
    library.edgec_tvm_output.argtypes = [pointer, number, ctypes.POINTER(_Array)]
    library.edgec_tvm_output.restype = None
    library.edgec_tvm_error.argtypes = [pointer]
    library.edgec_tvm_error.restype = ctypes.c_char_p
    library.edgec_tvm_time.argtypes = [pointer, number]
    library.edgec_tvm_time.restype = None
    library.edgec_tvm_times.argtypes = [pointer, pointer, pointer]
    library.edgec_tvm_times.restype = number
    library.edgec_tvm_close.argtypes = [pointer]
    library.edgec_tvm_close.restype = None
    return library


def _array_of(array: np.ndarray) -> _Array:
    sizes = (ctypes.c_int64 * max(1, array.ndim))(*array.shape)
    pointer = ctypes.cast(sizes, ctypes.POINTER(ctypes.c_int64))
    return _Array(array.ctypes.data, pointer, array.ndim, _CODES[array.dtype.kind], 8 * array.dtype.itemsize)


def _copy_of(one: _Array) -> np.ndarray:
    shape = tuple(one.sizes[axis] for axis in range(one.rank))
    dtype = np.dtype(f"{_KINDS[one.code]}{max(1, one.bits // 8)}")
    made = np.empty(shape, dtype)
    if made.nbytes:
        ctypes.memmove(made.ctypes.data, one.data, made.nbytes)
    return made
