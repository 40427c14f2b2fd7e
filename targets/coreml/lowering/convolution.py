"""Convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgec.targets.coreml.lowering.site import Operand, Refusal, Site, dtype_of, rank_of, shape_of
from edgec.targets.coreml.lowering.table import lowers


def interleaved(pads: Sequence[int]) -> np.ndarray:
    """ONNX's begins-then-ends as MIL's begin, end of each axis in turn."""
    half = len(pads) // 2
    return np.array([pads[at] for axis in range(half) for at in (axis, axis + half)], np.int32)


def explicit_pads(
    site: Site, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """The pads of a window op, begins then ends, with `auto_pad` worked out.

    Raises:
        Refusal: `auto_pad` has no meaning in ONNX.
    """
    count = len(kernel)
    auto = site.attribute("auto_pad", "NOTSET")
    if auto == "NOTSET":
        return [int(pad) for pad in site.attribute("pads", [0] * (2 * count))]
    if auto == "VALID":
        return [0] * (2 * count)
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        raise Refusal(f"auto_pad={auto!r} is unknown")
    begins, ends = [], []
    for axis in range(count):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        out = -(-sizes[axis] // strides[axis])
        total = max(0, (out - 1) * strides[axis] + reach - sizes[axis])
        small, large = total // 2, total - total // 2
        begins.append(small if auto == "SAME_UPPER" else large)
        ends.append(large if auto == "SAME_UPPER" else small)
    return begins + ends


def _window(site: Site, count: int) -> tuple[list[int], list[int]]:
    strides = [int(stride) for stride in site.attribute("strides", [1] * count)]
    dilations = [int(dilation) for dilation in site.attribute("dilations", [1] * count)]
    return strides, dilations


@lowers("Conv")
def conv(site: Site) -> Operand:
    """One `conv`; a bias that is computed is added behind it."""
    x, weight, bias = site.operand(0), site.operand(1), site.optional(2)
    count = rank_of(x) - 2
    if not 1 <= count <= 3:
        raise Refusal(f"a convolution over {count} spatial axes does not exist in Core ML")
    strides, dilations = _window(site, count)
    kernel = [int(size) for size in weight.shape[2:]]
    if site.attribute("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
        pads = explicit_pads(site, shape_of(x)[2:], kernel, strides, dilations)
    else:
        pads = explicit_pads(site, [0] * count, kernel, strides, dilations)
    folded = bias if isinstance(bias, np.ndarray) else None
    result = site.emit(
        "conv",
        x=x,
        weight=weight,
        bias=folded,
        strides=np.array(strides, np.int32),
        pad_type="custom",
        pad=interleaved(pads),
        dilations=np.array(dilations, np.int32),
        groups=int(site.attribute("group", 1)),
    )
    if bias is not None and folded is None:
        result = site.emit("add", x=result, y=site.reshape(bias, (1, -1, *[1] * count)))
    return result


@lowers("ConvTranspose")
def conv_transpose(site: Site) -> Operand:
    """One `conv_transpose`; output padding beyond the kernel's reach becomes `pad`, the bias follows."""
    x, weight, bias = site.operand(0), site.constant(1, "the kernel"), site.optional_constant(2, "the bias")
    sizes = shape_of(x)[2:]
    count = len(sizes)
    if not 1 <= count <= 3:
        raise Refusal(f"a convolution over {count} spatial axes does not exist in Core ML")
    strides, dilations = _window(site, count)
    extra = [int(size) for size in site.attribute("output_padding", [0] * count)]
    reach = [(weight.shape[2 + axis] - 1) * dilations[axis] + 1 for axis in range(count)]
    full = [(sizes[axis] - 1) * strides[axis] + reach[axis] for axis in range(count)]
    begins, ends = _transpose_pads(site, full, strides, extra, sizes)
    # What `ends` takes away and `extra` gives back meet in one number; below zero nothing is left to cut.
    cut = [max(0, ends[axis] - extra[axis]) for axis in range(count)]
    added = [max(0, extra[axis] - ends[axis]) for axis in range(count)]
    group = int(site.attribute("group", 1))
    result = site.emit(
        "conv_transpose",
        x=x,
        weight=weight,
        bias=bias if not any(added) else None,
        strides=np.array(strides, np.int32),
        pad_type="custom",
        pad=interleaved([*begins, *cut]),
        dilations=np.array(dilations, np.int32),
        groups=group,
    )
    if any(added):
        result = site.emit(
            "pad",
            x=result,
            pad=interleaved([0] * (count + 2) + [0, 0, *added]),
            mode="constant",
            constant_val=site.like(result, 0),
        )
        if bias is not None:
            result = site.emit("add", x=result, y=bias.reshape(1, -1, *[1] * count))
    return result


def _transpose_pads(
    site: Site, full: list[int], strides: list[int], extra: list[int], sizes: Sequence[int]
) -> tuple[list[int], list[int]]:
    count = len(full)
    wanted = site.attribute("output_shape")
    auto = site.attribute("auto_pad", "NOTSET")
    if wanted is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [sizes[axis] * strides[axis] for axis in range(count)]
    if wanted is None:
        pads = (
            [int(pad) for pad in site.attribute("pads", [0] * (2 * count))]
            if auto == "NOTSET"
            else [0] * 2 * count
        )
        return pads[:count], pads[count:]
    total = [full[axis] + extra[axis] - int(wanted[-count:][axis]) for axis in range(count)]
    begins = [value // 2 if auto == "SAME_UPPER" else value - value // 2 for value in total]
    ends = [total[axis] - begins[axis] for axis in range(count)]
    if min(begins) < 0 or min(ends) < 0:
        # A wanted size beyond the full one: nothing is cut in front, zeros follow at the end.
        begins = [max(0, value) for value in begins]
        ends = [total[axis] - begins[axis] for axis in range(count)]
    return begins, ends


@lowers("Col2Im")
def fold(site: Site) -> Operand:
    """Blocks (B, C · block, L) added up where they lie in the image: a transposed convolution.

    Each channel is a group whose kernel has a single one in each of its inputs.
    """
    x = site.operand(0)
    image = [int(size) for size in site.constant(1, "the image's shape")]
    block = [int(size) for size in site.constant(2, "the block's shape")]
    count = len(image)
    if not 1 <= count <= 3:
        raise Refusal(f"a convolution over {count} spatial axes does not exist in Core ML")
    strides, dilations = _window(site, count)
    pads = [int(pad) for pad in site.attribute("pads", [0] * (2 * count))]
    begins, ends = pads[:count], pads[count:]
    spans = [
        image[axis] + begins[axis] + ends[axis] - (block[axis] - 1) * dilations[axis] - 1
        for axis in range(count)
    ]
    blocks = [span // stride + 1 for span, stride in zip(spans, strides, strict=True)]
    # What the last block does not reach keeps zeros.
    unreached = [span % stride for span, stride in zip(spans, strides, strict=True)]
    cut = [max(0, end - rest) for end, rest in zip(ends, unreached, strict=True)]
    added = [max(0, rest - end) for end, rest in zip(ends, unreached, strict=True)]
    places = math.prod(block)
    batch, features, _ = shape_of(x)
    kernel = np.tile(np.eye(places).reshape(places, 1, *block), (features // places, *[1] * (count + 1)))
    result = site.emit(
        "conv_transpose",
        x=site.reshape(x, (batch, features, *blocks)),
        weight=kernel.astype(dtype_of(x)),
        strides=np.array(strides, np.int32),
        pad_type="custom",
        pad=interleaved([*begins, *cut]),
        dilations=np.array(dilations, np.int32),
        groups=features // places,
    )
    if any(added):
        around = np.array([0] * 4 + [size for more in added for size in (0, more)], np.int32)
        result = site.emit("pad", x=result, pad=around, mode="constant", constant_val=site.like(x, 0))
    return result
