"""npz files of plain arrays: read within bounds, never unpickled; the same bytes for the same arrays.

Written for Python 3.8 and without edgec, because bundles carry a copy of it to devices.
"""

from __future__ import annotations

import math
import zipfile
from typing import IO, Any, Mapping, Union

import numpy as np

Source = Union[str, IO[bytes]]

_CHUNK = 1 << 24


class NpzError(ValueError):
    """The file is no npz file of named arrays; the message says what is wrong with it, one clause."""


def read(source: Source, most: int) -> dict[str, np.ndarray]:
    """All arrays of a file.

    Args:
        source: a path, or a file that can be sought in.
        most: bytes that all arrays may have together; what the file says of itself is held to it first.

    Raises:
        NpzError: it is damaged or encrypted, holds anything but plain arrays, or more than `most`.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            entries = archive.infolist()
            total = sum(entry.file_size for entry in entries)
            if total > most:
                raise NpzError(f"its arrays have {total} bytes together, over the limit of {most}")
            arrays: dict[str, np.ndarray] = {}
            for entry in entries:
                if not entry.filename.endswith(".npy"):
                    raise NpzError(f"{entry.filename!r} in it is no array")
                name = entry.filename[: -len(".npy")]
                if name in arrays:
                    raise NpzError(f"it holds {name!r} twice")
                if entry.flag_bits & 1:
                    raise NpzError("it is encrypted")
                with archive.open(entry) as member:
                    arrays[name] = _array(member, entry.file_size, name)
            return arrays
    except NpzError:
        raise
    except MemoryError:
        raise NpzError("it does not fit into the memory") from None
    except Exception as error:
        if isinstance(source, str) and _is_single_array(source):
            raise NpzError("it holds one array without a name") from error
        # A damaged zip file ends in any of a dozen classes of zipfile, zlib and the operating system.
        raise NpzError("it is damaged, or no zip file") from error


def _is_single_array(path: str) -> bool:
    with open(path, "rb") as file:  # noqa: PTH123 - Python 3.8 on a device
        return file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX


def write(target: Source, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file, the same bytes for the same arrays.

    `numpy.savez` is not used: it takes the arrays' names as its own keyword arguments.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(name + ".npy")
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)


def _array(member: IO[bytes], size: int, name: str) -> np.ndarray:
    """One array, from a member of `size` bytes: its header must ask for exactly what follows it."""
    shape, in_columns, dtype = _header(member, name)
    if dtype.hasobject:
        raise NpzError(f"{name!r} holds Python objects")
    count = math.prod(shape)
    wanted = count * dtype.itemsize
    if min(shape, default=0) < 0 or wanted != size - member.tell():
        raise NpzError(f"{name!r} has another size than it says")
    raw = np.empty(wanted, np.uint8)
    place = 0
    while place < wanted:
        piece = member.read(min(_CHUNK, wanted - place))
        if not piece:
            raise NpzError(f"{name!r} is cut off")
        raw[place : place + len(piece)] = np.frombuffer(piece, np.uint8)
        place += len(piece)
    member.read(1)  # at the end the checksum is compared
    array = raw.view(dtype) if wanted else np.empty(count, dtype)
    return array.reshape(shape, order="F" if in_columns else "C")


def _header(member: IO[bytes], name: str) -> Any:
    """Shape, whether the first axis is the densest, and dtype. Numpy's own advice is not for users."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        return readers[np.lib.format.read_magic(member)](member)
    except Exception as error:
        raise NpzError(f"{name!r} has a damaged header") from error
