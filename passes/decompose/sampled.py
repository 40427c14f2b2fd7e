"""RoiAlign and DeformConv as pictures sampled at places that are computed."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.decompose.parts import Parts, fixed, write_in_parts
from edgec.passes.editing import attribute, constant
from edgec.passes.infra import MatchLog, Pass, Refusal, register


@register
class DecomposeSampled(Pass):
    """Write `RoiAlign` and `DeformConv` in `GridSample`.

    ::

        x, boxes, pictures ── RoiAlign ── y
        ⇒
        boxes ── places of the samples ── GridSample(x) ── AveragePool ── y

        x, w, offsets, mask ── DeformConv ── y
        ⇒
        offsets ── Add(the kernel's places) ── GridSample(x) ── Mul(mask) ── Conv 1×1 (w) ── y

    The first as in He et al., "Mask R-CNN", arXiv 1703.06870, and ONNX's operator RoiAlign-22; the second as
    in Zhu et al., "Deformable ConvNets v2", arXiv 1811.11168.

    Args:
        ops: which of the two are written.
    """

    name = "decompose.sampled"

    def __init__(self, ops: frozenset[str] = frozenset({"RoiAlign", "DeformConv"})) -> None:
        self.ops = ops

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite every node whose sizes are known."""
        writers = {"RoiAlign": _roi_align, "DeformConv": _deform_conv}
        write_in_parts(
            model, self.name, log, lambda node: writers[node.op_type] if is_op(node, *self.ops) else None
        )


def _roi_align(parts: Parts) -> None:
    """Samples lie evenly in a bin; one further out than a pixel counts as 0, one nearer as the border."""
    node = parts.node
    x, boxes, pictures = node.inputs[:3]
    batch, channels, *size = fixed(x, "its picture")
    count = fixed(boxes, "its boxes")[0]
    assert x is not None
    assert boxes is not None
    bins = [int(attribute(node, "output_height", 1)), int(attribute(node, "output_width", 1))]
    ratio = int(attribute(node, "sampling_ratio", 0))
    if attribute(node, "mode", "avg") != "avg":
        raise Refusal("it takes the largest of its samples, not their mean")
    if ratio < 1:
        raise Refusal("the number of its samples depends on each box (sampling_ratio 0)")
    half = attribute(node, "coordinate_transformation_mode", "half_pixel") == "half_pixel"
    scaled = parts.op("Mul", boxes, float(attribute(node, "spatial_scale", 1.0)))
    if half:
        scaled = parts.op("Sub", scaled, 0.5)
    axes = []
    for axis, (low, high) in enumerate(((1, 3), (0, 2))):
        start, end = (parts.slice(scaled, 1, place, place + 1) for place in (low, high))
        length = parts.op("Sub", end, start)
        if not half:
            length = parts.op("Max", length, 1.0)
        samples = bins[axis] * ratio
        # The middle of each sample's part of a bin, as a share of the box.
        shares = ((np.arange(samples) + 0.5) / samples).astype(parts.dtype)[None]
        axes.append(parts.op("Add", start, parts.op("Mul", length, shares)))
    weights, grids = [], []
    for place, extent in zip(axes, size, strict=True):
        near = parts.op(
            "And", parts.op("GreaterOrEqual", place, -1.0), parts.op("LessOrEqual", place, float(extent))
        )
        weights.append(parts.op("Cast", near, to=int(ir.DataType.from_numpy(parts.dtype))))
        inside = parts.op("Clip", place, 0.0, float(extent - 1))
        grids.append(_to_grid(parts, inside, extent))
    rows, columns = bins[0] * ratio, bins[1] * ratio
    across = parts.op("Expand", parts.reshape(grids[1], count, 1, columns, 1), [count, rows, columns, 1])
    down = parts.op("Expand", parts.reshape(grids[0], count, rows, 1, 1), [count, rows, columns, 1])
    grid = parts.op("Concat", across, down, axis=3)
    if batch == 1:
        grid = parts.reshape(grid, 1, count * rows, columns, 2)
        seen = _sampled(parts, x, grid)
        seen = parts.reshape(seen, channels, count, rows, columns)
        seen = parts.op("Transpose", seen, perm=[1, 0, 2, 3])
    else:
        seen = _sampled(parts, parts.op("Gather", x, pictures, axis=0), grid)
    seen = parts.op("Mul", seen, parts.reshape(weights[0], count, 1, rows, 1))
    seen = parts.op("Mul", seen, parts.reshape(weights[1], count, 1, 1, columns))
    if ratio > 1:
        seen = parts.op("AveragePool", seen, kernel_shape=[ratio, ratio], strides=[ratio, ratio])
    parts.become(seen)


def _deform_conv(parts: Parts) -> None:
    node = parts.node
    x, weight, offsets = node.inputs[:3]
    bias = node.inputs[3] if len(node.inputs) > 3 else None
    mask = node.inputs[4] if len(node.inputs) > 4 else None
    batch, channels, *size = fixed(x, "its picture")
    made, depth, *kernel = fixed(weight, "its weight")
    assert x is not None
    assert weight is not None
    assert offsets is not None
    if len(size) != 2:
        raise Refusal(f"it has {len(size)} axes of space, and pictures of two can be sampled")
    strides = list(attribute(node, "strides") or [1, 1])
    dilations = list(attribute(node, "dilations") or [1, 1])
    pads = list(attribute(node, "pads") or [0, 0, 0, 0])
    parted, groups = int(attribute(node, "offset_group", 1)), int(attribute(node, "group", 1))
    taps = math.prod(kernel)
    wide = fixed(offsets, "its offsets")[2:]
    # (batch · parts, taps, axis, height, width): the offsets of each tap, row first.
    moved = parts.reshape(offsets, batch * parted, taps, 2, *wide)
    grids = []
    for axis in (1, 0):
        tap = np.indices(kernel)[axis].reshape(taps, 1, 1) * dilations[axis]
        at = np.indices(wide)[axis] * strides[axis] - pads[axis]
        base = (tap + at).astype(parts.dtype)[None]
        offset = parts.reshape(parts.slice(moved, 2, axis, axis + 1), batch * parted, taps, *wide)
        grids.append(_to_grid(parts, parts.op("Add", offset, base), size[axis]))
    flat = [parts.reshape(one, batch * parted, taps * wide[0], wide[1], 1) for one in grids]
    grid = parts.op("Concat", *flat, axis=3)
    groups_of = parts.reshape(x, batch * parted, channels // parted, *size)
    seen = parts.op("GridSample", groups_of, grid, mode="linear", padding_mode="zeros", align_corners=1)
    seen = parts.reshape(seen, batch * parted, channels // parted, taps, *wide)
    if mask is not None:
        seen = parts.op("Mul", seen, parts.reshape(mask, batch * parted, 1, taps, *wide))
    seen = parts.reshape(seen, batch, channels * taps, *wide)
    array = constant(weight)
    flat_weight = (
        parts.value(array.reshape(made, depth * taps, 1, 1))
        if array is not None
        else parts.reshape(weight, made, depth * taps, 1, 1)
    )
    parts.become(parts.op("Conv", seen, flat_weight, bias, kernel_shape=[1, 1], group=groups))


def _to_grid(parts: Parts, place: ir.Value, extent: int) -> ir.Value:
    """A place in pixels from -1 to 1, the outer pixels' middles at the ends."""
    if extent == 1:
        # One pixel has no two ends: a place p off it is outside by |p|, as 2·p is from a picture of two.
        raise Refusal("its picture is one pixel wide")
    return parts.op("Sub", parts.op("Mul", place, 2.0 / (extent - 1)), 1.0)


def _sampled(parts: Parts, x: ir.Value, grid: ir.Value) -> ir.Value:
    return parts.op("GridSample", x, grid, mode="linear", padding_mode="border", align_corners=1)
