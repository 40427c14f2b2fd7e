"""Bounds on what a file from outside may ask for. They are held before the work is done, not after.

A bound is far over what a network for a device needs. Whoever needs more says so: the environment variable of
the same name, in capitals and after `EDGEC_MAX_`, sets it (`EDGEC_MAX_TENSOR_BYTES=4294967296`).
"""

from __future__ import annotations

import os
from typing import Literal

from edgec.core.errors import RequestError

Name = Literal[
    "nodes",
    "function_calls",
    "nesting",
    "tensor_bytes",
    "model_bytes",
    "array_bytes",
    "bundle_bytes",
    "bundle_files",
    "json_bytes",
    "samples",
]

DEFAULTS: dict[Name, int] = {
    # Nodes of a graph with all its subgraphs, after model-local functions are inlined.
    "nodes": 100_000,
    # Calls of model-local functions that are inlined: each is paid for again by those that follow.
    "function_calls": 5_000,
    # Functions that call functions.
    "nesting": 64,
    # The largest tensor that a graph computes or is fed, as far as its shape is known before it runs.
    "tensor_bytes": 2**30,
    # An ONNX file without its external data; protobuf itself ends at 2 GiB.
    "model_bytes": 2**31,
    # All arrays of an npz file together, uncompressed.
    "array_bytes": 2**32,
    # A packed bundle's files together, unpacked; and how many.
    "bundle_bytes": 2**34,
    "bundle_files": 10_000,
    # A JSON file of a bundle.
    "json_bytes": 2**28,
    # Samples that a bundle carries.
    "samples": 1_000,
}


def limit(name: Name) -> int:
    """A bound: the default, or what its environment variable says.

    Raises:
        RequestError: the variable is no whole number of at least 1.
    """
    variable = variable_of(name)
    text = os.environ.get(variable, "").strip()
    if not text:
        return DEFAULTS[name]
    if not (text.isascii() and text.isdigit() and len(text) < 20) or int(text) == 0:
        raise RequestError(
            f"{variable}={text!r} is no whole number of at least 1", fix=f"set {variable} to one"
        )
    return int(text)


def variable_of(name: Name) -> str:
    """The environment variable that sets a bound."""
    return f"EDGEC_MAX_{name.upper()}"


def over(name: Name, what: str, *, where: str | None = None) -> RequestError:
    """The error for what passes a bound; `what` says the amount, one clause."""
    return RequestError(
        f"{what}, over the limit of {limit(name)}",
        where=where,
        fix=f"if that is meant, set the environment variable {variable_of(name)} higher",
    )
