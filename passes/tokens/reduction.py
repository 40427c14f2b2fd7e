"""What the passes share that take tokens away: sites, schedule, and one sweep."""

from __future__ import annotations

import abc
from typing import ClassVar

import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN
from edgec.passes.editing import Editor
from edgec.passes.infra import MatchLog, Pass
from edgec.passes.tokens.reduce import Sweep
from edgec.passes.tokens.schedule import Schedule, even
from edgec.passes.tokens.sites import Site, find_sites

DEFAULT_R = 8
"""Tokens a block where no schedule is given; ToMe's mildest setting for ViTs of about 200 tokens."""


class TokenReduction(Pass):
    """A pass that takes r tokens away behind the attention of each scheduled block.

    Args:
        schedule: r by site; `DEFAULT_R` at every site where not given.
        proportional: whether attention weighs a reduced token by its size.
    """

    after: ClassVar[tuple[str, ...]] = ("fuse.attention",)
    exact = False

    def __init__(self, schedule: Schedule | None = None, *, proportional: bool = True) -> None:
        self.schedule = schedule
        self.proportional = proportional

    @property
    @abc.abstractmethod
    def most(self) -> int:
        """2 where tokens leave in pairs, at most half of the free ones at a time; 1 where all but one can."""

    @abc.abstractmethod
    def reducing_op(self, sweep: Sweep, site: Site) -> tuple[str, list[ir.Value], dict[str, object]]:
        """The op for a site: its type, its inputs between the tokens and their sizes, its own attributes."""

    def apply(self, model: ir.Model, log: MatchLog) -> None:
        """Reduce in place."""
        sites = find_sites(model, log)
        schedule = even(sites, DEFAULT_R, most=self.most) if self.schedule is None else self.schedule
        reductions = schedule.reductions(sites, most=self.most)
        if reductions:
            Sweep(
                Editor(model, self.name, log),
                reductions,
                self._insert,
                restore=None if schedule.restore is None else sites[schedule.restore],
                proportional=self.proportional,
            ).run(log)

    def _insert(self, sweep: Sweep, site: Site, stream: ir.Value, sizes: ir.Value, r: int) -> ir.Value:
        op_type, inputs, attributes = self.reducing_op(sweep, site)
        return sweep.insert(
            op_type,
            [stream, *inputs, sizes],
            like=site.attention,
            attributes={"r": r, "protected": site.protected, **attributes},
            domain=EDGEC_DOMAIN,
            outputs=3,
        )
