"""What a model is fed, held to what it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgec.core.errors import RequestError
from edgec.core.graph import Arrays, TensorSpec


def fitted(feeds: Mapping[str, np.ndarray], specs: Sequence[TensorSpec]) -> Arrays:
    """The feeds as an engine takes them, in the model's order.

    An array of another dtype is converted where the input's dtype can hold its kind of value: any float for a
    float input, any integer that keeps its value for an integer input.

    Args:
        feeds: an array for every input, by name.
        specs: the inputs.

    Raises:
        RequestError: an input is missing or unknown, or has another shape or dtype.
    """
    if len(feeds) != len(specs) or any(spec.name not in feeds for spec in specs):
        raise wrong_names(feeds, specs)
    arrays = {spec.name: _fit(feeds[spec.name], spec) for spec in specs}
    bound: dict[str, tuple[int, str]] = {}
    for spec in specs:
        for axis, (size, expected) in enumerate(zip(arrays[spec.name].shape, spec.shape, strict=True)):
            if isinstance(expected, int):
                continue
            known, first = bound.setdefault(expected, (size, spec.name))
            if known != size:
                raise RequestError(
                    f"input {spec.name!r} has size {size} on axis {axis} ({expected}), "
                    f"input {first!r} has {known}",
                    fix=f"feed arrays that agree on {expected}",
                )
    return arrays


def wrong_names(feeds: Mapping[str, np.ndarray], specs: Sequence[TensorSpec]) -> RequestError:
    """The error for feeds whose names are not the inputs'."""
    names = [spec.name for spec in specs]
    missing = [name for name in names if name not in feeds]
    unknown = [name for name in feeds if name not in names]
    said = []
    if missing:
        said.append(f"no array for input {', '.join(map(repr, missing))}")
    if unknown:
        said.append(f"the model has no input {', '.join(map(repr, unknown))}")
    return RequestError(" and ".join(said), fix="feed " + ", ".join(map(described, specs)))


def _fit(value: Any, spec: TensorSpec) -> np.ndarray:
    array = np.asarray(value)
    expected = np.dtype(spec.dtype)
    if array.ndim != len(spec.shape) or any(
        isinstance(size, int) and size != given for given, size in zip(array.shape, spec.shape, strict=True)
    ):
        raise RequestError(
            f"input {spec.name!r} has shape {shown(array.shape)}, the model takes {shown(spec.shape)}",
            fix=f"feed {described(spec)}",
        )
    if array.dtype == expected:
        return array
    both_float = array.dtype.kind == "f" and expected.kind == "f"
    both_integer = array.dtype.kind in "iu" and expected.kind in "iu"
    if not both_float and not both_integer:
        raise RequestError(
            f"input {spec.name!r} is {array.dtype}, the model takes {expected}",
            fix=f"convert it with .astype({expected.name!r}) if that is what you mean",
        )
    converted = array.astype(expected)
    if both_integer and not np.array_equal(converted, array):
        raise RequestError(
            f"input {spec.name!r} is {array.dtype} with values that {expected} cannot hold",
            fix=f"feed {described(spec)}",
        )
    return converted


def described(spec: TensorSpec) -> str:
    """`x: float32 [1, 3]`."""
    return f"{spec.name}: {spec.dtype} {shown(spec.shape)}"


def shown(shape: tuple[int | str, ...]) -> str:
    """`[batch, 3]`."""
    return "[" + ", ".join(map(str, shape)) + "]"
