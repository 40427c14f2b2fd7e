"""Times of a kind of segment: what lies between the sizes that were timed."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from edgec.devices.segment_times import Dimension, SegmentTimes, points

HEADS, QUERIES, VALUES = Dimension("heads", 4), Dimension("qk_width", 64), Dimension("v_width", 64)


def times(law: Callable[..., float], *dimensions: Dimension, coarse: bool = False) -> SegmentTimes:
    wanted = points(dimensions, coarse=coarse)
    return SegmentTimes("layer", dimensions, {sizes: law(*sizes) for sizes in wanted})


def test_products_of_two_dimensions_and_their_sums_are_met_between_the_levels() -> None:
    def law(heads: int, queries: int, values: int) -> float:
        return 5 + 3 * heads + 0.2 * heads * queries + 0.1 * heads * values + 0.05 * queries

    found = times(law, HEADS, QUERIES, VALUES)
    for sizes in itertools.product((1, 2, 3, 4), (8, 24, 40, 64), (16, 40, 56)):
        assert found.at(sizes) == pytest.approx(law(*sizes), rel=1e-9)
    assert len(found.times) < 4 * 4 * 4  # not the whole grid


def test_a_step_is_seen_where_a_level_lies_on_each_side() -> None:
    found = times(lambda width: 1.0 if width <= 384 else 2.0, Dimension("mlp", 768))
    assert found.at([768]) == found.at([480]) == 2.0
    assert found.at([384]) == found.at([96]) == 1.0
    assert 1.0 < found.at([432]) < 2.0


def test_a_branch_that_has_gone_takes_nothing_whatever_else_is_cut() -> None:
    dimensions = (Dimension("mlp", 256), Dimension("branch", 1))
    found = times(lambda width, there: 0.25 + width * there, *dimensions)
    assert found.at([64, 0]) == found.at([256, 0]) == 0.25
    assert found.at([64, 1]) == pytest.approx(64.25)


def test_levels_are_multiples_that_can_leave() -> None:
    assert Dimension("mlp", 768).levels() == (768, 672, 576, 480, 384, 288, 192, 96)
    assert Dimension("heads", 3).levels() == (3, 2, 1)
    assert Dimension("heads", 12).levels() == (12, 9, 6, 3)
    assert Dimension("branch", 1).levels() == (1, 0)
    for step in (2, 8, 16):
        levels = Dimension("channels", 96, step).levels()
        assert all((96 - level) % step == 0 for level in levels)
        assert min(levels) > 0


def test_many_dimensions_are_timed_within_bounds_and_added_up() -> None:
    many = tuple(Dimension("channels", 64) for _ in range(12))
    found = times(lambda *sizes: float(sum(sizes)), *many)
    assert len(found.times) <= 48
    assert found.at([32] * 12) == pytest.approx(12 * 32)


def test_fewer_sizes_are_timed_of_a_small_kind() -> None:
    dimensions = (HEADS, QUERIES, VALUES)
    assert len(points(dimensions, coarse=True)) < len(points(dimensions)) / 2


def test_what_is_written_is_read_back() -> None:
    found = times(lambda width: float(width), Dimension("mlp", 64))
    assert SegmentTimes.from_json(found.to_json()) == found
    broken = {**found.to_json(), "times": []}
    with pytest.raises(ValueError, match="whole segment"):
        SegmentTimes.from_json(broken)
