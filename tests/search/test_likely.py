"""Which engines are built of what is left of a network, by those of the whole one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from edgec.core.numerics import GATES, compare
from edgec.core.timing import Latency
from edgec.judging.gates import GateResult
from edgec.search.likely import likely
from edgec.search.trials import Choice, Trial
from edgec.targets.base import Candidate, Offer

EXACT = Candidate("fast", "fp32", "plain")
FUSED = Candidate("fast", "fp32", "fused")
HALF = Candidate("fast", "bf16", "plain")
INT8 = Candidate("fast", "int8", "plain", rest="bf16", scheme="static")
KEPT = INT8.keeping(("head",))
SLOW = Candidate("slow", "fp32", "plain")


def _choice(last: list[Candidate], others: list[Candidate]) -> Choice:
    trials = [Trial(each, Path("nowhere"), beside_peers=each in last) for each in (*last, *others)]
    return Choice(trials[0], trials, {}, None)


def _found(offered: list[Candidate], whole: Choice | None) -> list[Candidate]:
    return [offer.candidate for offer in likely([Offer(each) for each in offered], whole)]


def _gate(*, passes: bool) -> GateResult:
    found = np.arange(4.0)
    difference = compare([{"y": found}], [{"y": found if passes else -found}])
    return GateResult("it", difference, GATES["fp32"], 1)


def test_all_are_tried_where_nothing_is_known_of_a_whole_network() -> None:
    offered = [EXACT, SLOW, HALF, INT8]
    assert _found(offered, None) == offered


def test_what_lost_clearly_on_the_whole_network_is_left_out() -> None:
    assert _found([EXACT, SLOW, HALF, INT8], _choice([INT8, EXACT], [SLOW, HALF])) == [EXACT, INT8]


def test_what_the_whole_network_was_not_offered_is_tried() -> None:
    assert _found([EXACT, FUSED, SLOW], _choice([EXACT], [SLOW])) == [EXACT, FUSED]


def test_high_precision_layers_are_tried_again_in_the_same_form_only() -> None:
    whole = _choice([KEPT, EXACT], [INT8])
    assert _found([EXACT, INT8], whole) == [EXACT, KEPT]
    elsewhere = [dataclasses.replace(each, form="fused") for each in (EXACT, INT8)]
    assert _found(elsewhere, whole) == elsewhere


def test_where_all_lost_all_are_tried() -> None:
    assert _found([SLOW, HALF], _choice([INT8], [SLOW, HALF])) == [SLOW, HALF]


def test_where_the_nearest_variants_are_offered_no_more_the_fastest_of_the_others_stands_for_them() -> None:
    whole = _choice([EXACT, INT8], [SLOW, FUSED, HALF])
    for trial, milliseconds in zip(whole.trials, (1.0, 0.5, 4.0, 3.0, 2.0), strict=True):
        trial.latency = Latency((milliseconds,), (milliseconds,))
        trial.gates = [_gate(passes=True)]
    offers = [Offer(EXACT, "it computes what was taken away"), Offer(SLOW), Offer(FUSED), Offer(HALF)]
    assert [offer.candidate for offer in likely(offers, whole)] == [FUSED]
    whole.trials[3].gates = [_gate(passes=False)]
    assert [offer.candidate for offer in likely(offers, whole)] == [SLOW]
