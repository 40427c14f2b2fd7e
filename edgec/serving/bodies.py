"""Request bodies: read within a size, a time and the memory that all of them may hold together."""

from __future__ import annotations

import asyncio
import math
import zlib

from starlette.requests import Request

from edgec.serving.model import Model
from edgec.serving.protocol import HEADER_LENGTH, RefusalError

LARGEST = 256 << 20
"""Bytes of a body, and of what it unpacks to, where a model's inputs are of open size."""

ALL = 1 << 30
"""Bytes that all bodies may hold at once."""

_JSON_BYTES = 64
"""Bytes of one number in JSON: the longest double has 24, the rest is for blanks."""

_WINDOW = {"gzip": 31, "deflate": 15}
"""zlib's `wbits` by Content-Encoding."""


class Bodies:
    """The bodies that are held now.

    Attributes:
        held: bytes of them.
    """

    def __init__(self) -> None:
        self.held = 0

    async def read(self, request: Request, most: int, seconds: float) -> bytes:
        """Read a body; whoever reads it gives its length back with `release`.

        Args:
            request: the request.
            most: bytes that it may have.
            seconds: how long it may take to come.

        Raises:
            RefusalError: it is too large, 413; it did not come in time, 408; there is no memory for it, 503;
                it is packed in a way that is not known, 415; or it is damaged, 400.
        """
        length = _number(request, "content-length")
        if length is not None and length > most:
            raise RefusalError(413, f"the body has {length} bytes, the model takes {most} at most")
        pieces: list[bytes] = []
        try:
            await asyncio.wait_for(self._collect(request, most, pieces), seconds)
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            unpacked = _unpacked(body, request.headers.get("content-encoding", "identity"), most)
        except asyncio.TimeoutError:
            self.release(sum(map(len, pieces)))
            raise RefusalError(408, f"the body did not come within {seconds:g} s") from None
        except BaseException:
            self.release(sum(map(len, pieces)))
            raise
        self.held += len(unpacked) - len(body)
        return unpacked

    def release(self, count: int) -> None:
        """Say that so many bytes are held no more."""
        self.held -= count

    async def _collect(self, request: Request, most: int, pieces: list[bytes]) -> None:
        total = 0
        async for piece in request.stream():
            if not piece:
                continue
            total += len(piece)
            if total > most:
                raise RefusalError(413, f"the body has more than {most} bytes, which is all the model takes")
            if self.held + len(piece) > ALL:
                raise RefusalError(503, f"the bodies of all requests have {ALL} bytes together", 1)
            self.held += len(piece)
            pieces.append(piece)


def header_length(request: Request) -> int | None:
    """Bytes of the JSON in the body; None where it is nothing else.

    Raises:
        RefusalError: the header is no number.
    """
    return _number(request, HEADER_LENGTH)


def largest(model: Model) -> int:
    """Bytes that a request to a model may have: its inputs as JSON, or `LARGEST` where a size is open."""
    total = 1 << 16
    for tensor in model.inputs:
        sizes = list(tensor.shape)
        if model.rows is not None:
            sizes[0] = model.rows.most
        if -1 in sizes:
            return LARGEST
        total += math.prod(sizes) * _JSON_BYTES
    return total


def _number(request: Request, name: str) -> int | None:
    text = request.headers.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise RefusalError(400, f"the header {name} is no number of bytes")
    return int(text)


def _unpacked(body: bytes, encoding: str, most: int) -> bytes:
    if encoding == "identity":
        return body
    if encoding not in _WINDOW:
        raise RefusalError(
            415, f"the Content-Encoding {encoding!r} is not known; there are {', '.join(_WINDOW)}"
        )
    unpacker = zlib.decompressobj(_WINDOW[encoding])
    try:
        unpacked = unpacker.decompress(body, most + 1)
    except zlib.error as error:
        raise RefusalError(400, f"the body is no {encoding} data ({error})") from None
    if len(unpacked) > most:
        raise RefusalError(413, f"the body unpacks to more than {most} bytes, which is all the model takes")
    if not unpacker.eof:
        raise RefusalError(400, f"the body ends before its {encoding} data does")
    return unpacked
