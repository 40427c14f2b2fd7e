"""Normalizations and reductions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgec.targets.coreml.checker.arguments import Arguments
from edgec.targets.coreml.checker.registry import kernel


def _normal(x: np.ndarray, axes: tuple[int, ...], epsilon: float) -> np.ndarray:
    mean = x.mean(axis=axes, keepdims=True, dtype=np.float64)
    centred = x - mean
    variance = np.square(centred).mean(axis=axes, keepdims=True)
    return (centred / np.sqrt(variance + epsilon)).astype(np.float32)


@kernel("layer_norm")
def layer_norm(a: Arguments) -> np.ndarray:
    """(x - mean) / sqrt(variance + epsilon) · gamma + beta over the axes."""
    x = a["x"]
    axes = tuple(axis % x.ndim for axis in a.integers("axes", list(range(x.ndim))))
    result = _normal(x, axes, a.number("epsilon", 1e-5))
    shape = [size if axis in axes else 1 for axis, size in enumerate(x.shape)]
    if "gamma" in a:
        result = result * np.asarray(a["gamma"]).reshape(shape)
    if "beta" in a:
        result = result + np.asarray(a["beta"]).reshape(shape)
    return result


@kernel("instance_norm")
def instance_norm(a: Arguments) -> np.ndarray:
    """Normalized over the spatial axes, scaled by channel."""
    x = a["x"]
    result = _normal(x, tuple(range(2, x.ndim)), a.number("epsilon", 1e-5))
    column = (-1, *[1] * (x.ndim - 2))
    if "gamma" in a:
        result = result * np.asarray(a["gamma"]).reshape(column)
    return result + np.asarray(a["beta"]).reshape(column) if "beta" in a else result


@kernel("batch_norm")
def batch_norm(a: Arguments) -> np.ndarray:
    """(x - mean) / sqrt(variance + epsilon) · gamma + beta with given statistics, by channel."""
    x = a["x"]
    column = (-1, *[1] * (x.ndim - 2))
    mean, variance = (np.asarray(a[name]).reshape(column) for name in ("mean", "variance"))
    result = (x - mean) / np.sqrt(variance + np.float32(a.number("epsilon", 1e-5)))
    if "gamma" in a:
        result = result * np.asarray(a["gamma"]).reshape(column)
    return result + np.asarray(a["beta"]).reshape(column) if "beta" in a else result


@kernel("l2_norm")
def l2_norm(a: Arguments) -> np.ndarray:
    """X over the 2-norm of its last three axes."""
    x = a["x"]
    total = np.square(x).sum(axis=(-3, -2, -1), keepdims=True)
    return x / np.sqrt(total + np.float32(a.number("epsilon", 1e-6)))


@kernel("local_response_norm")
def local_response_norm(a: Arguments) -> np.ndarray:
    """X / (k + alpha / size · sum of squares of the neighbouring channels)^beta."""
    x, size = a["x"], int(a.number("size"))
    squares = np.pad(np.square(x), [(0, 0), (size // 2, size - 1 - size // 2), *[(0, 0)] * (x.ndim - 2)])
    total = sum(squares[:, at : at + x.shape[1]] for at in range(size))
    return x / (a.number("k", 1) + a.number("alpha", 1e-4) / size * total) ** a.number("beta", 0.75)


_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "reduce_max": np.max,
    "reduce_min": np.min,
    "reduce_mean": np.mean,
    "reduce_prod": np.prod,
    "reduce_sum": np.sum,
    "reduce_l1_norm": lambda x, **k: np.sum(np.abs(x), **k),
    "reduce_l2_norm": lambda x, **k: np.sqrt(np.sum(np.square(x), **k)),
    "reduce_log_sum": lambda x, **k: np.log(np.sum(x, **k)),
    "reduce_sum_square": lambda x, **k: np.sum(np.square(x), **k),
}


@kernel(*_REDUCTIONS)
def reduce(a: Arguments) -> np.ndarray:
    """Over the axes, or over all."""
    x = a["x"]
    axes = tuple(a.integers("axes", list(range(x.ndim))))
    with np.errstate(all="ignore"):
        return np.asarray(_REDUCTIONS[a.op](x, axis=axes, keepdims=a.flag("keep_dims")))


@kernel("reduce_log_sum_exp")
def log_sum_exp(a: Arguments) -> np.ndarray:
    """log(sum(exp(x))), the largest taken off first."""
    x = a["x"]
    axes = tuple(a.integers("axes", list(range(x.ndim))))
    largest = x.max(axis=axes, keepdims=True)
    largest = np.where(np.isfinite(largest), largest, 0)
    with np.errstate(divide="ignore"):
        result = np.log(np.exp(x - largest).sum(axis=axes, keepdims=True)) + largest
    return result if a.flag("keep_dims") else np.squeeze(result, axes)


@kernel("reduce_argmax", "reduce_argmin")
def arg_reduce(a: Arguments) -> np.ndarray:
    """The first place of the extreme."""
    x, axis = a["x"], int(a.number("axis", -1))
    place = np.argmax(x, axis) if a.op == "reduce_argmax" else np.argmin(x, axis)
    return np.expand_dims(place, axis) if a.flag("keep_dims") else place
