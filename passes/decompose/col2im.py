"""Col2Im as a transposed convolution."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import is_op
from edgec.passes.decompose.parts import Parts, fixed, write_in_parts
from edgec.passes.editing import attribute, constant
from edgec.passes.infra import MatchLog, Pass, Refusal, register


@register
class DecomposeCol2Im(Pass):
    """Write `Col2Im` as a `ConvTranspose` whose kernel puts every number of a block at its place.

    ::

        x [N, C·k·k, L] ── Col2Im ── y
        ⇒
        x ── Reshape [N·C, k·k, …] ── ConvTranspose(one-hot) ── Reshape ── y

    Overlapping blocks are summed by both.
    """

    name = "decompose.col2im"

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Rewrite every `Col2Im` of fixed sizes."""
        write_in_parts(model, self.name, log, lambda node: _write if is_op(node, "Col2Im") else None)


def _write(parts: Parts) -> None:
    node = parts.node
    columns = node.inputs[0]
    sizes = fixed(columns, "its input")
    picture, block = constant(node.inputs[1]), constant(node.inputs[2])
    if columns is None or picture is None or block is None:
        raise Refusal("the size of its picture or block is computed")
    image, kernel = [int(one) for one in picture], [int(one) for one in block]
    axes = len(image)
    strides = list(attribute(node, "strides") or [1] * axes)
    dilations = list(attribute(node, "dilations") or [1] * axes)
    pads = list(attribute(node, "pads") or [0] * 2 * axes)
    spans = [dilation * (size - 1) + 1 for dilation, size in zip(dilations, kernel, strict=True)]
    counts, rest = [], []
    for place in range(axes):
        whole = image[place] + pads[place] + pads[place + axes] - spans[place]
        counts.append(whole // strides[place] + 1)
        rest.append(whole % strides[place])
    if math.prod(counts) != sizes[-1]:
        raise Refusal(f"its {sizes[-1]} blocks are not the {math.prod(counts)} that its picture has")
    numbers = math.prod(kernel)
    channels = sizes[1] // numbers
    grid = parts.reshape(columns, sizes[0] * channels, numbers, *counts)
    weight = np.eye(numbers).reshape(numbers, 1, *kernel).astype(parts.dtype)
    summed = parts.op(
        "ConvTranspose",
        grid,
        weight,
        kernel_shape=kernel,
        strides=strides,
        dilations=dilations,
        pads=pads,
        output_padding=rest if any(rest) else None,
    )
    parts.become(parts.reshape(summed, sizes[0], channels, *image))
