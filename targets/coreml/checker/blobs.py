"""weight.bin: the format that Core ML's runtime maps into memory.

The file opens with a header of 64 bytes (count, version); each blob has a record of 64 bytes
(sentinel, type, size, data offset, padding bits), and its data starts at a multiple of 64
(coremltools: mlmodel/src/MILBlob/Blob/StorageFormat.hpp).
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from edgec.core.errors import IntegrityError

SENTINEL = 0xDEADBEEF
ALIGNMENT = 64
VERSION = 2

_HEADER = struct.Struct("<II56x")
_RECORD = struct.Struct("<IIQQQ32x")

_WHOLE_BYTES: dict[int, str] = {
    1: "<f2",
    2: "<f4",
    3: "u1",
    4: "i1",
    6: "<i2",
    7: "<u2",
    14: "<i4",
    15: "<u4",
}
_BITS: dict[int, tuple[int, bool]] = {
    8: (4, True),
    9: (1, False),
    10: (2, False),
    11: (4, False),
    12: (3, False),
    13: (6, False),
}
"""Types under a byte: bits, and whether they are signed."""


class Blobs:
    """A weight file, read once.

    Raises:
        IntegrityError: it is missing or its header is not that of a weight file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._data = path.read_bytes()
        except OSError as error:
            raise self._broken(f"cannot be read ({error})") from error
        if len(self._data) < _HEADER.size:
            raise self._broken("is too short to be a weight file")
        self.count, version = _HEADER.unpack_from(self._data)
        if version != VERSION:
            raise self._broken(f"has version {version}, and Core ML reads {VERSION}")

    def _broken(self, what: str) -> IntegrityError:
        return IntegrityError(f"the weight file {what}", where=str(self.path), fix="compile the model again")

    def read(self, offset: int, shape: tuple[int, ...]) -> np.ndarray:
        """The blob whose record starts at the offset, in the given shape.

        Raises:
            IntegrityError: no sound record is there, or it holds another number of elements.
        """
        if offset % ALIGNMENT or not 0 < offset <= len(self._data) - _RECORD.size:
            raise self._broken(f"has no record at {offset}")
        sentinel, kind, size, start, padding = _RECORD.unpack_from(self._data, offset)
        if sentinel != SENTINEL:
            raise self._broken(f"has no sentinel at {offset}")
        if start % ALIGNMENT or start + size > len(self._data):
            raise self._broken(f"names data at {start} that is not there or not aligned")
        count = int(np.prod(shape, initial=1))
        raw = np.frombuffer(self._data, np.uint8, count=size, offset=start)
        if kind in _WHOLE_BYTES:
            values = raw.view(_WHOLE_BYTES[kind])
        elif kind in _BITS:
            values = unpacked(raw, count, *_BITS[kind])
            if size * 8 - padding != count * _BITS[kind][0]:
                raise self._broken(f"has {size * 8 - padding} bits at {offset} for {count} elements")
        else:
            raise self._broken(f"has data of the unknown type {kind} at {offset}")
        if values.size != count:
            raise self._broken(f"has {values.size} elements at {offset} where the model says {count}")
        return values.reshape(shape)


def unpacked(raw: np.ndarray, count: int, bits: int, signed: bool) -> np.ndarray:
    """Elements under a byte, packed from the lowest bit of the first byte on."""
    stream = np.unpackbits(raw, bitorder="little")[: count * bits].reshape(count, bits)
    values = (stream * (1 << np.arange(bits))).sum(1)
    if signed:
        values = np.where(values >= 1 << (bits - 1), values - (1 << bits), values)
    return values.astype(np.int8 if signed else np.uint8)
