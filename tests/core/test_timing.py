"""Alternating blocks: everyone is measured, and ratios pair neighbours."""

from __future__ import annotations

import pytest

from edgec.core.timing import Latency, measure


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
