"""Additive masks: constants whose -inf or -3.4e38 only ever reaches a softmax."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.editing import constant
from edgec.targets.coreml.lowering.attention import MASKED

_PASSING = (
    "Where",
    "Add",
    "Expand",
    "Reshape",
    "Unsqueeze",
    "Squeeze",
    "Cast",
    "Concat",
    "Slice",
    "Identity",
    "Transpose",
)


@dataclasses.dataclass
class Clampable:
    """The values whose every use ends in a softmax."""

    values: set[ir.Value]

    def clamp(self, value: ir.Value, array: np.ndarray) -> np.ndarray:
        """The array with nothing below `MASKED`, where that changes no probability."""
        if array.dtype not in (np.float32, np.float16) or value not in self.values or not array.size:
            return array
        low = array < MASKED
        if not _leaves_keys(array):
            low &= np.isfinite(array)
        return np.where(low, array.dtype.type(MASKED), array) if low.any() else array


def _leaves_keys(array: np.ndarray) -> bool:
    """Whether no row is -inf throughout: a softmax gives NaN there, which the source may look for."""
    return array.ndim > 0 and array.shape[-1] > 1 and bool((array > -np.inf).any(-1).all())


def clamped(model: ir.Model) -> ir.Model:
    """A copy to take ranges from: its masks are those of the program, and -inf is a number."""
    copy = model.clone()
    known = clampable(copy.graph)
    for value in list(copy.graph.initializers.values()):
        array = constant(value)
        if array is None or array.dtype.kind != "f":
            continue
        finite = known.clamp(value, array)
        finite = np.where(np.isneginf(finite), finite.dtype.type(MASKED), finite)
        if not np.array_equal(finite, array):
            value.const_value = ir.tensor(finite, name=value.name)
    return copy


def clampable(graph: ir.Graph) -> Clampable:
    """Walk backwards from the masks and scores of softmaxes through what passes values on."""
    ends_in_softmax: set[ir.Value] = set()
    for node in reversed(list(graph)):
        for value in node.inputs:
            if value is None or value.is_graph_output():
                continue
            if all(_passes(use.node, use.idx, ends_in_softmax) for use in value.uses()):
                ends_in_softmax.add(value)
    return Clampable(ends_in_softmax)


def _passes(node: ir.Node, index: int, known: set[ir.Value]) -> bool:
    if is_op(node, "Softmax"):
        return True
    if is_op(node, "Attention"):
        return index == 3
    if is_op(node, "Where") and index == 0:
        return False
    return is_op(node, *_PASSING) and node.outputs[0] in known
