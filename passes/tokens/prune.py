"""`tokens.prune`: the least important tokens leave behind the attention of chosen blocks."""

from __future__ import annotations

import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN
from edgec.passes.editing import Editor, sizes
from edgec.passes.infra import MatchLog, Pass, register
from edgec.passes.tokens.merge import DEFAULT_R
from edgec.passes.tokens.reduce import Sweep, class_attention
from edgec.passes.tokens.schedule import Schedule, even
from edgec.passes.tokens.sites import Site, find_sites


@register
class PruneTokens(Pass):
    """Take the least attended tokens away, each into its most alike kept one.

    Before::

        … Attention ─ proj ── Add ─┬─ norm ─ MLP ── Add ── …

    After::

        Q[class] ─┐
        K ────────┴─ MatMul ─ Softmax ─ ReduceMean ── score ─┐
        … Attention ─ proj ── Add ─────────────────── TokenPrune(r) ─┬─ norm ─ MLP ── Add ── …
                                                      (B,N-r,C)

    - Importance is the class token's attention, mean over heads (EViT, arXiv 2202.07800); where no
      token is protected, the attention received from all tokens (Learned Token Pruning, arXiv 2107.00910).
    - Padding leaves first. With `merge` the leaving tokens are averaged into the kept ones
      (Multi-Scale And Token Mergence, arXiv 2306.04897) and attention weighs by size as in
      `tokens.merge`; without, they are dropped.
    - The rest is as in `tokens.merge`: what cannot be reduced, and what is restored.

    Lossy: gated on the user's budget.

    Args:
        schedule: r by site; `tokens.merge`'s default where not given.
        merge: whether leaving tokens are averaged into kept ones.
    """

    name = "tokens.prune"
    after = ("fuse.attention", "tokens.merge")
    exact = False

    def __init__(self, schedule: Schedule | None = None, *, merge: bool = True) -> None:
        self.schedule = schedule
        self.merge = merge

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Reduce in place."""
        sites = find_sites(model, log)
        schedule = even(sites, DEFAULT_R, most=1) if self.schedule is None else self.schedule
        reductions = schedule.reductions(sites, most=1)
        for site, _ in reductions:
            if not _scored(site):
                log.missed(site.attention, "its queries share keys; its attention is not scored")
        reductions = [(site, r) for site, r in reductions if _scored(site)]
        if reductions:
            Sweep(
                Editor(model, self.name, log),
                reductions,
                self._insert,
                restore=None if schedule.restore is None else sites[schedule.restore],
                proportional=self.merge,
            ).run(log)

    def _insert(self, sweep: Sweep, site: Site, stream: ir.Value, sizes: ir.Value, r: int) -> ir.Value:
        node = site.attention
        mask = node.inputs[3] if len(node.inputs) > 3 else None
        score = class_attention(sweep, site, mask)
        return sweep.insert(
            "TokenPrune",
            [stream, score, node.inputs[1], sizes],
            like=node,
            attributes={"r": r, "protected": site.protected, "merge": int(self.merge)},
            domain=EDGEC_DOMAIN,
            outputs=3,
        )


def _scored(site: Site) -> bool:
    """Whether each query head has keys of its own, so that the attention can be scored."""
    query, key = sizes(site.attention.inputs[0]), sizes(site.attention.inputs[1])
    return query is not None and key is not None and query[1] == key[1]
