"""`ai.edgec::VarlenAttention` and `VarlenWindowAttention`: attention within sequences that lie end to end.

`query`, `key` and `value` (T, H, D) hold the tokens of all sequences, without padding; `cu_seqlens` (S + 1)
int32 says where each begins: sequence s has the rows cu_seqlens[s] … cu_seqlens[s + 1] - 1, and
cu_seqlens[S] = T. `output` (T, H, D) is `softmax(scale · q kᵀ) v` within each sequence. It is what a padded
batch computes on its real tokens (ByteTransformer, arXiv 2210.03052; the form of arguments is
FlashAttention's, arXiv 2205.14135).

`VarlenWindowAttention` also takes `places` (T) int32, the place that each token had in its row before the
padding was taken out, rising within a sequence: tokens whose places differ by more than `window` do not see
each other (the sliding window of Longformer, arXiv 2004.05150, and of ModernBERT's local layers, arXiv
2412.13663).

Attributes: `scale`, 0 for 1 / sqrt(D); `max_length`, at least the longest sequence's length, which kernels
size their launch by.
"""

from __future__ import annotations

from edgec.plugins.infra import CpuKernel, CudaKernel, Kind, Limit, Plugin, Port, register

# A token belongs to the sequence whose end is the first beyond it: the number of ends at or before it.
_BODY = """
  axis0 = Constant <value_ints = [0]> ()
  axis1 = Constant <value_ints = [1]> ()
  last = Constant <value_ints = [-1]> ()
  far = Constant <value_ints = [9223372036854775807]> ()
  zero64 = Constant <value_int = 0> ()
  one64 = Constant <value_int = 1> ()
  total_ = Shape <start = 0, end = 1> (query)
  total = Squeeze (total_)
  place64 = Range (zero64, total, one64)
  place = Cast <to = 6> (place64)
  place_column = Unsqueeze (place, axis1)
  ends = Slice (cu_seqlens, axis1, far, axis0)
  ends_row = Unsqueeze (ends, axis0)
  behind = LessOrEqual (ends_row, place_column)
  behind32 = Cast <to = 6> (behind)
  sequence = ReduceSum <keepdims = 0> (behind32, last)
  sequence_row = Unsqueeze (sequence, axis0)
  sequence_column = Unsqueeze (sequence, axis1)
  %s
  q = Transpose <perm = [1, 0, 2]> (query)
  k = Transpose <perm = [1, 2, 0]> (key)
  v = Transpose <perm = [1, 0, 2]> (value)
  depth_ = Shape <start = 2, end = 3> (query)
  depth = Squeeze (depth_)
  depth32 = Cast <to = 1> (depth)
  root = Sqrt (depth32)
  one = Constant <value_float = 1.0> ()
  usual = Div (one, root)
  given = Constant <value_float: float = @scale> ()
  zero = Constant <value_float = 0.0> ()
  is_given = Greater (given, zero)
  factor32 = Where (is_given, given, usual)
  factor = CastLike (factor32, query)
  scaled = Mul (q, factor)
  logits = MatMul (scaled, k)
  logits32 = Cast <to = 1> (logits)
  apart = Constant <value_float = -3.0e38> ()
  masked = Where (together, logits32, apart)
  weights32 = Softmax <axis = -1> (masked)
  weights = CastLike (weights32, value)
  mixed = MatMul (weights, v)
  output = Transpose <perm = [1, 0, 2]> (mixed)
"""


_ALL = "together = Equal (sequence_row, sequence_column)"
_NEAR = """same = Equal (sequence_row, sequence_column)
  places_row = Unsqueeze (places, axis0)
  places_column = Unsqueeze (places, axis1)
  difference = Sub (places_row, places_column)
  distance = Abs (difference)
  window64 = Constant <value_int: int = @window> ()
  window32 = Cast <to = 6> (window64)
  near = LessOrEqual (distance, window32)
  together = And (same, near)"""


_HEADS = "total, heads, depth"
_INPUTS = (
    Port("query", _HEADS),
    Port("key", _HEADS),
    Port("value", _HEADS),
    Port("cu_seqlens", "ends", Kind.INT32),
)
_CPU = CpuKernel(
    "varlen_attention.cpp",
    types=("float32", "bfloat16"),
    vectorised=True,
    tiles="varlen_attention_amx.cpp",
)
_RULES = ("1 <= ends", "0 <= max_length")

VARLEN_ATTENTION = register(
    Plugin(
        "VarlenAttention",
        "Attention within sequences that lie end to end.",
        inputs=_INPUTS,
        outputs=(Port("output", _HEADS),),
        body=_BODY % _ALL,
        attributes={"scale": 0.0, "max_length": 0},
        rules=_RULES,
        kernels={
            "cpu": _CPU,
            "cuda": CudaKernel(
                "varlen_attention.cu",
                types=("float16",),
                limits=(Limit("heads"), Limit("depth", most=128, multiple=8)),
                capability=80,
            ),
        },
    )
)
VARLEN_WINDOW_ATTENTION = register(
    Plugin(
        "VarlenWindowAttention",
        "Attention within a sliding window of sequences that lie end to end.",
        inputs=(*_INPUTS, Port("places", "total", Kind.INT32)),
        outputs=(Port("output", _HEADS),),
        body=_BODY % _NEAR,
        attributes={"scale": 0.0, "max_length": 0, "window": 0},
        rules=(*_RULES, "0 <= window"),
        kernels={"cpu": _CPU},
    )
)
