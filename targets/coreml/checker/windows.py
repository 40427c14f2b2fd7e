"""Convolution, pooling and resampling over spatial axes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from edgec.targets.coreml.checker.arguments import Arguments
from edgec.targets.coreml.checker.registry import kernel


def pads_of(
    a: Arguments, sizes: Sequence[int], kernel_: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    """Begin and end padding of each spatial axis; `kernel_` is dilated already."""
    mode = a.text("pad_type", "valid")
    if mode == "valid":
        return [(0, 0)] * len(sizes)
    if mode == "custom":
        flat = a.integers("pad")
        return [(flat[2 * axis], flat[2 * axis + 1]) for axis in range(len(sizes))]
    pads = []
    for size, reach, stride in zip(sizes, kernel_, strides, strict=True):
        total = max(0, (math.ceil(size / stride) - 1) * stride + reach - size)
        small, large = total // 2, total - total // 2
        pads.append((small, large) if mode == "same" else (large, small))
    return pads


def _padded(x: np.ndarray, pads: Sequence[tuple[int, int]], value: float = 0.0) -> np.ndarray:
    if not any(itertools.chain.from_iterable(pads)):
        return x
    return np.pad(x, [(0, 0), (0, 0), *pads], constant_values=value)


def _taps(
    x: np.ndarray, kernel_: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Every place of the kernel with the elements that it meets, one a window."""
    counts = [
        (size - (k - 1) * dilation - 1) // stride + 1
        for size, k, stride, dilation in zip(x.shape[2:], kernel_, strides, dilations, strict=True)
    ]
    for place in itertools.product(*(range(k) for k in kernel_)):
        window = tuple(
            slice(at * dilation, at * dilation + (count - 1) * stride + 1, stride)
            for at, dilation, count, stride in zip(place, dilations, counts, strides, strict=True)
        )
        yield place, x[(slice(None), slice(None), *window)]


@kernel("conv")
def conv(a: Arguments) -> np.ndarray:
    """Cross-correlation with groups, strides, dilations and padding."""
    x, weight = a["x"], a["weight"]
    count = x.ndim - 2
    strides, dilations = a.integers("strides", [1] * count), a.integers("dilations", [1] * count)
    groups = int(a.number("groups", 1))
    reach = [(k - 1) * dilation + 1 for k, dilation in zip(weight.shape[2:], dilations, strict=True)]
    x = _padded(x, pads_of(a, x.shape[2:], reach, strides))
    result = correlate(x, weight, strides, dilations, groups)
    if "bias" in a:
        result += np.asarray(a["bias"]).reshape(-1, *[1] * count)
    return result


def correlate(
    x: np.ndarray, weight: np.ndarray, strides: Sequence[int], dilations: Sequence[int], groups: int
) -> np.ndarray:
    """Sum over the kernel's places, each a product over the channels of a group."""
    out, inner = weight.shape[:2]
    batch = x.shape[0]
    total: np.ndarray | None = None
    parts = []
    for place, seen in _taps(x, weight.shape[2:], strides, dilations):
        spatial = seen.shape[2:]
        if groups == 1:
            parts.append((seen.reshape(batch, inner, -1), weight[(slice(None), slice(None), *place)]))
            if len(parts) * inner >= 512:
                total = _add(total, _gathered(parts))
                parts = []
        elif inner == 1 and out == groups:
            term = seen * weight[(slice(None), 0, *place)].reshape(-1, *[1] * len(spatial))
            total = _add(total, term.reshape(batch, out, -1))
        else:
            grouped = seen.reshape(batch, groups, inner, -1)
            kernel_ = weight[(slice(None), slice(None), *place)].reshape(groups, out // groups, inner)
            total = _add(total, np.matmul(kernel_, grouped).reshape(batch, out, -1))
    if parts:
        total = _add(total, _gathered(parts))
    assert total is not None
    return total.reshape(batch, out, *spatial)


def _add(total: np.ndarray | None, term: np.ndarray) -> np.ndarray:
    if total is None:
        return np.array(term)
    total += term
    return total


def _gathered(parts: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """One product over several places: their channels side by side."""
    return np.matmul(
        np.concatenate([kernel_ for _, kernel_ in parts], 1), np.concatenate([seen for seen, _ in parts], 1)
    )


@kernel("conv_transpose")
def conv_transpose(a: Arguments) -> np.ndarray:
    """Every input element spreads the kernel over the output; the padding is cut off."""
    x, weight = a["x"], a["weight"]
    count = x.ndim - 2
    strides, dilations = a.integers("strides", [1] * count), a.integers("dilations", [1] * count)
    groups = int(a.number("groups", 1))
    batch, channels = x.shape[:2]
    out = weight.shape[1] * groups
    reach = [(k - 1) * dilation + 1 for k, dilation in zip(weight.shape[2:], dilations, strict=True)]
    full = [(size - 1) * stride + r for size, stride, r in zip(x.shape[2:], strides, reach, strict=True)]
    total = np.zeros((batch, out, *full), np.float32)
    grouped = x.reshape(batch, groups, channels // groups, -1)
    for place in itertools.product(*(range(k) for k in weight.shape[2:])):
        kernel_ = weight[(slice(None), slice(None), *place)].reshape(groups, channels // groups, -1)
        term = np.matmul(np.swapaxes(kernel_, 1, 2), grouped).reshape(batch, out, *x.shape[2:])
        window = tuple(
            slice(at * dilation, at * dilation + (size - 1) * stride + 1, stride)
            for at, dilation, size, stride in zip(place, dilations, x.shape[2:], strides, strict=True)
        )
        total[(slice(None), slice(None), *window)] += term
    mode = a.text("pad_type", "valid")
    begins, ends = [0] * count, [0] * count
    if mode == "custom":
        flat = a.integers("pad")
        begins, ends = flat[0::2], flat[1::2]
    elif mode == "same":
        extra = [
            max(0, size - n * stride) for size, n, stride in zip(full, x.shape[2:], strides, strict=True)
        ]
        begins = [value // 2 for value in extra]
        ends = [value - value // 2 for value in extra]
    shape = a.integers("output_shape")
    if shape:
        ends = [size - begin - wanted for size, begin, wanted in zip(full, begins, shape[2:], strict=True)]
    total = np.pad(total, [(0, 0), (0, 0), *((0, max(0, -end)) for end in ends)])
    window = tuple(
        slice(begin, size - max(0, end) + max(0, -end))
        for begin, end, size in zip(begins, ends, full, strict=True)
    )
    result = total[(slice(None), slice(None), *window)]
    if "bias" in a:
        result = result + np.asarray(a["bias"]).reshape(-1, *[1] * count)
    return result


@kernel("max_pool", "avg_pool", "l2_pool")
def pool(a: Arguments) -> np.ndarray:
    """Largest, mean or 2-norm of each window."""
    x, sizes = a["x"], a.integers("kernel_sizes")
    count = x.ndim - 2
    strides = a.integers("strides", [1] * count)
    pads = pads_of(a, x.shape[2:], sizes, strides)
    ceiled = []
    for axis, (begin, end) in enumerate(pads):
        extra = 0
        if a.flag("ceil_mode"):
            steps = x.shape[2 + axis] + begin + end - sizes[axis]
            windows = -(-steps // strides[axis]) + 1
            if begin + end > 0 and (windows - 1) * strides[axis] >= x.shape[2 + axis] + begin:
                windows -= 1
            extra = max(0, (windows - 1) * strides[axis] - steps)
        ceiled.append((begin, end + extra))
    ones = [1] * count
    if a.op == "max_pool":
        return np.max([seen for _, seen in _taps(_padded(x, ceiled, -np.inf), sizes, strides, ones)], 0)
    if a.op == "l2_pool":
        return np.sqrt(sum(seen**2 for _, seen in _taps(_padded(x, ceiled), sizes, strides, ones)))
    total = sum(seen for _, seen in _taps(_padded(x, ceiled), sizes, strides, ones))
    if not a.flag("exclude_padding_from_average") and ceiled == pads:
        return total / math.prod(sizes)
    # Elements that count: those of x, and with counted padding the declared padding, not the ceiled one.
    counted = np.ones((1, 1, *x.shape[2:]), np.float32)
    value = 0.0 if a.flag("exclude_padding_from_average") else 1.0
    counted = _padded(counted, pads, value)
    counted = _padded(counted, [(0, ceil[1] - pad[1]) for ceil, pad in zip(ceiled, pads, strict=True)])
    return total / sum(seen for _, seen in _taps(counted, sizes, strides, ones))


@kernel("resize_bilinear", "upsample_bilinear")
def bilinear(a: Arguments) -> np.ndarray:
    """Linear over the last two axes, sampled as the mode says."""
    x = a["x"]
    height, width = x.shape[-2:]
    if a.op == "resize_bilinear":
        targets = int(a.number("target_size_height", 1)), int(a.number("target_size_width", 1))
        mode = a.text("sampling_mode", "DEFAULT")
    else:
        factors = a.number("scale_factor_height", 1), a.number("scale_factor_width", 1)
        targets = math.floor(height * factors[0] + 1e-6), math.floor(width * factors[1] + 1e-6)
        aligned = a.flag("align_corners", True)
        centres = a.flag("half_pixel_centers", not aligned)
        mode = "STRICT_ALIGN_CORNERS" if aligned else ("UNALIGN_CORNERS" if centres else "DEFAULT")
    rows, columns = _grid(height, targets[0], mode), _grid(width, targets[1], mode)
    return _between(_between(x, rows, -2), columns, -1)


def _grid(size: int, target: int, mode: str) -> np.ndarray:
    at = np.arange(target, dtype=np.float64)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if target == 1:
            return np.array([(size - 1) / 2 if mode == "ALIGN_CORNERS" else 0.0])
        points = at * (size - 1) / (target - 1)
    elif mode == "DEFAULT":
        points = at * size / target
    elif mode == "UNALIGN_CORNERS":
        points = (at + 0.5) * size / target - 0.5
    else:
        delta = max(1, size - 1) / target
        points = 0.5 * delta + at * delta
    return np.clip(points, 0, size - 1)


def _between(x: np.ndarray, points: np.ndarray, axis: int) -> np.ndarray:
    low = np.floor(points).astype(int)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    shape = [1] * x.ndim
    shape[axis] = len(points)
    part = (points - low).astype(np.float32).reshape(shape)
    return np.take(x, low, axis) * (1 - part) + np.take(x, high, axis) * part


@kernel("upsample_nearest_neighbor", "resize_nearest_neighbor")
def nearest(a: Arguments) -> np.ndarray:
    """The element that the output's place falls into."""
    x = a["x"]
    for axis, name in ((-2, "height"), (-1, "width")):
        size = x.shape[axis]
        if a.op == "resize_nearest_neighbor":
            target = int(a.number(f"target_size_{name}"))
        else:
            target = math.floor(size * a.number(f"scale_factor_{name}", 1) + 1e-6)
        x = np.take(x, np.minimum(np.arange(target) * size // target, size - 1), axis)
    return x
