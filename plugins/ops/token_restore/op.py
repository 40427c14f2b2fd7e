"""`ai.edgec::TokenRestore`: reduced tokens spread back over all the places they stand for.

`tokens` (B, M, C) and `assignment` (B, N) int32 with values in 0 … M - 1 give `restored` (B, N, C),
`restored[b, n] = tokens[b, assignment[b, n]]`: the un-merge that dense outputs need (ToMe for stable
diffusion, arXiv 2303.17604; Hourglass Tokenizer, arXiv 2311.12028). Values are copied, never computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgec.plugins.infra import Plugin, register
from edgec.plugins.ops import token_steps

_RESTORE = """
  last = Constant <value_ints = [-1]> ()
  rows = Shape (assignment)
  width = Shape <start = 2, end = 3> (tokens)
  full = Concat <axis = 0> (rows, width)
  column = Unsqueeze (assignment, last)
  place = Expand (column, full)
  restored = GatherElements <axis = 1> (tokens, place)
"""


def _restore() -> ir.Function:
    return token_steps.define("TokenRestore", "", "tokens, assignment", "restored", _RESTORE)


def _infer(node: ir.Node) -> Sequence[tuple[ir.Shape, ir.DataType]]:
    tokens, assignment = node.inputs
    if tokens is None or tokens.shape is None or tokens.dtype is None or len(tokens.shape) != 3:
        raise ValueError(f"{node.name}: tokens must be (batch, tokens, channels) of a known dtype")
    if assignment is None or assignment.shape is None or len(assignment.shape) != 2:
        raise ValueError(f"{node.name}: assignment must be (batch, tokens)")
    return ((ir.Shape([tokens.shape[0], assignment.shape[1], tokens.shape[2]]), tokens.dtype),)


TOKEN_RESTORE = register(
    Plugin(
        "TokenRestore",
        _restore,
        _infer,
        "Give every original token the value of the reduced token it went into.",
    )
)
