"""`ai.edgec::TokenTransform`: the r least important tokens are spread over all the others.

It takes what TokenPrune takes:

- `tokens` (B, N, C), any float type;
- `score` (B, N), any float type: importance, such as the class token's attention;
- `metric` (B, H, N, D), any float type: what likeness is measured on, summed over H;
- `sizes` (B, N, 1): how many original tokens each one stands for; 0 marks padding, which leaves
  before everything else and has no weight;

and the attributes `r`, how many tokens leave; `protected`, how many leading tokens stay as they are and
receive nothing; `temperature`, positive: how sharply likeness decides. It gives

- `transformed` (B, N - r, C), in the order of the tokens that stay;
- `transformed_sizes` (B, N - r, 1); their sum is that of `sizes`, padding aside;
- `shares` (B, N, N - r) float32: how much of each token went to each that stays. A row sums to 1; a token
  that stays keeps all of itself. `shares · y` spreads later values y (B, N - r, C) over all tokens again.

This is the matrix form X' = T X of Token Transforming (Zeng et al., arXiv 2506.05709) with many-to-many
weights: a token that leaves goes to all free tokens that stay, in the proportions

    shares[n, m] = softmax over m of cosine(key_n, key_m) / temperature

and one that stays receives from all that leave, T[m, n] = shares[n, m] size_n / sum over n of the same.
Taken from the paper are the matrix form, its many-to-many weights by likeness between the informative
tokens and all others, and the inverse map for dense outputs. The score, the temperature and the weighing by
size are edgec's own choice. As the temperature goes to 0 it becomes TokenPrune with `merge`.

Who leaves is decided as in TokenPrune: among equal scores the higher index first, `NaN` scores before any
number. At least one free token stays: r ≤ N - protected - 1. A `NaN` or infinity in `tokens` spreads to every
token of its sample in that channel, because 0 · NaN is NaN.
"""

from __future__ import annotations

import functools

from edgec.plugins.infra import Kind, Plugin, Port, register
from edgec.plugins.ops import token_steps

TEMPERATURE = 0.05
"""The temperature where none is given: a cosine 0.1 lower gets a seventh of the share."""

_RANKED = """
  keys = Identity (summed)
  place64 = Range (zero64, length, one64)
  place32 = Cast <to = 6> (place64)
  guarded = Less (place32, protected32)
  guarded_row = Unsqueeze (guarded, axis0)
  always = Neg (never)
  token_size = Squeeze (token_size32, last)
  real = Greater (token_size, zero)
  by_score = Where (real, importance, never)
  ranked = Where (guarded_row, always, by_score)
"""

_SHARES = """
  out_length = Sub (length, r64)
  out_length32 = Cast <to = 6> (out_length)
  stays = Less (rank, out_length32)
  removed = Not (stays)
  removed_row = Unsqueeze (removed, axis1)
  removed_earlier = And (removed_row, earlier)
  removed_earlier32 = Cast <to = 6> (removed_earlier)
  gone = ReduceSum <keepdims = 0> (removed_earlier32, last)
  position = Sub (index, gone)
  none32 = Cast <to = 6> (minus1)
  slot_of = Where (stays, position, none32)
  slot_row = Unsqueeze (slot_of, axis1)
  slot64 = Range (zero64, out_length, one64)
  slot = Cast <to = 6> (slot64)
  slot_column = Unsqueeze (slot, axis1)
  chosen = Equal (slot_row, slot_column)
  select = Cast <to = 1> (chosen)
  unit = Mul (keys, inverse_norm)
  host = MatMul (select, unit)
  host_t = Transpose <perm = [0, 2, 1]> (host)
  cosine = MatMul (unit, host_t)
  temperature_value = Constant <value_float: float = @temperature> ()
  sharp = Div (cosine, temperature_value)
  guarded_slot = Less (slot, protected32)
  logits = Where (guarded_slot, never, sharp)
  soft = Softmax <axis = -1> (logits)
  own = Transpose <perm = [0, 2, 1]> (select)
  stays_column = Unsqueeze (stays, last)
  shares = Where (stays_column, own, soft)
"""

_AVERAGE = """
  token32 = Cast <to = 1> (tokens)
  weighted = Mul (token32, token_size32)
  into = Transpose <perm = [0, 2, 1]> (shares)
  total = MatMul (into, weighted)
  mass = MatMul (into, token_size32)
  mass_floor = Max (mass, tiny)
  average = Div (total, mass_floor)
  transformed = CastLike (average, tokens)
  transformed_sizes = CastLike (mass, sizes)
"""


TOKEN_TRANSFORM = register(
    Plugin(
        "TokenTransform",
        "Spread the r least important tokens over the others by likeness (Token Transforming, "
        "arXiv 2506.05709).",
        inputs=(
            token_steps.TOKENS,
            token_steps.SCORE,
            token_steps.METRIC,
            token_steps.SIZES,
        ),
        outputs=(
            Port("transformed", "batch, length - r, channels"),
            Port("transformed_sizes", "batch, length - r, 1", Kind.FLOAT32),
            Port("shares", "batch, length, length - r", Kind.FLOAT32),
        ),
        body=token_steps.CONSTANTS
        + token_steps.SUMMED
        + token_steps.IMPORTANCE
        + _RANKED
        + token_steps.NORMS
        + token_steps.RANKS
        + _SHARES
        + _AVERAGE,
        attributes={"r": 0, "protected": 0, "temperature": TEMPERATURE},
        rules=token_steps.ONE_STAYS,
        check=functools.partial(token_steps.check_node, most=1),
    )
)
