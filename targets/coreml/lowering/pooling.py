"""Pooling."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from edgec.targets.coreml.lowering.convolution import explicit_pads, interleaved
from edgec.targets.coreml.lowering.site import Operand, Refusal, Site, dtype_of, shape_of
from edgec.targets.coreml.lowering.table import lowers


def _geometry(site: Site, sizes: Sequence[int]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Kernel, strides, begins and ends; ends reach as far as the last window that ONNX counts."""
    count = len(sizes)
    if not 1 <= count <= 3:
        raise Refusal(f"pooling over {count} spatial axes does not exist in Core ML")
    kernel = [int(size) for size in site.attribute("kernel_shape")]
    strides = [int(stride) for stride in site.attribute("strides", [1] * count)]
    dilations = _dilations(site, count)
    pads = explicit_pads(site, sizes, kernel, strides, dilations)
    begins, ends = pads[:count], pads[count:]
    for axis in range(count):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        padded = sizes[axis] + begins[axis] + ends[axis]
        steps = padded - reach
        windows = steps // strides[axis] + 1
        if site.attribute("ceil_mode", 0) and site.attribute("auto_pad", "NOTSET") == "NOTSET":
            windows = -(-steps // strides[axis]) + 1
            if (windows - 1) * strides[axis] >= sizes[axis] + begins[axis]:
                windows -= 1
        ends[axis] += max(0, (windows - 1) * strides[axis] + reach - padded)
    return kernel, strides, begins, ends


def _dilations(site: Site, count: int) -> list[int]:
    return [int(dilation) for dilation in site.attribute("dilations", [1] * count)]


def _taps(site: Site, x: Operand, ends: Sequence[int], begins: Sequence[int], fill: float) -> list[Operand]:
    """Core ML has no dilated pooling: the elements that each place of the kernel meets, as slices."""
    kernel = [int(size) for size in site.attribute("kernel_shape")]
    count = len(kernel)
    strides = [int(stride) for stride in site.attribute("strides", [1] * count)]
    dilations = _dilations(site, count)
    if any((*begins, *ends)):
        pads = interleaved([0, 0, *begins, 0, 0, *ends])
        x = site.emit("pad", x=x, pad=pads, mode="constant", constant_val=site.like(x, fill))
    sizes = shape_of(x)[2:]
    taps = []
    for place in itertools.product(*(range(size) for size in kernel)):
        begin, end = [0, 0], list(shape_of(x)[:2])
        for axis, at in enumerate(place):
            windows = (sizes[axis] - (kernel[axis] - 1) * dilations[axis] - 1) // strides[axis] + 1
            begin.append(at * dilations[axis])
            end.append(at * dilations[axis] + (windows - 1) * strides[axis] + 1)
        taps.append(
            site.emit(
                "slice_by_index",
                x=x,
                begin=np.array(begin, np.int32),
                end=np.array(end, np.int32),
                stride=np.array([1, 1, *strides], np.int32),
            )
        )
    return taps


def _combined(site: Site, mil_op: str, taps: list[Operand]) -> Operand:
    result = taps[0]
    for tap in taps[1:]:
        result = site.emit(mil_op, x=result, y=tap)
    return result


@lowers("MaxPool")
def max_pool(site: Site) -> Operand:
    """Padding never wins, so a ceiled window is one more line of padding at the end."""
    site.refuse_outputs(1, "the indices of MaxPool")
    x = site.operand(0)
    kernel, strides, begins, ends = _geometry(site, shape_of(x)[2:])
    if any(dilation != 1 for dilation in _dilations(site, len(kernel))):
        return _combined(site, "maximum", _taps(site, x, ends, begins, -np.inf))
    return site.emit(
        "max_pool",
        x=x,
        kernel_sizes=np.array(kernel, np.int32),
        strides=np.array(strides, np.int32),
        pad_type="custom",
        pad=interleaved([*begins, *ends]),
    )


@lowers("AveragePool")
def average_pool(site: Site) -> Operand:
    """Padding is left out of the mean unless the node counts it.

    A ceiled window that reaches past the counted padding divides by what it covers of it, which the
    factor behind the pooling puts right.
    """
    x = site.operand(0)
    sizes = shape_of(x)[2:]
    kernel, strides, begins, ends = _geometry(site, sizes)
    counted = bool(site.attribute("count_include_pad", 0))
    if any(dilation != 1 for dilation in _dilations(site, len(kernel))):
        total = _combined(site, "add", _taps(site, x, ends, begins, 0.0))
        return site.emit("mul", x=total, y=_inverse_counts(site, sizes, begins, ends, counted, dtype_of(x)))
    result = site.emit(
        "avg_pool",
        x=x,
        kernel_sizes=np.array(kernel, np.int32),
        strides=np.array(strides, np.int32),
        pad_type="custom",
        pad=interleaved([*begins, *ends]),
        exclude_padding_from_average=not counted,
    )
    declared = explicit_pads(site, sizes, kernel, strides, [1] * len(kernel))[len(kernel) :]
    if counted and list(ends) != list(declared):
        result = site.emit(
            "mul", x=result, y=_ceiled_factor(sizes, kernel, strides, begins, declared, result)
        )
    return result


def _inverse_counts(
    site: Site,
    sizes: Sequence[int],
    begins: Sequence[int],
    ends: Sequence[int],
    counted: bool,
    dtype: np.dtype,
) -> np.ndarray:
    """One over the number of elements that count in each dilated window."""
    kernel = [int(size) for size in site.attribute("kernel_shape")]
    count = len(kernel)
    strides = [int(stride) for stride in site.attribute("strides", [1] * count)]
    dilations = _dilations(site, count)
    declared = explicit_pads(site, sizes, kernel, strides, dilations)[count:]
    total = np.ones((1, 1, *[1] * count), np.float64)
    for axis in range(count):
        length = sizes[axis] + begins[axis] + ends[axis]
        element = np.arange(length) - begins[axis]
        low, high = (-begins[axis], sizes[axis] + declared[axis]) if counted else (0, sizes[axis])
        counts_here = (element >= low) & (element < high)
        windows = (length - (kernel[axis] - 1) * dilations[axis] - 1) // strides[axis] + 1
        starts = np.arange(windows)[:, None] * strides[axis]
        seen = counts_here[starts + np.arange(kernel[axis])[None, :] * dilations[axis]].sum(1)
        total = total * seen.reshape([1, 1, *(windows if other == axis else 1 for other in range(count))])
    return (1 / total).astype(dtype)


def _ceiled_factor(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    begins: Sequence[int],
    declared_ends: Sequence[int],
    result: Operand,
) -> np.ndarray:
    factor = np.ones((1, 1, *[1] * len(sizes)), np.float32)
    for axis in range(len(sizes)):
        windows = shape_of(result)[2 + axis]
        starts = np.arange(windows) * strides[axis]
        covered = np.minimum(starts + kernel[axis], sizes[axis] + begins[axis] + declared_ends[axis]) - starts
        shape = [1] * factor.ndim
        shape[2 + axis] = windows
        factor = factor * (kernel[axis] / covered).astype(np.float32).reshape(shape)
    return factor


@lowers("GlobalAveragePool", "GlobalMaxPool")
def global_pool(site: Site) -> Operand:
    """A reduction over the spatial axes, which stay with size one."""
    x = site.operand(0)
    mil_op = "reduce_mean" if site.op == "GlobalAveragePool" else "reduce_max"
    return site.emit(mil_op, x=x, axes=np.arange(2, len(x.shape), dtype=np.int32), keep_dims=True)


@lowers("LpPool")
def lp_pool(site: Site) -> Operand:
    """p-norm of each window: the p-th root of (mean of |x|^p, padding counted) · window size."""
    x = site.operand(0)
    kernel, strides, begins, ends = _geometry(site, shape_of(x)[2:])
    if any(dilation != 1 for dilation in _dilations(site, len(kernel))):
        raise Refusal("dilated p-norm pooling is not lowered")
    p = int(site.attribute("p", 2))
    powered = site.emit("pow", x=site.emit("abs", x=x), y=site.like(x, p))
    mean = site.emit(
        "avg_pool",
        x=powered,
        kernel_sizes=np.array(kernel, np.int32),
        strides=np.array(strides, np.int32),
        pad_type="custom",
        pad=interleaved([*begins, *ends]),
        exclude_padding_from_average=False,
    )
    total = site.emit("mul", x=mean, y=site.like(x, float(np.prod(kernel))))
    return site.emit("pow", x=total, y=site.like(x, 1 / p))


@lowers("GlobalLpPool")
def global_lp_pool(site: Site) -> Operand:
    """p-norm over the spatial axes."""
    x = site.operand(0)
    p = int(site.attribute("p", 2))
    axes = np.arange(2, len(x.shape), dtype=np.int32)
    total = site.emit(
        "reduce_sum",
        x=site.emit("pow", x=site.emit("abs", x=x), y=site.like(x, p)),
        axes=axes,
        keep_dims=True,
    )
    return site.emit("pow", x=total, y=site.like(x, 1 / p))
