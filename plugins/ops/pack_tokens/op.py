"""`ai.edgec::PackTokens` and `UnpackTokens`: a padded batch's real tokens end to end, and back.

`tokens` (B, N, C) and `visible` (B, N) bool give `packed` (1, T, C), the T visible tokens in order, and
`cu_seqlens` (B + 1) int32, where each sample's begin in it: what `VarlenAttention` takes. `UnpackTokens`
puts `packed` back to (B, N, C), with zeros where nothing is visible. ByteTransformer (arXiv 2210.03052).
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgec.plugins.infra import Plugin, register
from edgec.plugins.ops import token_steps

_PACK = """
  axis0 = Constant <value_ints = [0]> ()
  axis1 = Constant <value_ints = [1]> ()
  all = Constant <value_ints = [-1]> ()
  none = Constant <value_ints = [0]> ()
  flat_visible = Reshape (visible, all)
  width = Shape <start = 2, end = 3> (tokens)
  rows = Concat <axis = 0> (all, width)
  flat = Reshape (tokens, rows)
  real = Compress <axis = 0> (flat, flat_visible)
  packed = Unsqueeze (real, axis0)
  number = Cast <to = 7> (visible)
  counts = ReduceSum <keepdims = 0> (number, axis1)
  zero = Constant <value_int = 0> ()
  ends = CumSum (counts, zero)
  begin = Concat <axis = 0> (none, ends)
  cu_seqlens = Cast <to = 6> (begin)
"""

# A token of its own at the front keeps the gather in range where nothing is visible at all.
_UNPACK = """
  axis0 = Constant <value_ints = [0]> ()
  axis2 = Constant <value_ints = [2]> ()
  all = Constant <value_ints = [-1]> ()
  zero = Constant <value_int = 0> ()
  flat_visible = Reshape (visible, all)
  number = Cast <to = 7> (flat_visible)
  place = CumSum (number, zero)
  nothing64 = Constant <value_ints = [0]> ()
  flat_packed = Squeeze (packed, axis0)
  width = Shape <start = 2, end = 3> (packed)
  one_ = Constant <value_ints = [1]> ()
  empty_shape = Concat <axis = 0> (one_, width)
  nothing = CastLike (nothing64, packed)
  empty = Expand (nothing, empty_shape)
  padded = Concat <axis = 0> (empty, flat_packed)
  behind = Mul (place, number)
  spread = Gather <axis = 0> (padded, behind)
  shape = Shape (visible)
  full = Concat <axis = 0> (shape, width)
  tokens = Reshape (spread, full)
"""


def _pack() -> ir.Function:
    return token_steps.define("PackTokens", "", "tokens, visible", "packed, cu_seqlens", _PACK)


def _unpack() -> ir.Function:
    return token_steps.define("UnpackTokens", "", "packed, visible", "tokens", _UNPACK)


def _three(value: ir.Value | None, name: str, what: str) -> tuple[ir.Shape, ir.DataType]:
    if value is None or value.shape is None or value.dtype is None or len(value.shape) != 3:
        raise ValueError(f"{name}: {what} must have three dimensions and a known dtype")
    return value.shape, value.dtype


def _infer_pack(node: ir.Node) -> Sequence[tuple[ir.Shape, ir.DataType]]:
    shape, dtype = _three(node.inputs[0], node.name or "", "tokens")
    batch = shape[0]
    ends = batch + 1 if isinstance(batch, int) else ir.SymbolicDim(None)
    return (
        (ir.Shape([1, ir.SymbolicDim(None), shape[2]]), dtype),
        (ir.Shape([ends]), ir.DataType.INT32),
    )


def _infer_unpack(node: ir.Node) -> Sequence[tuple[ir.Shape, ir.DataType]]:
    shape, dtype = _three(node.inputs[0], node.name or "", "packed")
    visible = node.inputs[1]
    if visible is None or visible.shape is None or len(visible.shape) != 2:
        raise ValueError(f"{node.name}: visible must be (batch, tokens)")
    return ((ir.Shape([*visible.shape, shape[2]]), dtype),)


PACK = register(Plugin("PackTokens", _pack, _infer_pack, "The visible tokens of a padded batch, end to end."))
UNPACK = register(
    Plugin("UnpackTokens", _unpack, _infer_unpack, "Packed tokens at their places again, zeros between them.")
)
