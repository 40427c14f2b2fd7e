"""Alternating blocks: everyone is measured, and ratios pair neighbours."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgec.core import timing
from edgec.core.disturbance import Patience
from edgec.core.timing import CONFIDENCE, SAME, Latency, measure, median_interval


def test_blocks_alternate_and_turn_round() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in ("a", "b")}
    found = measure(calls, blocks=3, block_seconds=0.0, warmup=1, settle_seconds=0.0)
    assert {len(latency.blocks) for latency in found.values()} == {3}
    runs = [name for index, name in enumerate(order) if index == 0 or order[index - 1] != name]
    # Warm-up a, b, then a b | b a | a b with equal neighbours run together.
    assert runs == ["a", "b", "a", "b", "a", "b"]
    assert min(len(latency.samples) for latency in found.values()) >= 9


def test_the_ratio_is_of_blocks_that_ran_side_by_side() -> None:
    # The machine slows down threefold half way: the ratio does not notice.
    slow = Latency((2.0, 2.0, 6.0, 6.0), (2.0,))
    fast = Latency((1.0, 1.0, 3.0, 3.0), (1.0,))
    assert slow.ratio_to(fast) == pytest.approx(2.0)
    assert fast.ratio_to(slow) == pytest.approx(0.5)


def test_one_disturbed_block_does_not_move_the_median() -> None:
    latency = Latency((1.0, 1.0, 50.0, 1.0, 1.0), (1.0, 1.0, 50.0, 1.0, 1.0))
    assert latency.p50 == 1.0
    assert latency.spread == pytest.approx(49.0)


def test_blocks_that_only_one_ran_in_are_left_out_of_the_ratio() -> None:
    both = Latency((2.0, 2.0), (2.0, 2.0))
    finalist = Latency((1.0, 1.0), (1.0, 1.0)).then(Latency((9.0, 9.0, 9.0), (9.0, 9.0, 9.0)))
    assert finalist.blocks == (1.0, 1.0, 9.0, 9.0, 9.0)
    assert len(finalist.samples) == 5
    assert both.ratio_to(finalist) == pytest.approx(2.0)


@pytest.mark.parametrize("count", [6, 9, 13, 21])
@pytest.mark.parametrize("noise", ["normal", "skewed", "few values"])
def test_an_interval_holds_the_true_median_as_often_as_it_says(count: int, noise: str) -> None:
    rng = np.random.default_rng(count)
    draw = {
        "normal": lambda: rng.normal(size=count),
        "skewed": lambda: np.exp(2 * rng.normal(size=count)) - 1,
        "few values": lambda: rng.integers(-2, 3, count).astype(float),
    }[noise]
    found = [median_interval(list(draw())) for _ in range(4000)]
    held = sum(interval.low <= 0 <= interval.high for interval in found) / len(found)
    assert held >= CONFIDENCE - 0.012  # three standard deviations of so many draws


def test_an_interval_is_no_wider_than_it_has_to_be() -> None:
    # The next pair inwards would miss the median too often.
    for count, place in ((6, 0), (8, 0), (9, 1), (12, 2), (15, 3)):
        values = [float(value) for value in range(count)]
        interval = median_interval(values)
        assert (interval.low, interval.high) == (place, count - 1 - place)
        missed = 2 * sum(math.comb(count, k) for k in range(place + 2)) / 2**count
        assert missed > 1 - CONFIDENCE


def test_few_blocks_say_nothing() -> None:
    two = Latency((2.0, 2.0), (2.0,)).ratio_interval(Latency((1.0, 1.0), (1.0,)))
    assert two.verdict == SAME
    assert two.to_json() is None


def test_a_verdict_comes_from_the_blocks_that_ran_side_by_side() -> None:
    # The machine drifts threefold; each pair says 5 % apart.
    drift = (1.0, 1.4, 3.0, 2.0, 1.1, 1.0, 2.6)
    slow = Latency(tuple(1.05 * load for load in drift), (1.0,))
    fast = Latency(drift, (1.0,))
    assert fast.ratio_interval(slow).verdict == "faster"
    assert slow.ratio_interval(fast).verdict == "slower"
    noisy = Latency(
        tuple(load * wobble for load, wobble in zip(drift, (0.5, 2, 0.7, 0.8, 1.5, 0.9, 0.6), strict=True)),
        (1.0,),
    )
    assert noisy.ratio_to(fast) == pytest.approx(0.8)
    assert noisy.ratio_interval(fast).verdict == SAME


class Machine:
    """Busy for so many looks at it; a call counts how often it ran until then, and since."""

    def __init__(self, busy: int) -> None:
        self.busy, self.looks = busy, 0

    def is_disturbed(self) -> bool:
        self.looks += 1
        return self.looks <= self.busy


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine(busy=3)
    monkeypatch.setattr(timing, "is_disturbed", found.is_disturbed)
    return found


def test_a_disturbed_round_is_measured_again(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Patience, "wait", lambda self: None)
    monkeypatch.setattr(
        timing, "_run_block", lambda call, seconds: [9.0 if machine.looks <= machine.busy else 1.0]
    )
    calls = {"a": lambda: None, "b": lambda: None}
    patience = Patience(60.0)
    found = measure(calls, blocks=2, settle_seconds=0.0, patience=patience)
    # Of both, the one that ran while the machine was quiet again too: their blocks stay pairs.
    assert found["a"].blocks == found["b"].blocks == (1.0, 1.0)
    assert (patience.rounds, patience.kept, found["a"].disturbed) == (1, 0, 0)
    assert 0 < patience.seconds < 60


def test_a_machine_that_does_not_get_quiet_is_measured_as_it_is_and_said(machine: Machine) -> None:
    machine.busy = 10**9
    patience = Patience(0.0)
    found = measure({"a": lambda: None}, blocks=3, block_seconds=0.0, settle_seconds=0.0, patience=patience)
    assert len(found["a"].blocks) == found["a"].disturbed == patience.kept == 3
    assert patience.said == (
        "the machine was busy with something else: 0 rounds of measuring ran again; it did not get quiet for "
        "3 more"
    )
    assert found["a"].then(found["a"]).disturbed == 6
