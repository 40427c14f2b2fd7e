"""`ai.edgec::TokenRestore`: reduced tokens spread back over all the places they stand for.

`tokens` (B, M, C) and `assignment` (B, N) int32 with values in 0 … M - 1 give `restored` (B, N, C),
`restored[b, n] = tokens[b, assignment[b, n]]`: the un-merge that dense outputs need (ToMe for stable
diffusion, arXiv 2303.17604; Hourglass Tokenizer, arXiv 2311.12028). Values are copied, never computed.
"""

from __future__ import annotations

from edgec.plugins.infra import CpuKernel, CudaKernel, Kind, Limit, Plugin, Port, register

_RESTORE = """
  last = Constant <value_ints = [-1]> ()
  rows = Shape (assignment)
  width = Shape <start = 2, end = 3> (tokens)
  full = Concat <axis = 0> (rows, width)
  column = Unsqueeze (assignment, last)
  place = Expand (column, full)
  restored = GatherElements <axis = 1> (tokens, place)
"""


TOKEN_RESTORE = register(
    Plugin(
        "TokenRestore",
        "Give every original token the value of the reduced token it went into.",
        inputs=(Port("tokens", "batch, kept, channels"), Port("assignment", "batch, length", Kind.INT32)),
        outputs=(Port("restored", "batch, length, channels"),),
        body=_RESTORE,
        kernels={
            "cpu": CpuKernel("token_restore.cpp"),
            "cuda": CudaKernel(
                "token_reduction.cu", limits=(Limit("channels"), Limit("batch", most=65535, may_be_open=True))
            ),
        },
    )
)
