"""The places of largest numbers: what MaxPool says of them, and MaxUnpool makes of them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.decompose.parts import Parts, Write, fixed, write_in_parts
from edgec.passes.editing import attribute, constant
from edgec.passes.infra import MatchLog, Pass, Refusal, register

_WINDOW = 64
"""The largest window whose numbers are put beside each other."""


@register
class DecomposePoolIndices(Pass):
    """Write the second output of `MaxPool`, and `MaxUnpool`, in comparisons.

    ::

        x ── MaxPool ── (y, places)
        ⇒
        x ── Pad ── Slice (each place of the window) ── Concat ── ArgMax ── Gather(steps) ── Add ── places

        y, places ── MaxUnpool ── z
        ⇒
        places ── Expand ── Equal(0 … n-1) ── Where(y expanded, 0) ── z

    Places count through the whole tensor, as ONNX has them (MaxPool-22, storage_order 0).
    """

    name = "decompose.pool_indices"

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite in place."""
        write_in_parts(model, self.name, log, _writer)


def _writer(node: ir.Node) -> Write | None:
    if is_op(node, "MaxUnpool"):
        return _unpooled
    indices = node.outputs[1] if is_op(node, "MaxPool") and len(node.outputs) > 1 else None
    is_told = indices is not None and bool(indices.uses() or indices.is_graph_output())
    return _places if is_told else None


def _places(parts: Parts) -> None:
    node = parts.node
    x = node.inputs[0]
    sizes, made = fixed(x, "its input"), fixed(node.outputs[0], "its output")
    assert x is not None
    kernel = list(attribute(node, "kernel_shape"))
    axes = len(kernel)
    if math.prod(kernel) > _WINDOW:
        raise Refusal(f"a window of {math.prod(kernel)} numbers is larger than {_WINDOW}")
    if attribute(node, "storage_order", 0) or attribute(node, "auto_pad", "NOTSET") not in (
        "NOTSET",
        "VALID",
    ):
        raise Refusal("its places are told by columns, or its padding is automatic")
    strides = list(attribute(node, "strides") or [1] * axes)
    dilations = list(attribute(node, "dilations") or [1] * axes)
    pads = list(attribute(node, "pads") or [0] * 2 * axes)
    reach = [
        (made[2 + place] - 1) * strides[place] + dilations[place] * (kernel[place] - 1) + 1
        for place in range(axes)
    ]
    ends = [max(0, reach[place] - sizes[2 + place] - pads[place]) for place in range(axes)]
    if any(pads[:axes]) or any(ends):
        lowest = float(np.finfo(parts.dtype).min)
        x = parts.op("Pad", x, [0, 0, *pads[:axes], 0, 0, *ends], lowest, mode="constant")
    rows = np.cumprod([1, *sizes[:1:-1]])[::-1][1:]  # how far apart neighbours along each axis are counted
    views, steps = [], []
    for offset in itertools.product(*map(range, kernel)):
        starts = [one * dilation for one, dilation in zip(offset, dilations, strict=True)]
        stops = [start + (made[2 + place] - 1) * strides[place] + 1 for place, start in enumerate(starts)]
        view = parts.op("Slice", x, starts, stops, list(range(2, 2 + axes)), strides)
        views.append(parts.op("Unsqueeze", view, [2 + axes]))
        steps.append(int(np.dot(starts, rows)))
    best = parts.op("ArgMax", parts.op("Concat", *views, axis=2 + axes), axis=2 + axes, keepdims=0)
    first = np.arange(made[0] * made[1]).reshape(*made[:2], *[1] * axes) * math.prod(sizes[2:])
    for place in range(axes):
        start = np.arange(made[2 + place]) * strides[place] - pads[place]
        first = first + (start * rows[place]).reshape(-1, *[1] * (axes - place - 1))
    found = parts.op("Gather", np.array(steps), best, axis=0)
    parts.become(parts.op("Add", found, first), output=1)
    node.resize_outputs(1)


def _unpooled(parts: Parts) -> None:
    node = parts.node
    x, places = node.inputs[0], node.inputs[1]
    sizes = fixed(x, "its input")
    assert x is not None
    assert places is not None
    kernel = list(attribute(node, "kernel_shape"))
    axes = len(kernel)
    strides = list(attribute(node, "strides") or [1] * axes)
    if strides != kernel or any(attribute(node, "pads") or ()):
        raise Refusal("its windows overlap or are padded")
    own = [size * step for size, step in zip(sizes[2:], strides, strict=True)]
    shape = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    if shape is None and len(node.inputs) > 2 and node.inputs[2] is not None:
        raise Refusal("its output's shape is computed")
    wide = own if shape is None else [int(one) for one in shape[2:]]
    # Places count through a tensor of the size that the pooling saw, which its inferred size is.
    value = _repeated(parts, x, kernel)
    place = _repeated(parts, places, kernel)
    numbers = np.arange(sizes[0] * sizes[1] * math.prod(own)).reshape(*sizes[:2], *own)
    if wide != own:
        raise Refusal("its output is larger than its windows")
    hit = parts.op("Equal", place, numbers)
    parts.become(parts.op("Where", hit, value, 0.0))


def _repeated(parts: Parts, value: ir.Value, kernel: list[int]) -> ir.Value:
    """Every number as often as its window has places."""
    sizes = fixed(value, "its input")
    apart = [*sizes[:2]]
    spread = [*sizes[:2]]
    for size, count in zip(sizes[2:], kernel, strict=True):
        apart += [size, 1]
        spread += [size, count]
    wide = parts.op("Expand", parts.reshape(value, *apart), spread)
    return parts.reshape(
        wide, *sizes[:2], *(size * count for size, count in zip(sizes[2:], kernel, strict=True))
    )
