"""A model as the server sees it: named tensors in, named tensors out."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Callable, Mapping

import numpy as np

from edgec.serving.protocol import datatype
from edgec.serving.rows import Rows

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One input or output.

    Attributes:
        name: its name.
        shape: sizes, outermost first; -1 where any size goes.
        dtype: numpy's name of its dtype.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    def to_json(self) -> dict[str, Any]:
        """As the protocol's metadata have it."""
        return {"name": self.name, "datatype": datatype(self.dtype), "shape": list(self.shape)}


def address_name(name: str) -> str:
    """A model's name as a part of an address: an underscore for what needs an escape there."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._") or "model"


@dataclasses.dataclass(frozen=True)
class Model:
    """A model that is open.

    Attributes:
        name: its name in the addresses.
        version: its version, likewise.
        platform: what computes it.
        inputs: the inputs.
        outputs: the outputs.
        fit: what a client sent, as `run` takes it. An exception with `exit_status` 2 is the client's error.
        run: computes; called by one thread at a time. Exceptions likewise.
        rows: how requests are put into one run; None where each has a run of its own.
    """

    name: str
    version: str
    platform: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    fit: Callable[[Arrays], Arrays]
    run: Callable[[Arrays], Arrays]
    rows: Rows | None = None

    def to_json(self) -> dict[str, Any]:
        """The model's metadata."""
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": self.platform,
            "inputs": [tensor.to_json() for tensor in self.inputs],
            "outputs": [tensor.to_json() for tensor in self.outputs],
        }
