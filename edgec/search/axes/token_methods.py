"""The ways to take tokens away, by the names that `--tokens` gives them, and a schedule in one of them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

from edgec.core.errors import RequestError
from edgec.passes.infra import Pass
from edgec.passes.tokens.merge import MergeTokens
from edgec.passes.tokens.prune import PruneTokens
from edgec.passes.tokens.schedule import Schedule
from edgec.passes.tokens.sites import Site
from edgec.plugins.ops.token_steps import largest_r


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to take tokens away.

    Attributes:
        name: in front of a schedule, `energy:4:60`; a schedule without one is `DEFAULT`'s.
        most: 2 where tokens leave in pairs, at most half at a time; 1 where all but one can.
        make: the pass of a schedule.
        meaning: what it does, a clause.
    """

    name: str
    most: int
    make: Callable[[Schedule], Pass]
    meaning: str


DEFAULT = "merge"

METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method(DEFAULT, 2, MergeTokens, "the most alike tokens become one"),
        Method(
            "energy",
            2,
            lambda schedule: MergeTokens(schedule, matching="energy"),
            "the most alike of the tokens that are like most others become one",
        ),
        Method(
            "many-to-many",
            1,
            lambda schedule: MergeTokens(schedule, matching="many-to-many"),
            "the least attended tokens are spread over all that stay, by likeness",
        ),
        Method("prune", 1, PruneTokens, "the least attended tokens are averaged into the most alike others"),
        Method(
            "drop", 1, lambda schedule: PruneTokens(schedule, merge=False), "the least attended tokens leave"
        ),
    )
}


SCORED = ("prune", "drop")
"""The methods that take tokens by their importance, which a threshold can stand for."""


@dataclasses.dataclass(frozen=True)
class TokenPlan:
    """A schedule in one of the methods."""

    method: Method
    schedule: Schedule

    @property
    def name(self) -> str:
        """What `--tokens` reads back: `4:60+8:30`, `prune:4:60`; `none` for no reduction."""
        name = self.schedule.name
        return name if self.method.name == DEFAULT or name == "none" else f"{self.method.name}:{name}"

    def step(self) -> Pass:
        """The pass that does it."""
        return self.method.make(self.schedule)

    def reductions(self, sites: Sequence[Site]) -> list[tuple[Site, int]]:
        """The sites with what each gives, in order.

        Raises:
            RequestError: a site does not exist, or its tokens do not allow the r.
        """
        return self.schedule.reductions(sites, most=self.method.most)


def split(text: str) -> tuple[Method, str]:
    """A method and the schedule's text behind it.

    Raises:
        RequestError: no method has the name, or no schedule follows.
    """
    name, colon, rest = text.partition(":")
    if not colon or not name.replace("-", "").isalpha():
        return METHODS[DEFAULT], text
    if name not in METHODS:
        raise RequestError(
            f"--tokens {text!r}: no method is named {name!r}", fix=f"choose from {', '.join(METHODS)}"
        )
    return METHODS[name], rest


def read_plan(text: str, sites: Sequence[Site]) -> TokenPlan:
    """The plan that `--tokens` names, for the sites a graph has.

    Args:
        text: `r=13`, `keep=0.6`, `4:60+8:30`, `none`, or one of these behind a method and a colon.
        sites: of the neutral graph.

    Raises:
        RequestError: the text is none of these, or the graph's tokens do not allow it.
    """
    method, schedule = split(text)
    if schedule.startswith("r="):
        _refuse_more_than_can_leave(text, method, schedule, sites)
    return TokenPlan(method, Schedule.parse(schedule, sites, most=method.most))


def threshold_of(text: str) -> tuple[Method, float] | None:
    """The method and the threshold of `prune:threshold=0.5`; None where a text names no threshold.

    Raises:
        RequestError: the method does not score its tokens.
    """
    method, schedule = split(text)
    if not schedule.startswith("threshold="):
        return None
    if method.name not in SCORED:
        raise RequestError(
            f"--tokens {text}: {method.name} does not score its tokens",
            fix=f"write {' or '.join(f'{name}:{schedule}' for name in SCORED)}",
        )
    return method, float(schedule.removeprefix("threshold="))


def check_words(text: str) -> None:
    """See early that a text can be a plan, before there is a graph.

    Raises:
        RequestError: it cannot.
    """
    if re.fullmatch(r"(.*:)?threshold=\d+(\.\d+)?", text):
        threshold_of(text)
        return
    _, schedule = split(text)
    if not re.fullmatch(r"none|r=\d+|keep=[\d.]+|\d+:(\d+|all)(\+\d+:(\d+|all))*", schedule):
        raise RequestError(
            f"--tokens {text!r} is no schedule",
            fix="write auto, r=N, keep=F or SITE:R+SITE:R, as 3:40+6:40; a method may stand in front, as "
            f"in prune:r=13 ({', '.join(METHODS)})",
        )


def _refuse_more_than_can_leave(text: str, method: Method, schedule: str, sites: Sequence[Site]) -> None:
    """Refuse an r that a sequence's first site cannot give: later ones take less where fewer are left.

    Raises:
        RequestError: it cannot.
    """
    number = schedule.removeprefix("r=")
    if not number.isdecimal():
        return
    first = {site.sequence: site for site in reversed(sites)}
    for site in first.values():
        limit = largest_r(site.length, site.protected, most=method.most)
        if int(number) > limit:
            how = "leave in pairs, at most half at a time" if method.most == 2 else "cannot all leave"
            raise RequestError(
                f"--tokens {text} takes more than one layer can give: its {site.length} tokens "
                f"({site.protected} protected) {how}",
                where=f"layer {site.index}, {site.layer}",
                fix=f"choose at most r={limit}",
            )
