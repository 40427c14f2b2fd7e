"""Which engines of what is left of a network may be its fastest, by those of the whole network."""

from __future__ import annotations

from collections.abc import Sequence

from edgec.search.trials import Choice
from edgec.targets.base import Offer


def likely(offers: Sequence[Offer], whole: Choice | None) -> list[Offer]:
    """The offers worth building.

    Left out is what was clearly slower on the whole network, or broke its gate or the budget: less of a
    network is not computed better. High-precision layers that the whole network needed are offered too.

    Args:
        offers: of a target, for a graph that something was taken of.
        whole: the choice for the network that it was taken of; None where there is none.

    Returns:
        some of the offers, in their order, then those with high-precision layers; all where none is left.
    """
    if whole is None:
        return list(offers)
    known = {trial.candidate for trial in whole.trials}
    last = [trial.candidate for trial in whole.trials if trial.beside_peers or trial is whole.chosen]
    forms = {(offer.candidate.engine, offer.candidate.form) for offer in offers}
    found = [offer for offer in offers if offer.candidate in last or offer.candidate not in known]
    found += [Offer(each) for each in last if each.kept and (each.engine, each.form) in forms]
    return found or list(offers)
