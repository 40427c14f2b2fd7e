"""Calibrated ranges: what every floating tensor of a graph holds when the model runs on real inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir

from edgec.core.evaluation import Evaluator
from edgec.core.graph import Arrays
from edgec.passes.precision.judge import evaluable

_BYTES_AT_ONCE = 256 * 2**20
"""Values read back in one session: all of a large model's would not fit into memory."""


@dataclasses.dataclass(frozen=True)
class Range:
    """What one tensor held, over all samples.

    Attributes:
        largest: largest magnitude; not finite where the fp32 graph itself is not.
        typical: root of the mean square.
        low: smallest value.
        high: largest value.
    """

    largest: float
    typical: float
    low: float
    high: float

    @classmethod
    def of(cls, array: np.ndarray) -> Range:
        """The range of one array; zeros where it is empty."""
        if not array.size:
            return cls(0.0, 0.0, 0.0, 0.0)
        low, high = float(array.min()), float(array.max())
        typical = float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))
        return cls(max(abs(low), abs(high)), typical, low, high)

    def joined(self, other: Range) -> Range:
        """Of both together; `typical` is the larger one."""
        return Range(
            max(self.largest, other.largest),
            max(self.typical, other.typical),
            min(self.low, other.low),
            max(self.high, other.high),
        )


def floating_values(model: ir.Model) -> list[ir.Value]:
    """The floating outputs of the graph's nodes, in execution order."""
    return [
        value
        for node in model.graph
        for value in node.outputs
        if value.name and value.dtype == ir.DataType.FLOAT
    ]


def calibrate(
    model: ir.Model, feeds: Sequence[Arrays], only: Collection[str] | None = None
) -> dict[str, Range]:
    """The range of every floating value of an fp32 model, inputs included, by name.

    Args:
        model: the model; ONNX Runtime runs it as it is written, attention in parts.
        feeds: inputs as the model will meet them.
        only: names of the values to look at; all where None.
    """
    model = evaluable(model)
    found: dict[str, Range] = {}

    def keep(name: str, array: np.ndarray) -> None:
        if array.dtype == np.float32:
            here = Range.of(array)
            found[name] = found[name].joined(here) if name in found else here

    for names in batches(model, only):
        with Evaluator(model, outputs=names) as evaluator:
            for feed in feeds:
                for name, array in evaluator.run(feed).items():
                    keep(name, array)
    for feed in feeds:
        for name, array in feed.items():
            keep(name, np.asarray(array))
    return found


def batches(model: ir.Model, only: Collection[str] | None = None) -> list[list[str]]:
    """Names of floating values in parts that may be read back at once; `only` those, where given."""
    parts: list[list[str]] = [[]]
    held = 0
    for value in floating_values(model):
        if only is not None and value.name not in only:
            continue
        size = 4
        for length in value.shape or ():
            size *= length if isinstance(length, int) else 64
        if parts[-1] and held + size > _BYTES_AT_ONCE:
            parts.append([])
            held = 0
        assert value.name is not None
        parts[-1].append(value.name)
        held += size
    return parts
