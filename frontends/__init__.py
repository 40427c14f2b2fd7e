"""From what a user names to a graph, with the source's own outputs beside it."""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from pathlib import Path

from edgec.core.errors import RequestError
from edgec.core.graph import Graph
from edgec.core.progress import Progress, Silent

__all__ = ["load"]

_FORMS = "file.onnx, file.py:function, timm:NAME, hf:DIR or zoo:NAME"


def load(
    spec: str,
    *,
    example: str | Path | None = None,
    inputs: Sequence[str] = (),
    batch: int | None = None,
    seed: int = 0,
    samples: int = 3,
    progress: Progress | None = None,
) -> Graph:
    """Load a model.

    Args:
        spec: `file.onnx`, `file.py:function`, `timm:NAME`, `timm:NAME@WEIGHTS` or `hf:DIR`.
        example: an npz file of real inputs, which become the graph's first samples.
        inputs: `NAME:SHAPE:DTYPE` for inputs whose shape is to be set.
        batch: size of the first dimension of every input.
        seed: of drawn inputs and of random weights.
        samples: how many example inputs to draw.
        progress: told about long steps.

    Raises:
        RequestError: there is no such model, or it is malformed.
        MissingExtraError: the package that reads it is not installed.
        JobError: it could not be turned into a graph.
    """
    options = {
        "example": example,
        "inputs": inputs,
        "batch": batch,
        "seed": seed,
        "samples": samples,
        "progress": progress or Silent(),
    }
    is_there = os.path.exists(spec)  # noqa: PTH110 (false too where a name is too long or has a NUL)
    scheme, _, rest = spec.partition(":")
    if scheme == "timm" and not is_there:
        from edgec.frontends.timm import from_timm

        return from_timm(rest, **options)  # type: ignore[arg-type]
    if scheme == "hf" and not is_there:
        from edgec.frontends.transformers import from_transformers

        return from_transformers(rest, **options)  # type: ignore[arg-type]
    path, _, function = spec.rpartition(":")
    if path.endswith(".py"):
        from edgec.frontends.python_file import from_python_file

        return from_python_file(path, function, **options)  # type: ignore[arg-type]
    if spec.endswith(".py"):
        raise RequestError(
            "a Python file needs the name of a function that returns a module and example inputs",
            where=spec,
            fix=f"write {spec}:FUNCTION",
        )
    if not is_there and not spec.endswith(".onnx"):
        raise RequestError(f"there is no model {spec!r}", fix=f"name a model as {_FORMS}")
    from edgec.frontends.onnx import from_onnx

    return from_onnx(spec, **options)  # type: ignore[arg-type]
