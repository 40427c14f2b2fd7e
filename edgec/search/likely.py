"""Which engines of what is left of a network may be its fastest, by those of the whole network."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgec.search.trials import Choice, Trial
from edgec.targets.base import Offer


def likely(offers: Sequence[Offer], whole: Choice | None) -> list[Offer]:
    """The offers worth building.

    Left out is what was clearly slower on the whole network, or broke its gate or the budget: less of a
    network is not computed better. Where no variant that was near the fastest in a precision is offered any
    more (the exporter's own graph computes what was taken away, a kernel has no such widths), the fastest of
    those that are stands for it. High-precision layers that the whole network needed are offered too.

    Args:
        offers: of a target, for a graph that something was taken of.
        whole: the choice for the network that it was taken of; None where there is none.

    Returns:
        some of the offers, in their order, then those with high-precision layers; all where none is left.
    """
    if whole is None:
        return list(offers)
    known = {trial.candidate: trial for trial in whole.trials}
    last = [trial.candidate for trial in whole.trials if trial.beside_peers or trial is whole.chosen]
    offered = [offer for offer in offers if not offer.refused]
    forms = {(offer.candidate.engine, offer.candidate.form) for offer in offered}
    kept = [each for each in last if each.kept and (each.engine, each.form) in forms]
    wanted = {offer.candidate for offer in offered if offer.candidate in last or offer.candidate not in known}
    for precision in {each.precision for each in last} - {each.precision for each in (*wanted, *kept)}:
        alike = [offer.candidate for offer in offered if offer.candidate.precision == precision]
        wanted |= set(sorted(alike, key=lambda each: _milliseconds(known[each]))[:1])
    found = [offer for offer in offered if offer.candidate in wanted] + [Offer(each) for each in kept]
    return found or list(offers)


def _milliseconds(trial: Trial) -> float:
    return math.inf if trial.latency is None or not trial.passed else trial.latency.p50
