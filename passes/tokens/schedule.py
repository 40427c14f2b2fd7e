"""How many tokens to take away, and where."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from edgec.core.errors import RequestError
from edgec.passes.tokens.sites import Site
from edgec.plugins.token_steps import largest_r


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

        `r=N` takes N at every site, less where fewer can go; `keep=F` leaves the fraction F of all
        tokens after the last site, the same number taken at each; `SITE:R+SITE:R` is exact, and
        `SITE:all` in it restores all tokens there.

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
        taken, found = 0, []
        for site in sites:
            if site.index == self.restore:
                taken = 0
            r = self.rates.get(site.index, 0)
            limit = largest_r(site.length - taken, site.protected, most=most)
            if not 0 <= r <= limit:
                raise RequestError(
                    f"the token schedule {self.name} takes {r} of {site.length - taken} tokens away "
                    f"({site.protected} protected)",
                    where=f"layer {site.index}, {site.layer}",
                    fix=f"choose at most {limit} there",
                )
            if r:
                found.append((site, r))
                taken += r
        return found


def even(sites: Sequence[Site], r: int, *, most: int = 2) -> Schedule:
    """R at every site, or as many as its tokens allow (ToMe's constant schedule)."""
    rates, taken = {}, 0
    for site in sites:
        allowed = min(r, largest_r(site.length - taken, site.protected, most=most))
        rates[site.index] = allowed
        taken += allowed
    return Schedule(rates)


def keeping(sites: Sequence[Site], fraction: float, *, most: int = 2) -> Schedule:
    """The same r at every site, so that `fraction` of the tokens is left behind the last.

    Raises:
        RequestError: the fraction is not between 0 and 1.
    """
    if not 0.0 < fraction <= 1.0:
        raise RequestError(f"--tokens keep={fraction:g} is no fraction", fix="choose one above 0, up to 1")
    if not sites:
        return Schedule({})
    each = round((1.0 - fraction) * sites[0].length / len(sites))
    return even(sites, each, most=most)


def _positive(text: str) -> int:
    r = int(text)
    if r < 0:
        raise RequestError(f"--tokens r={r} is negative", fix="choose 0 or more")
    return r
