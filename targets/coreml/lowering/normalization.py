"""Normalizations."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgec.targets.coreml.lowering.site import (
    Operand,
    Refusal,
    Site,
    dtype_of,
    positive_axis,
    rank_of,
    shape_of,
)
from edgec.targets.coreml.lowering.table import lowers


@lowers("BatchNormalization")
def batch_norm(site: Site) -> Operand:
    """`batch_norm` with constants; otherwise its arithmetic."""
    if site.attribute("training_mode", 0):
        raise Refusal("BatchNormalization is in training mode", "export the model in evaluation mode")
    x = site.operand(0)
    scale, bias, mean, variance = (site.operand(index) for index in range(1, 5))
    epsilon = site.attribute("epsilon", 1e-5)
    dtype = dtype_of(x)
    constants = all(isinstance(value, np.ndarray) for value in (scale, bias, mean, variance))
    if constants and 3 <= rank_of(x) <= 5:
        return site.emit(
            "batch_norm",
            x=x,
            mean=mean.astype(dtype),
            variance=variance.astype(dtype),
            gamma=scale.astype(dtype),
            beta=bias.astype(dtype),
            epsilon=site.like(x, epsilon),
        )
    column = (1, -1, *[1] * (rank_of(x) - 2))
    scale, bias, mean, variance = (
        site.reshape(site.cast(value, dtype), column) for value in (scale, bias, mean, variance)
    )
    spread = site.emit("sqrt", x=site.emit("add", x=variance, y=site.like(x, epsilon)))
    normal = site.emit("real_div", x=site.emit("sub", x=x, y=mean), y=spread)
    return site.emit("add", x=site.emit("mul", x=normal, y=scale), y=bias)


@lowers("LayerNormalization")
def layer_norm(site: Site) -> Any:
    """`layer_norm` over the axes from `axis` on, with constant scale and bias inside it."""
    x = site.operand(0)
    rank = rank_of(x)
    axis = positive_axis(int(site.attribute("axis", -1)), rank)
    axes = np.arange(axis, rank, dtype=np.int32)
    epsilon = site.like(x, site.attribute("epsilon", 1e-5))
    sizes = tuple(x.shape[axis:])
    gamma, beta = _affine(site, x, 1, sizes), _affine(site, x, 2, sizes)
    inside = isinstance(gamma, np.ndarray) and (beta is None or isinstance(beta, np.ndarray))
    if inside:
        result = site.emit("layer_norm", x=x, axes=axes, gamma=gamma, beta=beta, epsilon=epsilon)
    else:
        result = site.emit("layer_norm", x=x, axes=axes, epsilon=epsilon)
        result = site.emit("mul", x=result, y=site.operand(1))
        if site.has(2):
            result = site.emit("add", x=result, y=site.operand(2))
    if not (site.output_used(1) or site.output_used(2)):
        return result
    mean = site.emit("reduce_mean", x=x, axes=axes, keep_dims=True)
    centred = site.emit("sub", x=x, y=mean)
    variance = site.emit("reduce_mean", x=site.emit("mul", x=centred, y=centred), axes=axes, keep_dims=True)
    spread = site.emit("sqrt", x=site.emit("add", x=variance, y=epsilon))
    return [result, mean, site.emit("real_div", x=site.like(x, 1), y=spread)]


def _affine(site: Site, x: Operand, index: int, sizes: tuple[Any, ...]) -> Operand | None:
    """A constant scale or bias in the normalized shape; a computed one as it is."""
    value = site.optional(index)
    if not isinstance(value, np.ndarray):
        return value
    if not all(isinstance(size, (int, np.integer)) for size in sizes):
        raise Refusal("the normalized sizes are open", "give the model fixed input shapes")
    return np.ascontiguousarray(np.broadcast_to(value, sizes)).astype(dtype_of(x))


@lowers("RMSNormalization")
def rms_norm(site: Site) -> Operand:
    """The first half of layer_norm over [x, -x].

    The mean of [x, -x] is zero and its variance is mean(x²), so that the square, which leaves fp16 at
    256, stays inside one op that Core ML keeps in range.
    """
    x = site.operand(0)
    rank = rank_of(x)
    axis = positive_axis(int(site.attribute("axis", -1)), rank)
    axes = np.arange(axis, rank, dtype=np.int32)
    size = shape_of(x)[-1]
    both = site.emit("concat", values=[x, site.emit("mul", x=x, y=site.like(x, -1))], axis=rank - 1)
    epsilon = site.like(x, site.attribute("epsilon", 1e-5))
    normal = site.emit("layer_norm", x=both, axes=axes, epsilon=epsilon)
    ends = [*shape_of(x)[:-1], size]
    normal = site.emit(
        "slice_by_index",
        x=normal,
        begin=np.zeros(rank, np.int32),
        end=np.array(ends, np.int32),
        begin_mask=[True] * rank,
        end_mask=[True] * (rank - 1) + [False],
    )
    return site.emit("mul", x=normal, y=site.operand(1))


@lowers("InstanceNormalization")
def instance_norm(site: Site) -> Operand:
    """`instance_norm` at rank 3 and 4 with constants; layer_norm over the spatial axes otherwise."""
    x, scale, bias = site.operand(0), site.operand(1), site.operand(2)
    epsilon = site.like(x, site.attribute("epsilon", 1e-5))
    if isinstance(scale, np.ndarray) and isinstance(bias, np.ndarray) and rank_of(x) in (3, 4):
        return site.emit("instance_norm", x=x, gamma=scale, beta=bias, epsilon=epsilon)
    axes = np.arange(2, rank_of(x), dtype=np.int32)
    normal = site.emit("layer_norm", x=x, axes=axes, epsilon=epsilon)
    return _scaled_by_channel(site, normal, scale, bias)


@lowers("GroupNormalization")
def group_norm(site: Site) -> Operand:
    """layer_norm over (B, groups, everything of a group), then scale and bias by channel."""
    x, scale, bias = site.operand(0), site.operand(1), site.operand(2)
    shape = shape_of(x)
    groups = int(site.attribute("num_groups"))
    grouped = site.reshape(x, (shape[0], groups, int(np.prod(shape[1:])) // groups))
    epsilon = site.like(x, site.attribute("epsilon", 1e-5))
    normal = site.emit("layer_norm", x=grouped, axes=np.array([2], np.int32), epsilon=epsilon)
    normal = site.reshape(normal, shape)
    if scale.shape[0] == groups != shape[1]:
        raise Refusal("its scale has one value a group, as before opset 21", "convert the model to opset 21")
    return _scaled_by_channel(site, normal, scale, bias)


def _scaled_by_channel(site: Site, x: Operand, scale: Operand, bias: Operand) -> Operand:
    column = (1, -1, *[1] * (rank_of(x) - 2))
    scaled = site.emit("mul", x=x, y=site.reshape(scale, column))
    return site.emit("add", x=scaled, y=site.reshape(bias, column))


@lowers("LRN")
def local_response_norm(site: Site) -> Operand:
    """X / (bias + alpha / size · sum of squares over `size` channels)^beta, summed by average pooling.

    The pooling runs over (B, 1, C, everything) and counts its padding, as ONNX's mean does.
    """
    x = site.operand(0)
    shape = shape_of(x)
    size = int(site.attribute("size"))
    alpha, beta = site.attribute("alpha", 1e-4), site.attribute("beta", 0.75)
    flat = site.reshape(x, (shape[0], 1, shape[1], int(np.prod(shape[2:]))))
    mean = site.emit(
        "avg_pool",
        x=site.emit("mul", x=flat, y=flat),
        kernel_sizes=np.array([size, 1], np.int32),
        strides=np.array([1, 1], np.int32),
        pad_type="custom",
        pad=np.array([(size - 1) // 2, size - 1 - (size - 1) // 2, 0, 0], np.int32),
        exclude_padding_from_average=False,
    )
    scaled = site.emit("mul", x=mean, y=site.like(x, alpha))
    base = site.emit("add", x=scaled, y=site.like(x, site.attribute("bias", 1.0)))
    return site.reshape(
        site.emit("real_div", x=flat, y=site.emit("pow", x=base, y=site.like(x, beta))), shape
    )


@lowers("LpNormalization")
def lp_norm(site: Site) -> Operand:
    """X over its 1- or 2-norm along an axis; zero where the norm is zero."""
    x = site.operand(0)
    axis = np.array([positive_axis(int(site.attribute("axis", -1)), rank_of(x))], np.int32)
    mil_op = "reduce_l1_norm" if int(site.attribute("p", 2)) == 1 else "reduce_l2_norm"
    norm = site.emit(mil_op, x=x, axes=axis, keep_dims=True)
    empty = site.emit("equal", x=norm, y=site.like(x, 0))
    divisor = site.select(cond=empty, a=site.like(x, 1), b=norm)
    return site.emit("real_div", x=x, y=divisor)


@lowers("MeanVarianceNormalization")
def mean_variance_norm(site: Site) -> Operand:
    """layer_norm with the epsilon of ONNX's definition, (x - mean) / (std + 1e-9), under the root."""
    x = site.operand(0)
    axes = np.array(site.attribute("axes", [0, 2, 3]), np.int32)
    mean = site.emit("reduce_mean", x=x, axes=axes, keep_dims=True)
    centred = site.emit("sub", x=x, y=mean)
    variance = site.emit("reduce_mean", x=site.emit("mul", x=centred, y=centred), axes=axes, keep_dims=True)
    spread = site.emit("add", x=site.emit("sqrt", x=variance), y=site.like(x, 1e-9))
    return site.emit("real_div", x=centred, y=spread)
