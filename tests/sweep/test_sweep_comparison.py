"""What got worse from one sweep to the next."""

from __future__ import annotations

import dataclasses

import pytest

from edgec.sweep.comparison import compare
from edgec.sweep.rows import Row

GOOD = Row("m", "x86", "plain", "verified", p50=10.0, low=9.9, high=10.1, drop=0.001, machine="box")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"verdict": "refused", "reason": "no kernel"}, "was verified and is refused: no kernel"),
        ({"verdict": "failed"}, "is failed"),
        ({"p50": 11.0, "low": 10.9, "high": 11.1}, "takes 11.00 ms, before 10.00 ms"),
        ({"drop": 0.02}, "loses 2.00%, before 0.10%"),
    ],
)
def test_worse_one_way_is_better_the_other(change, said):
    other = dataclasses.replace(GOOD, **change)
    [worse] = compare([GOOD], [other])
    assert worse.worse
    assert said in str(worse)
    [better] = compare([other], [GOOD])
    assert not better.worse


@pytest.mark.parametrize(
    "change",
    [
        {"p50": 11.0, "low": 9.0, "high": 12.0},
        {"p50": 10.3, "low": 10.25, "high": 10.35},
        {"p50": 20.0, "low": 19.0, "high": 21.0, "machine": "another"},
        {"p50": 20.0, "low": None, "high": None},
        {"drop": 0.003},
        {"seconds": 99.0},
    ],
)
def test_noise_and_another_machine_are_no_change(change):
    assert compare([GOOD], [dataclasses.replace(GOOD, **change)]) == []


def test_a_cell_that_is_gone_is_worse_and_a_new_one_is_nothing():
    other = dataclasses.replace(GOOD, model="n")
    [gone] = compare([GOOD], [other])
    assert gone.worse
    assert "not there any more" in str(gone)
    assert compare([], [GOOD]) == []
    worst = dataclasses.replace(other, verdict="failed")
    assert [change.worse for change in compare([worst, GOOD], [other])] == [True, False]
