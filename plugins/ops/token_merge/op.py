"""`ai.edgec::TokenMerge` and `ai.edgec::TokenMergeEnergy`: the most alike tokens become one.

Both take

- `tokens` (B, N, C), any float type;
- `metric` (B, H, N, D), any float type: what likeness is measured on, the keys of the attention before;
  summed over H, and the likeness is the cosine;
- `sizes` (B, N, 1): how many original tokens each one stands for; 0 marks padding, which has no weight
  in an average, merges before everything else, and has a likeness of 0 to every token;

and the attributes `r`, how many tokens to take away, and `protected`, how many leading tokens (class,
distillation, registers) stay as they are. The N - protected other tokens are free. They give

- `merged` (B, N - r, C): the size-weighted average of each group, in the order of the groups'
  surviving tokens;
- `merged_sizes` (B, N - r, 1);
- `assignment` (B, N) int32: the place in `merged` that each token went to.

**TokenMerge** is the bipartite soft matching of ToMe (Bolya et al., arXiv 2210.09461): of the free
tokens, those at even places look for the most alike one at odd places, and the r best matched of them
merge into it. Among equals the lower index wins, both as partner and in the order. r ≤ free // 2.

**TokenMergeEnergy** is PiToMe (Tran et al., arXiv 2405.16148): a token's energy is the sum over all free
tokens of f(cosine - margin); of the 2r tokens of highest energy, those of even rank merge into the most
alike of odd rank, and tokens that are like no other are left alone. PiToMe's f is ELU. Here it is x above 0
and x / (1 + |x|) below, which has ELU's value and slope at 0 and its limit of -1, and each term is rounded
to a multiple of 2^-16: no exponential and no order of summing makes engines rank differently.

The likeness of i and j is (keys_i · keys_j) · (1 / |keys_j|), times 1 / |keys_i| where tokens i are
ranked: each factor rounded to float32 in this order, so that a kernel that does the same decides the
same wherever the dot products are exact, and elsewhere up to rounding of the dot product.

A `NaN` or infinity in `tokens` reaches every token that it is averaged with: in the kernels its own
group, in the function body, where 0 · NaN is NaN, all tokens of its sample in that channel.
"""

from __future__ import annotations

import functools

from edgec.plugins.infra import Plugin, register
from edgec.plugins.ops import token_steps

_MATCH = """
  second = Add (first, axis1)
  first_even = Sub (first, first)
  even_key = Slice (keys, first_even, far, axis1, step2)
  odd_key = Slice (keys, axis1, far, axis1, step2)
  even_norm = Slice (inverse_norm, first_even, far, axis1, step2)
  odd_norm = Slice (inverse_norm, axis1, far, axis1, step2)
  odd_key_t = Transpose <perm = [0, 2, 1]> (odd_key)
  odd_norm_t = Transpose <perm = [0, 2, 1]> (odd_norm)
  dot = MatMul (even_key, odd_key_t)
  alike = Mul (dot, odd_norm_t)
  best = ReduceMax <keepdims = 0> (alike, last)
  partner64 = ArgMax <axis = -1, keepdims = 0> (alike)
  partner = Cast <to = 6> (partner64)
  even_norm_flat = Squeeze (even_norm, last)
  score = Mul (best, even_norm_flat)
  even_size = Slice (free_size, first_even, far, axis1, step2)
  real = Greater (even_size, zero)
  above = Constant <value_float = 2.0> ()
  ranked = Where (real, score, above)
"""

_PAIRS = """
  gone_even = Less (rank, r32)
  gone_row = Unsqueeze (gone_even, axis1)
  gone_before = And (gone_row, earlier)
  gone_before32 = Cast <to = 6> (gone_before)
  before = ReduceSum <keepdims = 0> (gone_before32, last)
  gone32 = Cast <to = 6> (gone_even)
  upto = Add (before, gone32)
  twice = Mul (index, two32)
  even_start = Add (twice, protected32)
  odd_start = Add (even_start, one32)
  even_place = Sub (even_start, before)
  odd_place = Sub (odd_start, upto)
  partner_place = GatherElements <axis = 1> (odd_place, partner)
  even_assignment = Where (gone_even, partner_place, even_place)
  even_column = Unsqueeze (even_assignment, axis2)
  odd_column = Unsqueeze (odd_place, axis2)
  both = Concat <axis = 2> (even_column, odd_column)
  flat_shape = Concat <axis = 0> (batch, last)
  flat = Reshape (both, flat_shape)
  free_length = Shape <start = 1, end = 2> (keys)
  free_assignment = Slice (flat, axis0, free_length, axis1)
"""

_ENERGY = """
  keys_t = Transpose <perm = [0, 2, 1]> (keys)
  inverse_norm_t = Transpose <perm = [0, 2, 1]> (inverse_norm)
  dot = MatMul (keys, keys_t)
  alike = Mul (dot, inverse_norm_t)
  cosine = Mul (alike, inverse_norm)
  margin_value = Constant <value_float: float = @margin> ()
  beyond = Sub (cosine, margin_value)
  above = Greater (beyond, zero)
  distance = Abs (beyond)
  distance1 = Add (distance, one)
  bent = Div (beyond, distance1)
  pull = Where (above, beyond, bent)
  unit = Constant <value_float = 65536.0> ()
  pull_units = Mul (pull, unit)
  pull_rounded = Round (pull_units)
  pull32 = Cast <to = 6> (pull_rounded)
  energy = ReduceSum <keepdims = 0> (pull32, last)
  real = Greater (free_size, zero)
  top64 = Constant <value_int = 1073741824> ()
  top = Cast <to = 6> (top64)
  ranked = Where (real, energy, top)
"""

_ENERGY_PAIRS = """
  twice_r = Mul (r32, two32)
  candidate = Less (rank, twice_r)
  half = Div (rank, two32)
  even_rank = Mul (half, two32)
  is_even = Equal (even_rank, rank)
  is_odd = Not (is_even)
  removed = And (candidate, is_even)
  receives = And (candidate, is_odd)
  receives_row = Unsqueeze (receives, axis1)
  never = Constant <value_float = -3.0e38> ()
  open = Where (receives_row, alike, never)
  target64 = ArgMax <axis = -1, keepdims = 0> (open)
  target = Cast <to = 6> (target64)
"""

_WEIGHT = """
  weight = Identity (token_size32)
"""

_TOKENS = (
    token_steps.TOKENS,
    token_steps.METRIC,
    token_steps.SIZES,
)

TOKEN_MERGE = register(
    Plugin(
        "TokenMerge",
        "Merge the r most alike pairs of tokens by bipartite soft matching (ToMe, arXiv 2210.09461).",
        inputs=_TOKENS,
        outputs=token_steps.REDUCED,
        body=token_steps.CONSTANTS
        + token_steps.KEYS
        + _MATCH
        + token_steps.RANKS
        + _PAIRS
        + token_steps.ASSIGN
        + _WEIGHT
        + token_steps.AVERAGE,
        attributes={"r": 0, "protected": 0},
        rules=token_steps.PAIRS_LEAVE,
        check=functools.partial(token_steps.check_node, most=2),
        kernels=token_steps.KERNELS,
    )
)

TOKEN_MERGE_ENERGY = register(
    Plugin(
        "TokenMergeEnergy",
        "Merge r pairs among the 2r tokens of highest energy (PiToMe, arXiv 2405.16148).",
        inputs=_TOKENS,
        outputs=token_steps.REDUCED,
        body=token_steps.CONSTANTS
        + token_steps.KEYS
        + _ENERGY
        + token_steps.RANKS
        + _ENERGY_PAIRS
        + token_steps.POSITIONS
        + token_steps.ASSIGN
        + _WEIGHT
        + token_steps.AVERAGE,
        attributes={"r": 0, "protected": 0, "margin": 0.5},
        rules=token_steps.PAIRS_LEAVE,
        check=functools.partial(token_steps.check_node, most=2),
        kernels=token_steps.KERNELS,
    )
)
