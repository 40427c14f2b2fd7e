"""What small networks take on a device that is not connected: predicted from what its vendor states."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Mapping
from typing import TypeVar

import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN
from edgec.core.errors import JobError
from edgec.core.graph import Graph
from edgec.core.op_traits import CONTRACTION
from edgec.devices.latency_tables import Device, Kind
from edgec.devices.prediction import Unpredicted, Work, predict
from edgec.devices.profiles import DeviceProfile
from edgec.passes.editing import constant_tensor, sizes
from edgec.targets.base import Candidate

Name = TypeVar("Name", bound=Hashable)

_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


@dataclasses.dataclass(frozen=True)
class PredictedTimer:
    """Predicts by a roofline over a device's profile.

    Attributes:
        profile: what the vendor states.
        candidate: the engine; its precision decides the rate and how wide a weight is.
    """

    profile: DeviceProfile
    candidate: Candidate
    kind: Kind = "predicted"

    @property
    def device(self) -> Device:
        """The profile."""
        return Device(
            self.profile.title, self.profile.name, self.candidate.name, "predicted from the profile"
        )

    def times(self, networks: Mapping[Name, Graph]) -> dict[Name, tuple[float, float]]:
        """As `Timer.times` says, with no spread.

        Raises:
            JobError: the profile states no rate to predict from.
        """
        found: dict[Name, tuple[float, float]] = {}
        for name, graph in networks.items():
            predicted = predict(
                self.profile,
                work_of(graph.model, _BYTES[self.candidate.precision]),
                precision=self.candidate.precision,
            )
            if isinstance(predicted, Unpredicted):
                raise JobError(
                    f"no latency of {self.profile.title} can be predicted: {predicted.why}",
                    fix="connect the device with --device ssh://USER@HOST, or choose another profile",
                )
            found[name] = (predicted.p50, 0.0)
        return found


def work_of(model: ir.Model, width: int) -> list[Work]:
    """The work of each op of a neutral graph of fixed shapes.

    Args:
        model: the graph.
        width: bytes of an element.

    Returns:
        one entry an op; ops that only move elements or work on each by itself are taken to cost nothing of
        their own, as engines fuse them into their neighbours.
    """
    work = []
    for node in model.graph:
        if not _counts(node):
            continue
        weights = sum(
            tensor.size
            for value in node.inputs
            if value is not None and (tensor := constant_tensor(value)) is not None
        )
        work.append(Work(str(node.name), macs(node), weights * width, True))
    return work or [Work("empty", 0, 0, True)]


def _counts(node: ir.Node) -> bool:
    return node.op_type in CONTRACTION or node.domain == EDGEC_DOMAIN


def macs(node: ir.Node) -> int:
    """Multiply-accumulates of one node; 0 for ops without products and for open shapes."""
    shapes = [sizes(value) for value in node.inputs]
    result = sizes(node.outputs[0])
    if result is None or None in result or any(None in shape for shape in shapes if shape is not None):
        return 0
    elements = math.prod(size for size in result if size is not None)
    first, second = (*shapes, None, None)[:2]
    if first is None or second is None:
        return 0
    given, weight = [size or 0 for size in first], [size or 0 for size in second]
    match node.op_type:
        case "MatMul":
            return elements * given[-1]
        case "Gemm":
            transposed = node.attributes.get_int("transA", 0)
            return elements * given[0 if transposed else -1]
        case "Conv":
            return elements * math.prod(weight[1:])
        case "ConvTranspose":
            # Each weight meets every input element once.
            return math.prod(given) * math.prod(weight[1:])
        case "Attention":
            values = sizes(node.inputs[2]) or (0,)
            if len(given) == 4:
                return math.prod(given[:3]) * weight[2] * (given[3] + (values[3] or 0))
            return given[0] * given[1] * weight[1] * (given[2] + result[-1])  # type: ignore[operator]
    return 0
