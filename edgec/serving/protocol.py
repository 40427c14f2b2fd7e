"""The Open Inference Protocol, version 2, over HTTP: its tensors as JSON or as bytes after the JSON.

Sources: github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md, and Triton's
extension_binary_data.md. The room is written for Python 3.8 and without the rest of edgec, because bundles
carry a copy of it to devices.
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, Mapping, NoReturn

import numpy as np

DATATYPES = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""The protocol's names of numpy's dtypes; its BYTES and BF16 have none."""

_NAMES = {dtype: name for name, dtype in DATATYPES.items()}

HEADER_LENGTH = "Inference-Header-Content-Length"
"""The HTTP header that says where the JSON ends and the bytes of the tensors begin."""

_MOST_AXES = 32
_MOST_ELEMENTS = 1 << 40


class RefusalError(Exception):
    """A request that gets no outputs.

    Args:
        status: the HTTP status.
        message: what is wrong and what to do, one sentence.
        retry_after: seconds after which the client may try again.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after


@dataclasses.dataclass(frozen=True)
class InferRequest:
    """What a client asks for.

    Attributes:
        id: the client's own name of the request; empty where it gave none.
        feeds: an array for every input it sent, by name. They may be views of the body, and read-only.
        outputs: the outputs it wants and whether each as bytes; empty for all.
        binary: whether outputs that it does not name come as bytes.
        seconds: how long it is ready to wait; None leaves that to the server.
    """

    id: str
    feeds: dict[str, np.ndarray]
    outputs: dict[str, bool]
    binary: bool
    seconds: float | None


def datatype(dtype: str) -> str:
    """The protocol's name of a numpy dtype.

    Raises:
        ValueError: it has none.
    """
    try:
        return _NAMES[np.dtype(dtype).newbyteorder("<")]
    except KeyError:
        raise ValueError(f"the Open Inference Protocol has no name for {dtype}") from None


def read_request(body: bytes, header_length: int | None = None) -> InferRequest:
    """Read the body of an inference request.

    Args:
        body: JSON, and after it the bytes of the tensors that the JSON says are binary, in its order.
        header_length: bytes of the JSON; None where the body is nothing else.

    Raises:
        RefusalError: it is malformed; 400.
    """
    if header_length is not None and not 0 < header_length <= len(body):
        _refuse(f"{HEADER_LENGTH} is {header_length}, the body has {len(body)} bytes")
    text = body if header_length is None else body[:header_length]
    fields = _object(text)
    inputs = fields.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        _refuse("the request has no list 'inputs'")
    feeds: dict[str, np.ndarray] = {}
    place = len(text)
    for entry in inputs:
        name, array, size = _tensor(entry, body, place)
        if name in feeds:
            _refuse(f"input {name!r} is there twice")
        feeds[name] = array
        place += size
    if place != len(body):
        _refuse(f"the body has {len(body) - place} bytes that no input claims")
    parameters = _parameters(fields, "the request")
    return InferRequest(
        _text(fields.get("id", ""), "the request's 'id'"),
        feeds,
        _wanted(fields, parameters.get("binary_data_output") is True),
        parameters.get("binary_data_output") is True,
        _seconds(parameters),
    )


def write_response(
    model: str, version: str, request: InferRequest, outputs: Mapping[str, np.ndarray]
) -> tuple[bytes, int | None]:
    """The body of an answer, and the bytes of the JSON in it where others follow.

    Args:
        model: the model's name.
        version: its version.
        request: what was asked.
        outputs: what the model computed, by name.

    Raises:
        RefusalError: an output that was asked for as JSON has values that JSON lacks.
    """
    entries, pieces = [], []
    for name, is_binary in (request.outputs or dict.fromkeys(outputs, request.binary)).items():
        array = outputs[name]
        entry: dict[str, Any] = {
            "name": name,
            "datatype": datatype(array.dtype.name),
            "shape": list(array.shape),
        }
        if is_binary:
            piece = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
            entry["parameters"] = {"binary_data_size": len(piece)}
            pieces.append(piece)
        else:
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise RefusalError(
                    500,
                    f"output {name!r} has values that JSON does not have (NaN or infinity); ask for it with "
                    "the parameter binary_data",
                )
            entry["data"] = array.ravel().tolist()
        entries.append(entry)
    fields = {"model_name": model, "model_version": version, "outputs": entries}
    if request.id:
        fields["id"] = request.id
    text = json.dumps(fields, separators=(",", ":")).encode()
    return (b"".join([text, *pieces]), len(text)) if pieces else (text, None)


def _tensor(entry: Any, body: bytes, place: int) -> tuple[str, np.ndarray, int]:
    """Name and array of an input, and how many bytes of the body it took from `place` on."""
    if not isinstance(entry, dict):
        _refuse("an input is no JSON object")
    name = _text(entry.get("name"), "an input's 'name'")
    what = f"input {name!r}"
    dtype = DATATYPES.get(_text(entry.get("datatype"), f"the 'datatype' of {what}"))
    if dtype is None:
        _refuse(f"{what} has the datatype {entry['datatype']}; there are {', '.join(DATATYPES)}")
    shape = entry.get("shape")
    if not isinstance(shape, list) or len(shape) > _MOST_AXES or not all(map(_is_size, shape)):
        _refuse(f"the 'shape' of {what} is no list of sizes")
    count = math.prod(shape)
    if count > _MOST_ELEMENTS:
        _refuse(f"{what} has {count} elements")
    parameters = _parameters(entry, what)
    if "shared_memory_region" in parameters:
        _refuse(f"{what} is in shared memory, which this server does not read; send its bytes")
    size = parameters.get("binary_data_size")
    if size is None:
        return name, _from_json(entry, what, dtype, shape, count), 0
    if "data" in entry:
        _refuse(f"{what} has both 'data' and a binary_data_size")
    if not _is_size(size) or size != count * dtype.itemsize:
        _refuse(f"{what} of shape {shape} has {count * dtype.itemsize} bytes, its binary_data_size is {size}")
    if place + size > len(body):
        _refuse(f"the body ends before the {size} bytes of {what}")
    return name, np.frombuffer(body, dtype, count, place).reshape(shape), size


def _from_json(entry: Any, what: str, dtype: np.dtype, shape: list[int], count: int) -> np.ndarray:
    data = entry.get("data")
    if not isinstance(data, list):
        _refuse(f"{what} has no list 'data'")
    try:
        array = np.asarray(data)
    except (ValueError, RecursionError):
        array = None
    # Whatever has no number of its own, or not one for every place, numpy makes an array of objects or texts.
    if array is None or array.dtype.kind not in "biuf":
        _refuse(f"the 'data' of {what} is not numbers in a row or in rows of one length")
    if array.size != count:
        _refuse(f"{what} of shape {shape} has {count} elements, its 'data' {array.size}")
    array = array.reshape(shape)
    takes = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[dtype.kind]
    if array.size and array.dtype.kind not in takes:
        _refuse(f"the 'data' of {what} does not fit its datatype {entry['datatype']}")
    with np.errstate(over="ignore", invalid="ignore"):
        converted = array.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(converted, array):
        _refuse(f"the 'data' of {what} has values that {entry['datatype']} cannot hold")
    return converted


def _wanted(fields: Mapping[str, Any], binary: bool) -> dict[str, bool]:
    entries = fields.get("outputs", [])
    if not isinstance(entries, list):
        _refuse("the request's 'outputs' is no list")
    wanted: dict[str, bool] = {}
    for entry in entries:
        if not isinstance(entry, dict):
            _refuse("an output is no JSON object")
        name = _text(entry.get("name"), "an output's 'name'")
        parameters = _parameters(entry, f"output {name!r}")
        for asked in ("classification", "shared_memory_region"):
            if asked in parameters:
                _refuse(f"output {name!r} asks for {asked}, which this server does not have")
        wanted[name] = parameters.get("binary_data", binary) is True
    return wanted


def _seconds(parameters: Mapping[str, Any]) -> float | None:
    """The parameter `timeout`, which Triton's clients send in microseconds."""
    microseconds = parameters.get("timeout")
    if microseconds is None:
        return None
    if not _is_size(microseconds):
        _refuse("the parameter 'timeout' is no whole number of microseconds")
    return float(microseconds) / 1e6


def _object(text: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):
        _refuse("the body does not begin with JSON in UTF-8")
    if not isinstance(fields, dict):
        _refuse("the body is no JSON object")
    return fields


def _parameters(fields: Mapping[str, Any], what: str) -> dict[str, Any]:
    parameters = fields.get("parameters", {})
    if not isinstance(parameters, dict):
        _refuse(f"the 'parameters' of {what} are no JSON object")
    return parameters


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        _refuse(f"{what} is no text")
    return value


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0


def _refuse(what: str) -> NoReturn:
    raise RefusalError(400, what)
