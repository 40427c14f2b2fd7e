"""How many tokens to take away, and where."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from edgec.core.errors import RequestError
from edgec.passes.tokens.flow import Chain
from edgec.passes.tokens.readers import Obstacle
from edgec.passes.tokens.sites import Site
from edgec.plugins.ops.token_steps import largest_r


@dataclasses.dataclass(frozen=True)
class Schedule:
    """r by site index; a site that is not named keeps its tokens.

    Attributes:
        rates: site index → tokens to take away there.
        restore: the site behind whose attention all tokens are there again; None to restore only
            where something needs them all.
    """

    rates: Mapping[int, int]
    restore: int | None = None

    @property
    def name(self) -> str:
        """`3:40+6:40+9:all`: what `parse` reads back; `none` for no reduction."""
        parts = {site: str(r) for site, r in self.rates.items() if r}
        if not parts:
            return "none"
        if self.restore is not None:
            parts[self.restore] = "all"
        return "+".join(f"{site}:{text}" for site, text in sorted(parts.items()))

    @classmethod
    def parse(cls, text: str, sites: Sequence[Site], *, most: int = 2) -> Schedule:
        """The schedule that `--tokens` names, for the sites a graph has.

        `r=N` takes N at every site, less where fewer can go; `keep=F` leaves the fraction F of a
        sequence's tokens behind its last site, the same number taken at each; `SITE:R+SITE:R` is exact,
        and `SITE:all` in it restores all tokens there.

        Raises:
            RequestError: the text is none of these, or the tokens do not allow it.
        """
        if text == "none":
            return cls({})
        key, _, number = text.partition("=")
        try:
            if key == "r":
                return even(sites, _positive(number), most=most)
            if key == "keep":
                return keeping(sites, float(number), most=most)
            parts = [part.split(":") for part in text.split("+")]
            named = {int(site): value for site, value in parts}
            if len(named) != len(parts):
                raise ValueError
            restored = [site for site, value in named.items() if value == "all"]
            rates = {site: int(value) for site, value in named.items() if value != "all"}
            schedule = cls(rates, *restored)
        except (ValueError, TypeError):
            raise RequestError(
                f"--tokens {text!r} is no schedule", fix="write r=N, keep=F or SITE:R+SITE:R, as 3:40+6:40"
            ) from None
        schedule.reductions(sites, most=most)
        return schedule

    def reductions(self, sites: Sequence[Site], *, most: int = 2) -> list[tuple[Site, int]]:
        """The sites with their r, in order.

        Args:
            sites: of the graph.
            most: 2 where tokens leave in pairs, at most half at a time; 1 where all but one can.

        Raises:
            RequestError: a site does not exist, or its tokens do not allow the r.
        """
        for index in (*self.rates, *(() if self.restore is None else (self.restore,))):
            if not 0 <= index < len(sites):
                raise RequestError(
                    f"the token schedule {self.name} names layer {index}",
                    fix=f"choose layers from 0 to {len(sites) - 1}"
                    if sites
                    else "this graph has none to reduce",
                )
        found = []
        for site in sites:
            r = self.rates.get(site.index, 0)
            there = before(sites, self.rates, site, self.restore)
            limit = _limit(sites, self.rates, site, self.restore, most)
            if not 0 <= r <= limit:
                raise RequestError(
                    f"the token schedule {self.name} takes {r} of {there} tokens away "
                    f"({site.protected} protected)",
                    where=f"layer {site.index}, {site.layer}",
                    fix=f"choose at most {limit} there",
                )
            if r:
                found.append((site, r))
        return found


def before(sites: Sequence[Site], rates: Mapping[int, int], site: Site, restore: int | None = None) -> int:
    """The tokens that a site's attention sees.

    Args:
        sites: of the graph.
        rates: r by site index.
        site: one of them.
        restore: the site behind whose attention all tokens are there again.

    Raises:
        RequestError: reduced tokens meet others where they cannot be restored.
    """
    query = site.attention.inputs[0]
    return site.length - sum(rates[index] for index in _chain(sites, rates, query, restore))


def room(sites: Sequence[Site], rates: Mapping[int, int], site: Site, *, most: int) -> int:
    """The largest r at a site behind the reductions of `rates`; 0 where it cannot be reduced with them."""
    try:
        return _limit(sites, {**rates, site.index: 1}, site, None, most)
    except RequestError:
        return 0


def _limit(
    sites: Sequence[Site], rates: Mapping[int, int], site: Site, restore: int | None, most: int
) -> int:
    row = _chain(sites, rates, site.stream, restore)
    if row != _chain(sites, rates, site.attention.inputs[1], restore):
        return 0  # its keys tell nothing of the tokens that stand behind its block
    return largest_r(site.length - sum(rates[index] for index in row), site.protected, most=most)


def _chain(
    sites: Sequence[Site], rates: Mapping[int, int], value: ir.Value | None, restore: int | None
) -> Chain:
    """The reductions that a value's tokens have behind them.

    Raises:
        RequestError: reduced tokens meet others where they cannot be restored.
    """
    reduced = {site.stream: site.index for site in sites if rates.get(site.index)}
    restored = None if restore is None else sites[restore].stream
    if not reduced or value is None:
        return ()
    try:
        return sites[0].flow.chains(reduced, restored).get(value, ())
    except Obstacle as obstacle:
        raise RequestError(
            f"the token schedule {Schedule(rates, restore).name} lets tokens that it reduces meet others in "
            f"{obstacle}",
            fix="leave some of its layers out",
        ) from None


def even(sites: Sequence[Site], r: int, *, most: int = 2) -> Schedule:
    """R at every site, or as many as its tokens allow (ToMe's constant schedule)."""
    rates: dict[int, int] = {}
    for site in sites:
        rates[site.index] = min(r, room(sites, rates, site, most=most))
    return Schedule(rates)


def keeping(sites: Sequence[Site], fraction: float, *, most: int = 2) -> Schedule:
    """So many at every site, the same along a sequence, that `fraction` of its tokens is left at its end.

    Raises:
        RequestError: the fraction is not between 0 and 1.
    """
    if not 0.0 < fraction <= 1.0:
        raise RequestError(f"--tokens keep={fraction:g} is no fraction", fix="choose one above 0, up to 1")
    rates: dict[int, int] = {}
    steps = reductions_in_a_row(sites)
    for site in sites:
        each = round((1.0 - fraction) * site.length / steps[site.index])
        rates[site.index] = min(each, room(sites, rates, site, most=most))
    return Schedule(rates)


def reductions_in_a_row(sites: Sequence[Site]) -> dict[int, int]:
    """By site: how many sites tokens pass from full length on, on the longest way through it."""
    rates: dict[int, int] = {}
    for site in sites:
        rates[site.index] = int(room(sites, rates, site, most=1) > 0)
    found = dict.fromkeys(rates, 1)
    for site in sites:
        row = (*_chain(sites, rates, site.stream, None), site.index)
        for index in row:
            found[index] = max(found[index], len(row))
    return found


def _positive(text: str) -> int:
    r = int(text)
    if r < 0:
        raise RequestError(f"--tokens r={r} is negative", fix="choose 0 or more")
    return r
