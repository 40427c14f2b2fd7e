"""`ai.edgec::TokenPrune`: the r least important tokens leave, each into its most alike kept one.

It takes

- `tokens` (B, N, C), any float type;
- `score` (B, N), any float type: importance, such as the class token's attention;
- `metric` (B, H, N, D), any float type: what likeness is measured on, summed over H;
- `sizes` (B, N, 1): how many original tokens each one stands for; 0 marks padding, which leaves
  before everything else and has no weight;

and the attributes `r`, how many tokens leave; `protected`, how many leading tokens stay as they are and
receive none; `merge`: 1 averages a leaving token, weighted by size, into the kept free token of highest
cosine (Multi-Scale And Token Mergence, arXiv 2306.04897); 0 drops it. It gives

- `merged` (B, N - r, C), in the tokens' order;
- `merged_sizes` (B, N - r, 1);
- `assignment` (B, N) int32: where each token went; a dropped token's is the most alike kept one's, which is
  what it is restored from.

Among equal scores the higher index leaves first; `NaN` scores leave before any number. At least one free
token stays: r ≤ N - protected - 1. `NaN` in the tokens is treated as TokenMerge says.
"""

from __future__ import annotations

import functools

from edgec.plugins.infra import Plugin, register
from edgec.plugins.ops import token_steps

_IMPORTANCE = """
  free_importance = Slice (importance, first, far, axis1)
  real = Greater (free_size, zero)
  ranked = Where (real, free_importance, never)
"""

_NEAREST = """
  stay = Sub (count, r64)
  stay32 = Cast <to = 6> (stay)
  kept = Less (rank, stay32)
  removed = Not (kept)
  keys_t = Transpose <perm = [0, 2, 1]> (keys)
  inverse_norm_t = Transpose <perm = [0, 2, 1]> (inverse_norm)
  dot = MatMul (keys, keys_t)
  alike = Mul (dot, inverse_norm_t)
  kept_row = Unsqueeze (kept, axis1)
  open = Where (kept_row, alike, never)
  target64 = ArgMax <axis = -1, keepdims = 0> (open)
  target = Cast <to = 6> (target64)
"""

_WEIGHT = """
  merge64 = Constant <value_int: int = @merge> ()
  merge32 = Cast <to = 1> (merge64)
  free_share = Where (removed, merge32, one)
  ones_guard = Cast <to = 1> (guards)
  zero_guard = Mul (ones_guard, zero)
  one_guard = Add (zero_guard, one)
  share_flat = Concat <axis = 1> (one_guard, free_share)
  share_column = Unsqueeze (share_flat, last)
  weight = Mul (token_size32, share_column)
"""


TOKEN_PRUNE = register(
    Plugin(
        "TokenPrune",
        "Remove the r least important tokens, each merged into its most alike kept token.",
        inputs=(
            token_steps.TOKENS,
            token_steps.SCORE,
            token_steps.METRIC,
            token_steps.SIZES,
        ),
        outputs=token_steps.REDUCED,
        body=token_steps.CONSTANTS
        + token_steps.KEYS
        + token_steps.IMPORTANCE
        + _IMPORTANCE
        + token_steps.RANKS
        + _NEAREST
        + token_steps.POSITIONS
        + token_steps.ASSIGN
        + _WEIGHT
        + token_steps.AVERAGE,
        attributes={"r": 0, "protected": 0, "merge": 1},
        rules=token_steps.ONE_STAYS,
        check=functools.partial(token_steps.check_node, most=1),
        kernels=token_steps.KERNELS,
    )
)
