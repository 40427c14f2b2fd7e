"""The little of the CUDA runtime that running an engine takes, over ctypes.

Every function is called by its C name; TensorRT needs the same library, so it is there where TensorRT is.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
from typing import Any

import numpy as np
from edgec_engine.errors import DeviceError

_LIBRARIES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
_MAJOR, _MINOR = 75, 76  # cudaDevAttrComputeCapabilityMajor, …Minor
_TO_DEVICE, _TO_HOST = 1, 2  # cudaMemcpyKind
_PROPERTIES = 1 << 14  # more than any release's cudaDeviceProp; its first member is the name


@functools.lru_cache(maxsize=None)
def _library() -> Any:
    names = list(_LIBRARIES)
    found = ctypes.util.find_library("cudart")
    if found:
        names.append(found)
    names += ["/usr/local/cuda/lib64/" + _LIBRARIES[0]]
    for name in names:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.cudaGetErrorString.restype = ctypes.c_char_p
        return library
    raise DeviceError(
        "the CUDA runtime (libcudart.so) is not found",
        "install CUDA from JetPack: sudo apt install nvidia-jetpack, or put it on LD_LIBRARY_PATH",
    )


def _call(name: str, *arguments: Any) -> None:
    status = getattr(_library(), name)(*arguments)
    if status != 0:
        text = _library().cudaGetErrorString(status).decode()
        fix = "close what else uses the GPU" if status == 2 else "look at dmesg and the GPU's driver"
        raise DeviceError(f"{name} failed: {text} ({status})", fix)


def runtime_version() -> str:
    """The CUDA runtime's version, `12.6`."""
    number = ctypes.c_int()
    _call("cudaRuntimeGetVersion", ctypes.byref(number))
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def gpu() -> tuple[str, str]:
    """Name and compute capability of the first GPU: `("Orin", "8.7")`.

    Raises:
        DeviceError: there is no GPU that CUDA can use.
    """
    count = ctypes.c_int()
    status = _library().cudaGetDeviceCount(ctypes.byref(count))
    if status != 0 or count.value == 0:
        reason = _library().cudaGetErrorString(status).decode()
        raise DeviceError(
            f"CUDA finds no GPU here ({reason})",
            "run this on the device; in a container, start it with --runtime nvidia",
        )
    buffer = ctypes.create_string_buffer(_PROPERTIES)
    _call("cudaGetDeviceProperties", buffer, 0)
    major, minor = ctypes.c_int(), ctypes.c_int()
    _call("cudaDeviceGetAttribute", ctypes.byref(major), _MAJOR, 0)
    _call("cudaDeviceGetAttribute", ctypes.byref(minor), _MINOR, 0)
    return buffer.value.decode(), f"{major.value}.{minor.value}"


class Stream:
    """A CUDA stream."""

    def __init__(self) -> None:
        self._handle = ctypes.c_void_p()
        _call("cudaStreamCreate", ctypes.byref(self._handle))

    @property
    def handle(self) -> int:
        """The stream as TensorRT takes it."""
        return self._handle.value or 0

    def synchronize(self) -> None:
        """Wait for all that was put on the stream."""
        _call("cudaStreamSynchronize", self._handle)

    def close(self) -> None:
        """Destroy the stream."""
        if self._handle:
            _call("cudaStreamDestroy", self._handle)
            self._handle = ctypes.c_void_p()


class Buffer:
    """Device memory that grows on demand."""

    def __init__(self) -> None:
        self._pointer = ctypes.c_void_p()
        self.capacity = 0

    @property
    def address(self) -> int:
        """The device address."""
        return self._pointer.value or 0

    def reserve(self, size: int) -> None:
        """Make room for `size` bytes; what was in it is lost where it grows."""
        if size <= self.capacity and self._pointer:
            return
        self.close()
        # A tensor without elements still needs an address of its own.
        _call("cudaMalloc", ctypes.byref(self._pointer), ctypes.c_size_t(max(size, 1)))
        self.capacity = max(size, 1)

    def upload(self, array: np.ndarray, stream: Stream) -> None:
        """Copy an array to the device, in the stream's order."""
        self.reserve(array.nbytes)
        _copy(self.address, array.ctypes.data, array.nbytes, _TO_DEVICE, stream)

    def download(self, array: np.ndarray, stream: Stream) -> None:
        """Copy into an array from the device, in the stream's order."""
        _copy(array.ctypes.data, self.address, array.nbytes, _TO_HOST, stream)

    def close(self) -> None:
        """Free the memory."""
        if self._pointer:
            _call("cudaFree", self._pointer)
            self._pointer = ctypes.c_void_p()
            self.capacity = 0


def _copy(target: int, source: int, size: int, kind: int, stream: Stream) -> None:
    _call(
        "cudaMemcpyAsync",
        ctypes.c_void_p(target),
        ctypes.c_void_p(source),
        ctypes.c_size_t(size),
        ctypes.c_int(kind),
        ctypes.c_void_p(stream.handle),
    )


class Timer:
    """Times what a stream does between `start` and `stop`, by the GPU's own clock."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._events = (ctypes.c_void_p(), ctypes.c_void_p())
        for event in self._events:
            _call("cudaEventCreate", ctypes.byref(event))

    def start(self) -> None:
        """Mark the beginning."""
        self._record(0)

    def stop(self) -> None:
        """Mark the end."""
        self._record(1)

    def milliseconds(self) -> float:
        """The time between both marks; waits for the second."""
        elapsed = ctypes.c_float()
        _call("cudaEventSynchronize", self._events[1])
        _call("cudaEventElapsedTime", ctypes.byref(elapsed), self._events[0], self._events[1])
        return elapsed.value

    def close(self) -> None:
        """Destroy both events."""
        for event in self._events:
            _call("cudaEventDestroy", event)

    def _record(self, index: int) -> None:
        _call("cudaEventRecord", self._events[index], ctypes.c_void_p(self._stream.handle))


def try_gpu() -> tuple[str, str] | None:
    """As `gpu`, None where CUDA or a GPU is missing."""
    try:
        return gpu()
    except DeviceError:
        return None
