"""`ai.edgec::SizeBias`: what the sizes of reduced tokens add to an attention's logits.

`sizes` (B, N, 1) float32 gives `bias` (B, heads, 1, N) float32, `log(max(size, floor))` for every head: the
proportional attention of ToMe (arXiv 2210.09461, equation 2). A size of 0, padding, hides its token.
"""

from __future__ import annotations

from edgec.plugins.infra import CpuKernel, Kind, Plugin, Port, register

_BIAS = """
  floor_ = Constant <value_float: float = @floor> ()
  bounded = Max (sizes, floor_)
  logarithm = Log (bounded)
  heads_ = Constant <value_ints = [1]> ()
  heads64 = Constant <value_int: int = @heads> ()
  head_count = Reshape (heads64, heads_)
  batch = Shape <start = 0, end = 1> (sizes)
  length = Shape <start = 1, end = 2> (sizes)
  row = Concat <axis = 0> (batch, heads_, heads_, length)
  rows = Concat <axis = 0> (batch, head_count, heads_, length)
  one_row = Reshape (logarithm, row)
  bias = Expand (one_row, rows)
"""


SIZE_BIAS = register(
    Plugin(
        "SizeBias",
        "The logarithm of the tokens' sizes as a row for each head.",
        inputs=(Port("sizes", "batch, length, 1", Kind.FLOAT32),),
        outputs=(Port("bias", "batch, heads, 1, length", Kind.FLOAT32),),
        body=_BIAS,
        rules=("1 <= heads",),
        attributes={"heads": 1, "floor": 1.0e-20},
        kernels={"cpu": CpuKernel("size_bias.cpp")},
    )
)
