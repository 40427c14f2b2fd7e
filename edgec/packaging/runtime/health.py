"""Whether a server answers rightly: it is asked for the bundle's own sample."""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from typing import Any

import numpy as np

from edgec.core.bundle import Bundle
from edgec.core.errors import JobError, NumericsError
from edgec.core.graph import Arrays
from edgec.core.numerics import Expected
from edgec.runtime.verification import gate_of
from edgec.serving.model import address_name
from edgec.serving.protocol import DATATYPES, HEADER_LENGTH, datatype


def check_health(bundle: Bundle, address: str, seconds: float) -> None:
    """Ask a server for the bundle's first sample, and hold its answer to the bundle's own bounds.

    Args:
        bundle: the bundle that is served there.
        address: as in `http://127.0.0.1:8000`.
        seconds: how long to wait.

    Raises:
        JobError: there is no answer in time, or it is a refusal.
        NumericsError: the answer is wrong.
    """
    feeds, expected = bundle.samples()
    name = address_name(bundle.manifest["model"]["name"])
    outputs = _asked(f"{address}/v2/models/{name}/infer", feeds[0], seconds)
    first = Expected(*(list(part)[:1] for part in _parts(expected)))
    gate = gate_of(bundle)
    try:
        broken = gate.broken(first.difference([outputs], gate))
    except (ValueError, LookupError) as error:
        raise JobError(f"the answer is of another model ({error})", where=address) from error
    if broken:
        raise NumericsError(f"the answer to the bundle's own sample is {broken}", where=address)


def _parts(expected: Expected) -> tuple[Any, ...]:
    return expected.references, expected.exact, expected.ties, expected.moves


def _asked(url: str, feeds: Arrays, seconds: float) -> Arrays:
    pieces = [
        np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes() for array in feeds.values()
    ]
    inputs = [
        {
            "name": name,
            "datatype": datatype(array.dtype.name),
            "shape": list(array.shape),
            "parameters": {"binary_data_size": len(piece)},
        }
        for (name, array), piece in zip(feeds.items(), pieces, strict=True)
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    request = urllib.request.Request(url, b"".join([head, *pieces]), {HEADER_LENGTH: str(len(head))})
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return _outputs(answer.read(), int(answer.headers[HEADER_LENGTH]))
    except (OSError, TypeError, ValueError, LookupError) as error:
        raise JobError(f"the server does not answer ({error})", where=url) from error


def _outputs(body: bytes, header_length: int) -> Arrays:
    outputs, place = {}, header_length
    for entry in json.loads(body[:header_length])["outputs"]:
        dtype, shape = DATATYPES[entry["datatype"]], entry["shape"]
        outputs[entry["name"]] = np.frombuffer(body, dtype, math.prod(shape), place).reshape(shape)
        place += entry["parameters"]["binary_data_size"]
    return outputs
