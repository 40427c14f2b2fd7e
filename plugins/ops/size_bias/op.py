"""`ai.edgec::SizeBias`: what the sizes of reduced tokens add to an attention's logits.

`sizes` (B, N, 1) float32 gives `bias` (B, heads, 1, N) float32, `log(max(size, floor))` for every head: the
proportional attention of ToMe (arXiv 2210.09461, equation 2). A size of 0, padding, hides its token.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgec.plugins.infra import Plugin, register
from edgec.plugins.ops import token_steps

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


def _size_bias() -> ir.Function:
    attributes = "heads: int = 1, floor: float = 1.0e-20"
    return token_steps.define("SizeBias", attributes, "sizes", "bias", _BIAS)


def _infer(node: ir.Node) -> Sequence[tuple[ir.Shape, ir.DataType]]:
    sizes = node.inputs[0]
    if sizes is None or sizes.shape is None or sizes.dtype is None or len(sizes.shape) != 3:
        raise ValueError(f"{node.name}: sizes must be (batch, tokens, 1) of a known dtype")
    heads = token_steps.integer(node, "heads", 1)
    return ((ir.Shape([sizes.shape[0], heads, 1, sizes.shape[1]]), sizes.dtype),)


SIZE_BIAS = register(
    Plugin("SizeBias", _size_bias, _infer, "The logarithm of the tokens' sizes as a row for each head.")
)
