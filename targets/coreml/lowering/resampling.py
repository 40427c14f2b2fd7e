"""Resizing images and features.

Along one axis every interpolation that ONNX defines is a fixed linear map of the input, so any mode
can be a product with a constant matrix; what Core ML has an op for uses that op.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgec.targets.coreml.lowering.site import Operand, Refusal, Site, dtype_of, shape_of
from edgec.targets.coreml.lowering.table import lowers


@lowers("Resize")
def resize(site: Site) -> Operand:
    """Nearest, linear and cubic, with every coordinate transformation, antialiased too."""
    x = site.operand(0)
    shape = shape_of(x)
    axes = [axis % len(shape) for axis in site.attribute("axes", list(range(len(shape))))]
    scales, targets = _scales(site, shape, axes)
    mode = site.attribute("mode", "nearest")
    transform = site.attribute("coordinate_transformation_mode", "half_pixel")
    antialias = bool(site.attribute("antialias", 0))
    roi = site.optional_constant(1, "the region")
    changed = [axis for axis in range(len(shape)) if targets[axis] != shape[axis] or scales[axis] != 1]
    if not changed and transform != "tf_crop_and_resize":
        return site.emit("identity", x=x)
    if mode == "linear" and not antialias:
        native = _bilinear(site, x, changed, scales, targets, transform)
        if native is not None:
            return native
    dtype = dtype_of(x)
    for position, axis in enumerate(axes):
        if axis not in changed and transform != "tf_crop_and_resize":
            continue
        window = (0.0, 1.0)
        if roi is not None and roi.size:
            window = (float(roi[position]), float(roi[position + len(axes)]))
        matrix = _matrix(site, shape[axis], targets[axis], scales[axis], transform, antialias, window)
        x = _along(site, x, axis, matrix, mode)
    return site.cast(x, dtype)


def _scales(site: Site, shape: tuple[int, ...], axes: list[int]) -> tuple[list[float], list[int]]:
    given, sizes = site.optional_constant(2, "the scales"), site.optional_constant(3, "the sizes")
    scales, targets = [1.0] * len(shape), list(shape)
    if given is not None and given.size:
        for axis, scale in zip(axes, given.reshape(-1), strict=True):
            scales[axis] = float(scale)
            targets[axis] = int(np.floor(np.float32(shape[axis]) * np.float32(scale)))
        return scales, targets
    if sizes is None or not sizes.size:
        raise Refusal("it has neither scales nor sizes")
    wanted = [int(size) for size in sizes.reshape(-1)]
    ratios = [size / shape[axis] for size, axis in zip(wanted, axes, strict=True)]
    policy = site.attribute("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        ratio = min(ratios) if policy == "not_larger" else max(ratios)
        ratios = [ratio] * len(axes)
        wanted = [int(np.floor(ratio * shape[axis] + 0.5)) for axis in axes]
    for axis, size, ratio in zip(axes, wanted, ratios, strict=True):
        targets[axis], scales[axis] = size, ratio
    return scales, targets


def _bilinear(
    site: Site, x: Operand, changed: list[int], scales: list[float], targets: list[int], transform: str
) -> Operand | None:
    """The image case: linear over the last two axes of rank 4, sampled at pixel centres or corners."""
    rank = len(targets)
    shape = shape_of(x)
    exact = all(abs(targets[axis] / shape[axis] - scales[axis]) < 1e-6 for axis in changed)
    corners = {"half_pixel": "UNALIGN_CORNERS", "align_corners": "STRICT_ALIGN_CORNERS"}
    if rank != 4 or not exact or not set(changed) <= {2, 3} or transform not in corners:
        return None
    if dtype_of(x).kind != "f" or (transform == "align_corners" and 1 in (targets[2], targets[3])):
        return None
    return site.emit(
        "resize_bilinear",
        x=x,
        target_size_height=targets[2],
        target_size_width=targets[3],
        sampling_mode=corners[transform],
    )


def _source_coordinate(
    transform: str, size: int, target: int, scale: float, window: tuple[float, float]
) -> np.ndarray:
    """Where each output element lies in the input (onnx/docs/Operators.md, Resize)."""
    at = np.arange(target, dtype=np.float64)
    length = scale * size
    if transform == "half_pixel":
        return (at + 0.5) / scale - 0.5
    if transform == "half_pixel_symmetric":
        adjustment = target / length
        return size / 2 * (1 - adjustment) + (at + 0.5) / scale - 0.5
    if transform == "pytorch_half_pixel":
        return (at + 0.5) / scale - 0.5 if target > 1 else np.zeros(1)
    if transform == "align_corners":
        # Of the size that came out, as torch, ONNX Runtime and OpenVINO have it: the corners meet.
        return at * (size - 1) / (target - 1) if target != 1 else np.zeros(target)
    if transform == "asymmetric":
        return at / scale
    if transform == "tf_crop_and_resize":
        begin, end = window
        if target == 1:
            return np.array([0.5 * (begin + end) * (size - 1)])
        return begin * (size - 1) + at * (end - begin) * (size - 1) / (target - 1)
    raise Refusal(f"coordinate transformation {transform!r} is unknown")


def _matrix(
    site: Site,
    size: int,
    target: int,
    scale: float,
    transform: str,
    antialias: bool,
    window: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (target, size) of one axis, and which outputs lie outside the input (crop mode)."""
    mode = site.attribute("mode", "nearest")
    source = _source_coordinate(transform, size, target, scale, window)
    outside = np.zeros(target, bool)
    if transform == "tf_crop_and_resize":
        outside = (source < 0) | (source > size - 1)
    matrix = np.zeros((target, size))
    if mode == "nearest":
        places = np.clip(_rounded(source, site.attribute("nearest_mode", "round_prefer_floor")), 0, size - 1)
        matrix[np.arange(target), places.astype(int)] = 1
        return matrix, outside
    if mode == "linear":
        kernel, reach = _triangle, 1.0
    elif mode == "cubic":
        kernel, reach = _cubic(float(site.attribute("cubic_coeff_a", -0.75))), 2.0
    else:
        raise Refusal(f"resize mode {mode!r} is unknown")
    stretch = max(1.0, 1 / scale) if antialias else 1.0
    exclude = bool(site.attribute("exclude_outside", 0))
    for row, centre in enumerate(source):
        first = int(np.floor(centre - reach * stretch)) + 1
        taps = np.arange(first, int(np.ceil(centre + reach * stretch)))
        weights = kernel((taps - centre) / stretch)
        if exclude:
            inside = (taps >= 0) & (taps < size)
            taps, weights = taps[inside], weights[inside]
        if exclude or antialias:
            weights = weights / weights.sum()
        np.add.at(matrix[row], np.clip(taps, 0, size - 1), weights)
    return matrix, outside


def _rounded(source: np.ndarray, mode: str) -> np.ndarray:
    rules: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "round_prefer_floor": lambda at: np.ceil(at - 0.5),
        "round_prefer_ceil": lambda at: np.floor(at + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    if mode not in rules:
        raise Refusal(f"nearest_mode {mode!r} is unknown")
    # Rounding of the division must not decide between two pixels.
    return rules[mode](np.round(source, 9))


def _triangle(distance: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1 - np.abs(distance))


def _cubic(a: float) -> Callable[[np.ndarray], np.ndarray]:
    """Keys' cubic convolution kernel (IEEE ASSP 1981)."""

    def kernel(distance: np.ndarray) -> np.ndarray:
        d = np.abs(distance)
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        return np.where(d <= 1, near, np.where(d < 2, far, 0.0))

    return kernel


def _along(site: Site, x: Operand, axis: int, weights: tuple[np.ndarray, np.ndarray], mode: str) -> Operand:
    matrix, outside = weights
    if mode == "nearest":
        result: Any = site.emit("gather", x=x, indices=matrix.argmax(1).astype(np.int32), axis=axis)
    else:
        result = _product_along(site, site.floating(x), axis, matrix)
    if not outside.any():
        return result
    shape = [1] * len(x.shape)
    shape[axis] = len(outside)
    value = site.like(result, site.attribute("extrapolation_value", 0.0))
    return site.select(cond=outside.reshape(shape), a=value, b=result)


def _product_along(site: Site, x: Operand, axis: int, matrix: np.ndarray) -> Operand:
    """X times the matrix along one axis."""
    matrix = matrix.astype(dtype_of(x))
    shape = shape_of(x)
    if axis == len(shape) - 1:
        return site.emit("matmul", x=x, y=np.ascontiguousarray(matrix.T))
    before, after = int(np.prod(shape[:axis], initial=1)), int(np.prod(shape[axis + 1 :], initial=1))
    flat = site.reshape(x, (before, shape[axis], after))
    product = site.emit("matmul", x=matrix[None], y=flat)
    return site.reshape(product, (*shape[:axis], len(matrix), *shape[axis + 1 :]))
