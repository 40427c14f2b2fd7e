"""`tokens.merge`: the most alike tokens become one behind the attention of chosen blocks."""

from __future__ import annotations

import onnx_ir as ir

from edgec.core.errors import RequestError
from edgec.passes.infra import register
from edgec.passes.tokens.importance import attention_received
from edgec.passes.tokens.reduce import Sweep
from edgec.passes.tokens.reduction import TokenReduction
from edgec.passes.tokens.schedule import Schedule
from edgec.passes.tokens.sites import Site
from edgec.plugins.ops.token_transform.op import TEMPERATURE

MATCHINGS = {"bipartite": "TokenMerge", "energy": "TokenMergeEnergy", "many-to-many": "TokenTransform"}


@register
class MergeTokens(TokenReduction):
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
      `TokenRestore`, which gives each its group's value; `tokens.restore` makes that better.
    - An attention whose block cannot be reduced is left alone: windows, biases for each pair of
      tokens, causal order, channels, no residual connection.

    Lossy: gated on the user's budget. ToMe (arXiv 2210.09461). As options PiToMe's matching by energy (arXiv
    2405.16148) and Token Transforming's many-to-many weights (arXiv 2506.05709), where the r least attended
    tokens (see `tokens.prune`) are spread over all that stay.

    Args:
        schedule: r by site; `DEFAULT_R` at every site where not given.
        matching: one of `MATCHINGS`.
        margin: PiToMe's margin.
        temperature: of the many-to-many weights.
        proportional: weigh merged tokens by their size in attention.
    """

    name = "tokens.merge"

    def __init__(
        self,
        schedule: Schedule | None = None,
        *,
        matching: str = "bipartite",
        margin: float = 0.5,
        temperature: float = TEMPERATURE,
        proportional: bool = True,
    ) -> None:
        if matching not in MATCHINGS:
            raise RequestError(
                f"no matching is named {matching!r}", fix=f"choose from {', '.join(MATCHINGS)}"
            )
        if not temperature > 0.0:
            raise RequestError(f"the temperature {temperature:g} is not positive", fix=f"try {TEMPERATURE}")
        super().__init__(schedule, proportional=proportional)
        self.matching = matching
        self.margin = margin
        self.temperature = temperature

    @property
    def most(self) -> int:
        """Pairs, but for many-to-many."""
        return 1 if self.matching == "many-to-many" else 2

    def reducing_op(self, sweep: Sweep, site: Site) -> tuple[str, list[ir.Value], dict[str, object]]:
        """The matching's op on the attention's keys."""
        key = site.attention.inputs[1]
        assert key is not None
        op_type = MATCHINGS[self.matching]
        if self.matching == "many-to-many":
            score = attention_received(sweep, site, row=site.class_token)
            return op_type, [score, key], {"temperature": self.temperature}
        return op_type, [key], {"margin": self.margin} if self.matching == "energy" else {}
