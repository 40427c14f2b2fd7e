"""Integer quantization, written as float arithmetic on integer values.

int8 and uint8 tensors live in MIL as int32 holding the same values: `quantize` and `dequantize` exist
from iOS 17 only, and on constants alone have a use there.
"""

from __future__ import annotations

import numpy as np

from edgec.targets.coreml.lowering.site import Operand, Refusal, Site, dtype_of, positive_axis, rank_of
from edgec.targets.coreml.lowering.table import lowers

_RANGES = {2: (0, 255), 3: (-128, 127), 4: (0, 65535), 5: (-32768, 32767)}


def _by_axis(site: Site, value: Operand, x: Operand) -> Operand:
    """A scale or zero point with one value a channel, shaped to broadcast along `axis`."""
    if rank_of(value) == 0 or (rank_of(value) == 1 and value.shape[0] == 1):
        return site.reshape(value, ()) if rank_of(value) else value
    if rank_of(value) != 1 or site.attribute("block_size", 0):
        raise Refusal("blockwise scales of computed tensors are not lowered", "use one scale a channel")
    shape = [1] * rank_of(x)
    shape[positive_axis(int(site.attribute("axis", 1)), rank_of(x))] = value.shape[0]
    return site.reshape(value, shape)


@lowers("DequantizeLinear")
def dequantize(site: Site) -> Operand:
    """(x - zero_point) · scale."""
    x, scale = site.operand(0), site.operand(1)
    kind = dtype_of(scale)
    result = site.cast(x, kind)
    if site.has(2):
        zero = site.cast(_by_axis(site, site.operand(2), x), kind)
        result = site.emit("sub", x=result, y=zero)
    return site.emit("mul", x=result, y=_by_axis(site, scale, x))


@lowers("QuantizeLinear")
def quantize(site: Site) -> Operand:
    """clamp(round(x / scale) + zero_point), halves rounded to even."""
    x, scale = site.operand(0), site.operand(1)
    zero_value = site.node.inputs[2] if len(site.node.inputs) > 2 else None
    onnx_type = int(site.attribute("output_dtype", 0)) or 2
    if zero_value is not None and zero_value.dtype is not None:
        onnx_type = int(zero_value.dtype)
    if onnx_type not in _RANGES:
        raise Refusal(f"quantizing to ONNX type {onnx_type} has no form in Core ML", "use int8 or uint8")
    low, high = _RANGES[onnx_type]
    scaled = site.emit("round", x=site.emit("real_div", x=x, y=_by_axis(site, scale, x)))
    if site.has(2):
        zero = site.cast(_by_axis(site, site.operand(2), x), dtype_of(x))
        scaled = site.emit("add", x=scaled, y=zero)
    clamped = site.emit("clip", x=scaled, alpha=site.like(x, low), beta=site.like(x, high))
    return site.cast(clamped, np.int32)


@lowers("MatMulInteger")
def matmul_integer(site: Site) -> Operand:
    """int32 product of operands less their zero points."""
    a, b = site.operand(0), site.operand(1)
    if site.has(2):
        zero = site.operand(2)
        a = site.emit("sub", x=a, y=site.reshape(zero, (-1, 1)) if rank_of(zero) == 1 else zero)
    if site.has(3):
        b = site.emit("sub", x=b, y=site.operand(3))
    return site.matmul(a, b)
