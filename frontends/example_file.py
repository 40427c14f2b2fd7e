"""`--example F.npz`: real inputs, checked against what the model takes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgec.core.bundle import read_arrays
from edgec.core.errors import RequestError
from edgec.core.graph import Arrays, TensorSpec
from edgec.frontends.inputs import option

MOST = 4
"""Samples taken of a file, spread over it: every engine runs them all, more than once."""

_LABELS = "labels"
"""The array that evaluation data has besides the inputs."""


def read_example(path: str | Path, specs: Sequence[TensorSpec]) -> list[Arrays]:
    """The file's samples as feeds, at most `MOST` of them.

    An array has the input's own shape (one sample), or one dimension more in front (samples stacked), or
    several batches one behind the other.

    Args:
        path: an npz file of arrays named after the inputs; `labels` beside them is left alone.
        specs: the inputs.

    Raises:
        RequestError: it does not fit; says which array and how.
    """
    where = str(path)
    arrays = read_arrays(Path(path))
    arrays.pop(_LABELS, None)
    _check_names(arrays, [spec.name for spec in specs], where)
    parted = {spec.name: _parted(arrays[spec.name], spec, where) for spec in specs}
    counts = {name: len(samples) for name, samples in parted.items()}
    if len(set(counts.values())) != 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise RequestError(
            f"its arrays have different numbers of samples: {listed}",
            where=where,
            fix="give every input as many",
        )
    total = next(iter(counts.values()))
    if total == 0:
        raise RequestError("it holds no samples", where=where, fix="stack the samples on axis 0")
    chosen = np.unique(np.linspace(0, total - 1, min(MOST, total)).round().astype(int))
    return [{name: samples[place] for name, samples in parted.items()} for place in chosen]


def _check_names(arrays: Mapping[str, np.ndarray], names: Sequence[str], where: str) -> None:
    missing = [name for name in names if name not in arrays]
    unknown = [name for name in arrays if name not in names]
    if missing:
        near = difflib.get_close_matches(missing[0], unknown, n=1)
        raise RequestError(
            f"has no array {missing[0]!r}, which the model takes",
            where=where,
            fix=f"rename {near[0]!r} to it" if near else f"write one array an input: {', '.join(names)}",
        )
    if unknown:
        raise RequestError(
            f"has the array {unknown[0]!r}, and the model has no such input",
            where=where,
            fix=f"leave it out; the inputs are {', '.join(names)}",
        )


def _parted(array: np.ndarray, spec: TensorSpec, where: str) -> list[np.ndarray]:
    if array.dtype != np.dtype(spec.dtype):
        raise RequestError(
            f"array {spec.name!r} is {array.dtype}, the model takes {spec.dtype}",
            where=where,
            fix=f"write it as array.astype({spec.dtype!r})",
        )
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise RequestError(f"array {spec.name!r} has NaN values", where=where, fix="leave those samples out")
    if _fits(array.shape, spec.shape):
        return [array]
    if array.ndim and _fits(array.shape[1:], spec.shape):
        return list(array)
    batch = spec.shape[0] if spec.shape and array.ndim else None
    whole = isinstance(batch, int) and len(array) % batch == 0
    if isinstance(batch, int) and whole and _fits((batch, *array.shape[1:]), spec.shape):
        return list(array.reshape(-1, batch, *array.shape[1:]))
    given = "x".join(map(str, array.shape)) or "scalar"
    taken = option(spec.name, spec.shape, None).partition(":")[2]
    raise RequestError(
        f"array {spec.name!r} has the shape {given}, the model takes {taken}",
        where=where,
        fix="give that shape, or samples of it stacked on a new first axis, or set it with --input",
    )


def _fits(shape: Sequence[int], wanted: Sequence[int | str]) -> bool:
    return len(shape) == len(wanted) and all(
        isinstance(size, str) or size == have for size, have in zip(wanted, shape, strict=True)
    )
