"""Inputs and outputs of a package beside those of the graph."""

from __future__ import annotations

import dataclasses

from edgec.targets.coreml.images import ImageInput


@dataclasses.dataclass(frozen=True)
class Feature:
    """One input or output of the package.

    Attributes:
        source: the tensor's name in the graph.
        name: its name in the package.
        shape: its shape in the graph; a string is an open dimension.
        dtype: its type in the graph, a numpy name.
        mil_shape: its shape in the package: rank 0 becomes (1,).
        mil_dtype: its type in the package: `fp32`, `fp16` or `int32`.
        image: how bytes become it, where it is a picture in the package.
    """

    source: str
    name: str
    shape: tuple[int | str, ...]
    dtype: str
    mil_shape: tuple[int | str, ...]
    mil_dtype: str
    image: ImageInput | None = None
