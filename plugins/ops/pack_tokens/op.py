"""`ai.edgec::PackTokens` and `UnpackTokens`: a padded batch's real tokens end to end, and back.

`tokens` (B, N, C) and `visible` (B, N) bool give `packed` (1, T, C), the T visible tokens in order, and
`cu_seqlens` (B + 1) int32, where each sample's begin in it: what `VarlenAttention` takes. `UnpackTokens`
puts `packed` back to (B, N, C), with zeros where nothing is visible. ByteTransformer (arXiv 2210.03052).
"""

from __future__ import annotations

from edgec.plugins.infra import CpuKernel, Kind, Plugin, Port, register

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


_VISIBLE = Port("visible", "batch, length", Kind.BOOL)

PACK = register(
    Plugin(
        "PackTokens",
        "The visible tokens of a padded batch, end to end.",
        inputs=(Port("tokens", "batch, length, channels"), _VISIBLE),
        outputs=(Port("packed", "1, total, channels"), Port("cu_seqlens", "batch + 1", Kind.INT32)),
        body=_PACK,
        kernels={"cpu": CpuKernel("pack_tokens.cpp", types=("float32", "bfloat16"))},
    )
)
UNPACK = register(
    Plugin(
        "UnpackTokens",
        "Packed tokens at their places again, zeros between them.",
        inputs=(Port("packed", "1, total, channels"), _VISIBLE),
        outputs=(Port("tokens", "batch, length, channels"),),
        body=_UNPACK,
        kernels={"cpu": CpuKernel("pack_tokens.cpp", types=("float32", "bfloat16"))},
    )
)
