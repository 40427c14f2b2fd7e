"""Weights that are stored compressed, and quantized activations."""

from __future__ import annotations

import numpy as np

from edgec.targets.coreml.checker.arguments import Arguments
from edgec.targets.coreml.checker.registry import kernel


def _along(value: np.ndarray, rank: int, axis: int) -> np.ndarray:
    value = np.asarray(value)
    if value.ndim == 0 or value.size == 1:
        return value.reshape(())
    shape = [1] * rank
    shape[axis] = -1
    return value.reshape(shape)


@kernel("constexpr_affine_dequantize")
def affine_dequantize(a: Arguments) -> np.ndarray:
    """(data - zero_point) · scale along an axis (iOS 16)."""
    data, axis = np.asarray(a["quantized_data"]), int(a.number("axis", 0))
    zero = _along(a["zero_point"], data.ndim, axis).astype(np.float32)
    return (data.astype(np.float32) - zero) * _along(a["scale"], data.ndim, axis)


@kernel("constexpr_blockwise_shift_scale")
def blockwise(a: Arguments) -> np.ndarray:
    """(data - offset) · scale with one scale a block (iOS 18)."""
    data = np.asarray(a["data"]).astype(np.float32)
    if "offset" in a:
        data = data - _spread(np.asarray(a["offset"]).astype(np.float32), data.shape)
    return data * _spread(np.asarray(a["scale"]), data.shape)


def _spread(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    for axis, size in enumerate(shape):
        value = np.repeat(value, size // value.shape[axis], axis)
    return value


@kernel("constexpr_lut_to_dense")
def lut_to_dense(a: Arguments) -> np.ndarray:
    """Palette entries by index: one palette (iOS 16), or one a block of the tensor (iOS 18)."""
    lut = np.asarray(a["lut"])
    if "shape" in a:
        shape = a.integers("shape")
        raw, count = np.asarray(a["indices"]).reshape(-1), int(np.prod(shape))
        bits = int(np.log2(len(lut)))
        stream = np.unpackbits(raw.view(np.uint8), bitorder="little")[: count * bits].reshape(count, bits)
        return lut[(stream * (1 << np.arange(bits))).sum(1)].reshape(shape)
    indices = np.asarray(a["indices"]).astype(np.int64)
    if "vector_axis" in a:
        raise ValueError("palettes of vectors are not known here")
    blocks = lut.shape[: indices.ndim]
    place = tuple(
        np.arange(size).reshape([-1 if other == axis else 1 for other in range(indices.ndim)])
        // (size // blocks[axis])
        for axis, size in enumerate(indices.shape)
    )
    return lut[(*place, indices)][..., 0]


@kernel("constexpr_sparse_to_dense")
def sparse_to_dense(a: Arguments) -> np.ndarray:
    """Values put where the mask has a one."""
    if "shape" in a:
        shape = a.integers("shape")
        bits = np.unpackbits(np.asarray(a["mask"]).view(np.uint8), bitorder="little")[: int(np.prod(shape))]
        mask = bits.reshape(shape).astype(bool)
    else:
        mask = np.asarray(a["mask"]).astype(bool)
    dense = np.zeros(mask.shape, np.float32)
    dense[mask] = np.asarray(a["nonzero_data"])
    return dense


@kernel("constexpr_cast")
def constexpr_cast(a: Arguments) -> np.ndarray:
    """fp16 weights for an fp32 program."""
    return np.asarray(a["source_val"]).astype(np.float32)


@kernel("quantize")
def quantize(a: Arguments) -> np.ndarray:
    """clamp(round(x / scale) + zero_point)."""
    x, axis = a["input"], int(a.number("axis", 0))
    limits = np.iinfo(a.text("output_dtype", "int8"))
    zero = _along(a["zero_point"], x.ndim, axis).astype(np.float32) if "zero_point" in a else 0
    return np.clip(np.rint(x / _along(a["scale"], x.ndim, axis)) + zero, limits.min, limits.max)


@kernel("dequantize")
def dequantize(a: Arguments) -> np.ndarray:
    """(x - zero_point) · scale."""
    x, axis = np.asarray(a["input"]).astype(np.float32), int(a.number("axis", 0))
    zero = _along(a["zero_point"], x.ndim, axis).astype(np.float32) if "zero_point" in a else 0
    return (x - zero) * _along(a["scale"], x.ndim, axis)
