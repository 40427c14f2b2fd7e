"""Convolutions as linear maps that can be scaled and summed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgec.passes.editing import attribute
from edgec.passes.fuse.linear import weight_of
from edgec.passes.infra import Refusal


@dataclasses.dataclass(frozen=True)
class ConvolutionMap:
    """What a convolution without its bias computes, whatever its padding and dilation are called.

    Attributes:
        weight: fp64, [outputs, inputs of a group, taps along each axis].
        groups: how many groups.
        strides: by axis.
        taps: by axis, where each tap reads, counted from the output's own place.
        reach: by axis, what the padding behind the input adds to the last tap: the number of outputs.
    """

    weight: np.ndarray
    groups: int
    strides: tuple[int, ...]
    taps: tuple[tuple[int, ...], ...]
    reach: tuple[int, ...]

    @property
    def work(self) -> int:
        """Multiply-accumulates of all output channels at one place."""
        return self.weight.size

    def scaled(self, factor: np.ndarray) -> ConvolutionMap:
        """With a factor an output channel."""
        return dataclasses.replace(
            self, weight=self.weight * factor.reshape(-1, *[1] * (self.weight.ndim - 1))
        )

    def attributes(self) -> dict[str, object]:
        """The attributes of the Conv that computes it."""
        steps = [_step([taps]) for taps in self.taps]
        begin = [-taps[0] for taps in self.taps]
        end = [reach + taps[-1] for reach, taps in zip(self.reach, self.taps, strict=True)]
        return {
            "kernel_shape": [len(taps) for taps in self.taps],
            "strides": list(self.strides),
            "dilations": steps,
            "pads": [*begin, *end],
            "group": self.groups,
        }


def convolution_map(node: ir.Node) -> ConvolutionMap:
    """What a Conv computes, without its bias.

    Raises:
        Refusal: that is not known.
    """
    weight = weight_of(node)
    if weight is None:
        raise Refusal(f"the weight of {node.name} is not a constant")
    if attribute(node, "auto_pad", "NOTSET") != "NOTSET":
        raise Refusal(f"{node.name} pads by {attribute(node, 'auto_pad')}")
    axes = weight.ndim - 2
    strides = attribute(node, "strides") or [1] * axes
    dilations = attribute(node, "dilations") or [1] * axes
    pads = attribute(node, "pads") or [0] * (2 * axes)
    taps = tuple(
        tuple(-before + place * dilation for place in range(size))
        for size, dilation, before in zip(weight.shape[2:], dilations, pads[:axes], strict=True)
    )
    reach = tuple(after - along[-1] for after, along in zip(pads[axes:], taps, strict=True))
    return ConvolutionMap(
        weight.astype(np.float64), int(attribute(node, "group", 1)), tuple(strides), taps, reach
    )


def identity_map(channels: int, axes: int) -> ConvolutionMap:
    """Each channel to itself."""
    weight = np.ones((channels, 1, *[1] * axes))
    return ConvolutionMap(weight, channels, (1,) * axes, ((0,),) * axes, (0,) * axes)


def summed(maps: Sequence[ConvolutionMap]) -> ConvolutionMap:
    """The one convolution that computes the sum of several over the same input.

    Their outputs must have one shape. Its groups are the coarsest that hold all, its taps a grid through
    all taps; what is new between them is zero.
    """
    groups, inputs, taps = _common(maps)
    weight = np.zeros((maps[0].weight.shape[0], inputs, *map(len, taps)))
    for each in maps:
        wide = _regrouped(each, groups)
        where = [
            [grid.index(place) for place in places] for grid, places in zip(taps, each.taps, strict=True)
        ]
        weight[np.ix_(range(weight.shape[0]), range(inputs), *where)] += wide
    # Where strides round the number of outputs down, the reaches may differ; the longest serves all.
    reach = tuple(max(along) for along in zip(*(each.reach for each in maps), strict=True))
    return ConvolutionMap(weight, groups, maps[0].strides, tuple(taps), reach)


def work_of_sum(maps: Sequence[ConvolutionMap]) -> int:
    """The `work` of `summed(maps)`, without its weights."""
    _, inputs, taps = _common(maps)
    return maps[0].weight.shape[0] * inputs * math.prod(map(len, taps))


def _common(maps: Sequence[ConvolutionMap]) -> tuple[int, int, list[tuple[int, ...]]]:
    """Groups, inputs of a group and taps along each axis that hold all maps."""
    groups = math.gcd(*(each.groups for each in maps))
    taps = []
    for along in zip(*(each.taps for each in maps), strict=True):
        low, high = min(places[0] for places in along), max(places[-1] for places in along)
        taps.append(tuple(range(low, high + 1, _step(along))))
    return groups, maps[0].weight.shape[1] * maps[0].groups // groups, taps


def _step(along: Sequence[tuple[int, ...]]) -> int:
    """The distance of a grid that all taps of one axis lie on."""
    first = along[0][0]
    return math.gcd(*(place - first for places in along for place in places)) or 1


def _regrouped(each: ConvolutionMap, groups: int) -> np.ndarray:
    """The weight with fewer groups, zeros between channels that had nothing to do with each other."""
    outputs, narrow, *kernel = each.weight.shape
    merged = each.groups // groups
    wide = np.zeros((outputs, narrow * merged, *kernel))
    of_group = outputs // each.groups
    for group in range(each.groups):
        rows = slice(group * of_group, (group + 1) * of_group)
        start = group % merged * narrow
        wide[rows, start : start + narrow] = each.weight[rows]
    return wide
