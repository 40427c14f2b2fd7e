"""`tokens.prune`: the least important tokens leave behind the attention of chosen blocks."""

from __future__ import annotations

import onnx_ir as ir

from edgec.passes.infra import register
from edgec.passes.tokens.importance import attention_received
from edgec.passes.tokens.reduce import Sweep
from edgec.passes.tokens.reduction import TokenReduction
from edgec.passes.tokens.schedule import Schedule
from edgec.passes.tokens.sites import Site


@register
class PruneTokens(TokenReduction):
    """Take the least attended tokens away, each into its most alike kept one.

    Before::

        … Attention ─ proj ── Add ─┬─ norm ─ MLP ── Add ── …

    After::

        Q[class] ─┐   (Q of all, weighed by their sizes, where there is no class token)
        K ────────┴─ MatMul ─ Softmax ─ ReduceMean ── score ─┐
        … Attention ─ proj ── Add ─────────────────── TokenPrune(r) ─┬─ norm ─ MLP ── Add ── …
                                                      (B,N-r,C)

    - Importance is the class token's attention, mean over heads (EViT, arXiv 2202.07800). A class token is
      the first whose row the network's outputs read, alone or with others; learned tokens that nothing reads
      are registers. Where there is none, importance is the attention received from all tokens (Learned Token
      Pruning, arXiv 2107.00910), each as often as its size: padding asks nothing.
    - Padding leaves first. With `merge` the leaving tokens are averaged into the kept ones
      (Multi-Scale And Token Mergence, arXiv 2306.04897) and attention weighs by size as in
      `tokens.merge`; without, they are dropped.
    - `calibrate` finds a schedule by a threshold on the importance instead of by r.
    - The rest is as in `tokens.merge`: what cannot be reduced, and what is restored.

    Lossy: gated on the user's budget.

    Args:
        schedule: r by site; `tokens.merge`'s default where not given.
        merge: whether leaving tokens are averaged into kept ones.
    """

    name = "tokens.prune"
    after = ("fuse.attention", "tokens.merge")

    def __init__(self, schedule: Schedule | None = None, *, merge: bool = True) -> None:
        super().__init__(schedule, proportional=merge)
        self.merge = merge

    @property
    def most(self) -> int:
        """All but one."""
        return 1

    def reducing_op(self, sweep: Sweep, site: Site) -> tuple[str, list[ir.Value], dict[str, object]]:
        """TokenPrune by the attention received."""
        key = site.attention.inputs[1]
        assert key is not None
        score = attention_received(sweep, site, row=site.class_token)
        return "TokenPrune", [score, key], {"merge": int(self.merge)}
