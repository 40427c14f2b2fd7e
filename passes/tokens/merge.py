"""`tokens.merge`: the most alike tokens become one behind the attention of chosen blocks."""

from __future__ import annotations

import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN
from edgec.core.errors import RequestError
from edgec.passes.editing import Editor
from edgec.passes.infra import MatchLog, Pass, register
from edgec.passes.tokens.reduce import Sweep
from edgec.passes.tokens.schedule import Schedule, even
from edgec.passes.tokens.sites import Site, find_sites

DEFAULT_R = 8
"""Tokens a block where no schedule is given; ToMe's mildest setting for ViTs of about 200 tokens."""

MATCHINGS = {"bipartite": "TokenMerge", "energy": "TokenMergeEnergy"}


@register
class MergeTokens(Pass):
    """Merge the most alike tokens behind the attention of each scheduled block.

    Before::

        x (B,N,C) ─┬─ norm ─ Attention ─ proj ── Add ─┬─ norm ─ MLP ── Add ── … ─ Attention ─ …
                   └─────────────────────────────────┘└────────────────┘

    After::

        K ──────────────────────────────┐             sizes ── Log ─────────────────┐
        … Attention ─ proj ── Add ── TokenMerge(r) ─┬─ norm ─ MLP ── Add ── … ─ Attention ─ …
                              ones ───┘       (B,N-r,C)

    - Likeness is the cosine of the attention's keys, summed over heads. Class, distillation and
      register tokens stay.
    - Everything behind follows: shapes, and the later attentions, which weigh a token by its size
      (proportional attention). A padding mask becomes sizes of 0.
    - Whatever needs all tokens (dense outputs, pooling, a convolution) reads them through a
      `TokenRestore`, which gives each its group's value.
    - An attention whose block cannot be reduced is left alone: windows, biases for each pair of
      tokens, causal order, channels, no residual connection.

    Lossy: gated on the user's budget. ToMe (arXiv 2210.09461); PiToMe's matching by energy (arXiv
    2405.16148) as an option.

    Args:
        schedule: r by site; `DEFAULT_R` at every site where not given.
        matching: one of `MATCHINGS`.
        margin: PiToMe's margin.
        proportional: weigh merged tokens by their size in attention.
    """

    name = "tokens.merge"
    after = ("fuse.attention",)
    exact = False

    def __init__(
        self,
        schedule: Schedule | None = None,
        *,
        matching: str = "bipartite",
        margin: float = 0.5,
        proportional: bool = True,
    ) -> None:
        if matching not in MATCHINGS:
            raise RequestError(
                f"no matching is named {matching!r}", fix=f"choose from {', '.join(MATCHINGS)}"
            )
        self.schedule = schedule
        self.matching = matching
        self.margin = margin
        self.proportional = proportional

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Reduce in place."""
        sites = find_sites(model, log)
        schedule = even(sites, DEFAULT_R) if self.schedule is None else self.schedule
        reductions = schedule.reductions(sites)
        if reductions:
            Sweep(
                Editor(model, self.name, log),
                reductions,
                self._insert,
                restore=None if schedule.restore is None else sites[schedule.restore],
                proportional=self.proportional,
            ).run(log)

    def _insert(self, sweep: Sweep, site: Site, stream: ir.Value, sizes: ir.Value, r: int) -> ir.Value:
        attributes: dict[str, object] = {"r": r, "protected": site.protected}
        if self.matching == "energy":
            attributes["margin"] = self.margin
        return sweep.insert(
            MATCHINGS[self.matching],
            [stream, site.attention.inputs[1], sizes],
            like=site.attention,
            attributes=attributes,
            domain=EDGEC_DOMAIN,
            outputs=3,
        )
