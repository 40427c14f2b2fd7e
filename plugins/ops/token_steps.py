"""Steps that the definitions of the token ops share, in ONNX's textual form.

Every step keeps to ops that ONNX Runtime, OpenVINO, TensorRT and Core ML accept: no scatter, no sort and
no TopK (whose order of ties differs between engines). A token's rank is the number of tokens ahead of
it, counted in a comparison matrix; its place in the output is what is left of its index when the
tokens removed before it are taken away; averaging a group is a product with a 0/1 matrix.

All decisions are made in float32 and int32 whatever the graph's precision. `NaN` in a metric counts as
0 and its values are clipped to ±1e15, so that no drawn metric can make an order undefined.
"""

from __future__ import annotations

import onnx_ir as ir

from edgec.core.errors import RequestError
from edgec.plugins.infra import CpuKernel, CudaKernel, Kernels, Kind, Limit, Port

CONSTANTS = """
  axis0 = Constant <value_ints = [0]> ()
  axis1 = Constant <value_ints = [1]> ()
  axis2 = Constant <value_ints = [2]> ()
  step2 = Constant <value_ints = [2]> ()
  last = Constant <value_ints = [-1]> ()
  far = Constant <value_ints = [9223372036854775807]> ()
  minus1 = Constant <value_int = -1> ()
  zero64 = Constant <value_int = 0> ()
  one64 = Constant <value_int = 1> ()
  zero32 = Cast <to = 6> (zero64)
  one32 = Cast <to = 6> (one64)
  two32 = Add (one32, one32)
  zero = Constant <value_float = 0.0> ()
  one = Constant <value_float = 1.0> ()
  r64 = Constant <value_int: int = @r> ()
  protected64 = Constant <value_int: int = @protected> ()
  r32 = Cast <to = 6> (r64)
  protected32 = Cast <to = 6> (protected64)
  first = Reshape (protected64, axis1)
  batch = Shape <start = 0, end = 1> (tokens)
  length_ = Shape <start = 1, end = 2> (tokens)
  length = Squeeze (length_)
  token_size32 = Cast <to = 1> (sizes)
  free_size32 = Slice (token_size32, first, far, axis1)
  free_size = Squeeze (free_size32, last)
"""
"""Numbers; `free` tokens are those after the protected ones."""

SUMMED = """
  metric32 = Cast <to = 1> (metric)
  ordered = Equal (metric32, metric32)
  without_nan = Where (ordered, metric32, zero)
  bound = Constant <value_float = 1.0e15> ()
  minus_bound = Neg (bound)
  bounded = Clip (without_nan, minus_bound, bound)
  of_all = ReduceSum <keepdims = 0> (bounded, axis1)
  is_there = Greater (token_size32, zero)
  there = Cast <to = 1> (is_there)
  summed = Mul (of_all, there)
"""
"""`summed` (B, N, D): the metric summed over heads; nothing where the size is 0: padding is like no token."""

NORMS = """
  squared = Mul (keys, keys)
  square_norm = ReduceSum <keepdims = 1> (squared, last)
  tiny = Constant <value_float = 1.0e-30> ()
  square_norm_floor = Max (square_norm, tiny)
  norm = Sqrt (square_norm_floor)
  inverse_norm = Div (one, norm)
"""
"""`inverse_norm` (B, F, 1) of `keys` (B, F, D)."""

KEYS = f"""{SUMMED}
  keys = Slice (summed, first, far, axis1)
{NORMS}"""
"""`keys` (B, F, D): the metric of the free tokens summed over heads; `inverse_norm` (B, F, 1)."""

IMPORTANCE = """
  never = Constant <value_float = -3.0e38> ()
  lowest = Constant <value_float = -2.0e38> ()
  highest = Constant <value_float = 2.0e38> ()
  score32 = Cast <to = 1> (score)
  is_number = Equal (score32, score32)
  number = Where (is_number, score32, lowest)
  importance = Clip (number, lowest, highest)
"""
"""`importance` (B, N) from `score`: finite, NaN lowest; `never` lies below it."""

RANKS = """
  count_ = Shape <start = 1, end = 2> (ranked)
  count = Squeeze (count_)
  index64 = Range (zero64, count, one64)
  index = Cast <to = 6> (index64)
  index_row = Unsqueeze (index, axis0)
  index_column = Unsqueeze (index, axis1)
  earlier = Less (index_row, index_column)
  ranked_row = Unsqueeze (ranked, axis1)
  ranked_column = Unsqueeze (ranked, axis2)
  higher = Greater (ranked_row, ranked_column)
  equal = Equal (ranked_row, ranked_column)
  equal_earlier = And (equal, earlier)
  ahead = Or (higher, equal_earlier)
  ahead32 = Cast <to = 6> (ahead)
  rank = ReduceSum <keepdims = 0> (ahead32, last)
"""
"""`rank` (B, K) of the values `ranked` (B, K): highest first, the lower index first among equals."""

POSITIONS = """
  removed_row = Unsqueeze (removed, axis1)
  removed_earlier = And (removed_row, earlier)
  removed_earlier32 = Cast <to = 6> (removed_earlier)
  gone = ReduceSum <keepdims = 0> (removed_earlier32, last)
  place = Sub (index, gone)
  position = Add (place, protected32)
  target_position = GatherElements <axis = 1> (position, target)
  free_assignment = Where (removed, target_position, position)
"""
"""`free_assignment` (B, F) from `removed` (B, F) and, for those, the free token `target` (B, F)."""

ASSIGN = """
  guard64 = Range (zero64, protected64, one64)
  guard = Cast <to = 6> (guard64)
  guard_shape = Concat <axis = 0> (batch, first)
  guards = Expand (guard, guard_shape)
  assignment = Concat <axis = 1> (guards, free_assignment)
"""
"""`assignment` (B, N): the protected tokens keep their places in front."""

AVERAGE = """
  out_length = Sub (length, r64)
  slot64 = Range (zero64, out_length, one64)
  slot = Cast <to = 6> (slot64)
  slot_column = Unsqueeze (slot, axis1)
  assignment_row = Unsqueeze (assignment, axis1)
  member = Equal (assignment_row, slot_column)
  share = Cast <to = 1> (member)
  token32 = Cast <to = 1> (tokens)
  weighted = Mul (token32, weight)
  total = MatMul (share, weighted)
  mass = MatMul (share, weight)
  mass_floor = Max (mass, tiny)
  average = Div (total, mass_floor)
  merged = CastLike (average, tokens)
  merged_sizes = CastLike (mass, sizes)
"""
"""`merged` and `merged_sizes` from `assignment` and the tokens' `weight` (B, N, 1)."""


TOKENS = Port("tokens", "batch, length, channels")
METRIC = Port("metric", "batch, heads, length, depth")
SCORE = Port("score", "batch, length", Kind.FLOAT32)
SIZES = Port("sizes", "batch, length, 1", Kind.FLOAT32)

REDUCED = (
    Port("merged", "batch, length - r, channels"),
    Port("merged_sizes", "batch, length - r, 1", Kind.FLOAT32),
    Port("assignment", "batch, length", Kind.INT32),
)
"""Outputs of an op that takes tokens away."""

_SOME_ARE_FREE = ("0 <= r", "0 <= protected", "protected + 2 <= length")
PAIRS_LEAVE = (*_SOME_ARE_FREE, "2 * r <= length - protected")
"""Rules of merging by pairs."""

ONE_STAYS = (*_SOME_ARE_FREE, "r + 1 <= length - protected")
"""Rules of pruning."""

KERNELS: Kernels = {
    "cpu": CpuKernel("token_reduction.cpp", types=("float32", "bfloat16"), vectorised=True),
    # A sample's tokens are ranked in shared memory, and samples are one extent of the grid.
    "cuda": CudaKernel(
        "token_reduction.cu",
        workspace=True,
        limits=(
            Limit("channels"),
            Limit("batch", most=65535, may_be_open=True),
            Limit("length", most=2304),
        ),
    ),
}
"""Kernels of the ops that take tokens away."""


def check_node(node: ir.Node, *, most: int) -> None:
    """Refuse a node whose r is outside what its tokens allow, where their number is known.

    Args:
        node: its first input is tokens (B, N, C).
        most: as `largest_r` takes it.

    Raises:
        RequestError: r is negative or too large for the tokens there are.
    """
    tokens = node.inputs[0]
    length = (
        tokens.shape[1]
        if tokens is not None and tokens.shape is not None and len(tokens.shape) == 3
        else None
    )
    if isinstance(length, int):
        r, protected = (
            node.attributes[name].as_int() if name in node.attributes else 0 for name in ("r", "protected")
        )
        check_r(r, length, protected, most=most, what=node.op_type, where=node.name)


def largest_r(length: int, protected: int, *, most: int) -> int:
    """The most tokens that one step can take away: half of the free ones, or all but one."""
    free = length - protected
    return max(0, free // 2 if most == 2 else free - 1)


def check_r(r: int, length: int, protected: int, *, most: int, what: str, where: str | None = None) -> None:
    """Refuse an r outside what the tokens allow.

    Raises:
        RequestError: r is negative or larger than `largest_r`, or fewer than two tokens are free.
    """
    limit = largest_r(length, protected, most=most)
    if protected < 0 or length - protected < 2:
        raise RequestError(
            f"{what} needs two free tokens; {length} tokens with {protected} protected leave "
            f"{max(0, length - protected)}",
            where=where,
        )
    if not 0 <= r <= limit:
        raise RequestError(
            f"{what} with r={r} of {length} tokens ({protected} protected)",
            where=where,
            fix=f"choose r from 0 to {limit}",
        )
