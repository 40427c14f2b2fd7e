"""Decisions between nearly equal scores may fall otherwise, and nothing else may."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgec.core.numerics import GATES, Expected
from edgec.core.ties import Ranking, Ties

TOLERANCE = GATES["fp16"].scaled


def detections(seed: int, rows: int = 20) -> tuple[dict[str, np.ndarray], Ties]:
    """Boxes and labels in the order of scores that are 0.5 apart; one like the last was left out."""
    random = np.random.default_rng(seed)
    scores = np.arange(rows, 0, -1) * 0.5
    outputs = {
        "boxes": random.standard_normal((1, rows, 4)).astype(np.float32),
        "labels": random.integers(0, 80, (1, rows)),
    }
    return outputs, Ties(rankings=(Ranking({"boxes": 1, "labels": 1}, scores[None], scores[-1:] - 1e-3),))


def swapped(outputs: dict[str, np.ndarray], one: int, other: int) -> dict[str, np.ndarray]:
    found = {name: array.copy() for name, array in outputs.items()}
    for name, array in outputs.items():
        found[name][:, [one, other]] = array[:, [other, one]]
    return found


def near(ties: Ties, one: int, other: int) -> Ties:
    """The same with two neighbours that score alike."""
    scores = ties.rankings[0].scores.copy()
    scores[0, other] = scores[0, one] - 1e-3
    return Ties(rankings=(dataclasses.replace(ties.rankings[0], scores=scores),))


def test_neighbours_of_nearly_one_score_may_change_places() -> None:
    outputs, ties = detections(1)
    expected = Expected([outputs], ties=[near(ties, 4, 5)])
    found = expected.difference([swapped(outputs, 4, 5)], GATES["fp16"])
    assert GATES["fp16"].accepts(found)
    assert found.near_ties == 2


def test_rows_whose_scores_differ_may_not() -> None:
    outputs, ties = detections(1)
    expected = Expected([outputs], ties=[ties])
    assert not GATES["fp16"].accepts(expected.difference([swapped(outputs, 4, 5)], GATES["fp16"]))
    # Nor in fp32, whose scores are off by far less.
    expected = Expected([outputs], ties=[near(ties, 4, 5)])
    assert not GATES["fp32"].accepts(expected.difference([swapped(outputs, 4, 5)], GATES["fp32"]))


def test_the_last_row_may_be_another_choice_and_none_before_it() -> None:
    outputs, ties = detections(2)
    for row, allowed in ((19, True), (10, False)):
        other = {name: array.copy() for name, array in outputs.items()}
        other["boxes"][0, row] = -outputs["boxes"][0, row - 1]
        found = Expected([outputs], ties=[ties]).difference([other], GATES["fp16"])
        assert GATES["fp16"].accepts(found) is allowed
        # A choice it may be, but one like the others: not a box of a thousand spreads.
        other["boxes"][0, row] = 1e3
        found = Expected([outputs], ties=[ties]).difference([other], GATES["fp16"])
        assert not GATES["fp16"].accepts(found)


@pytest.mark.parametrize("left_out", [0.0, np.inf])
def test_the_last_row_is_no_other_where_none_that_was_left_out_scores_alike(left_out: float) -> None:
    outputs, ties = detections(2)
    ties = Ties(rankings=(dataclasses.replace(ties.rankings[0], left_out=np.array([left_out])),))
    other = {name: array.copy() for name, array in outputs.items()}
    other["boxes"][0, -1] += 3.0
    gate = GATES["fp16"]
    assert not gate.accepts(Expected([outputs], ties=[ties]).difference([other], gate))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_no_other_choice(bad: float) -> None:
    outputs, ties = detections(2)
    other = {name: array.copy() for name, array in outputs.items()}
    other["boxes"][0, -1, 2] = bad
    gate = GATES["bf16"]
    assert not gate.accepts(Expected([outputs], ties=[ties]).difference([other], gate))


def test_rows_are_matched_in_any_layout() -> None:
    outputs, ties = detections(6)
    outputs = {name: np.concatenate([array, array + 1]) for name, array in outputs.items()}
    ranking = near(ties, 4, 5).rankings[0]
    ranking = Ranking(ranking.axes, np.tile(ranking.scores, (2, 1)), np.tile(ranking.left_out, 2))
    found = {name: np.asfortranarray(array) for name, array in swapped(outputs, 4, 5).items()}
    expected = Expected([outputs], ties=[Ties(rankings=(ranking,))])
    assert GATES["fp16"].accepts(expected.difference([found], GATES["fp16"]))


def test_a_row_of_another_class_is_noticed() -> None:
    outputs, ties = detections(3)
    other = {name: array.copy() for name, array in outputs.items()}
    other["labels"][0, 3:9] += 1
    assert not GATES["fp16"].accepts(Expected([outputs], ties=[ties]).difference([other], GATES["fp16"]))


def test_rows_that_differ_in_their_class_alone_may_change_places_where_they_score_alike() -> None:
    outputs, ties = detections(5)
    outputs["boxes"][0, 5] = outputs["boxes"][0, 4]
    outputs["labels"][0, 4:6] = 3, 7
    for allowed, known in ((True, near(ties, 4, 5)), (False, ties)):
        found = Expected([outputs], ties=[known]).difference([swapped(outputs, 4, 5)], GATES["fp16"])
        assert GATES["fp16"].accepts(found) is allowed


def test_the_whole_order_turned_round_is_noticed() -> None:
    outputs, ties = detections(4)
    turned = {name: array[:, ::-1].copy() for name, array in outputs.items()}
    assert not GATES["bf16"].accepts(Expected([outputs], ties=[ties]).difference([turned], GATES["bf16"]))


def test_a_class_may_be_another_where_two_score_alike() -> None:
    classes = np.array([[3, 7, 1, 1]])
    margins = np.array([[5.0, 1e-3, 4.0, 2.0]])
    other = np.array([[3, 8, 1, 1]])
    expected = Expected([{"y": classes}], ties=[Ties({"y": margins})])
    found = expected.difference([{"y": other}], GATES["fp16"])
    assert (found.unequal, found.near_ties) == (0.0, 1)
    clear = expected.difference([{"y": np.array([[3, 7, 2, 1]])}], GATES["fp16"])
    assert clear.unequal == 0.25


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_rounded_number_may_be_the_next_and_no_other(precision: str) -> None:
    random = np.random.default_rng(7)
    scores = random.normal(0.0, 3e4, 500)
    whole = np.floor(scores).astype(np.int64)
    gate, spread = GATES[precision], float(scores.std())
    ties = Ties({"y": np.abs(scores - np.round(scores)) / spread}, steps={"y": (1.0, spread)})
    expected = Expected([{"y": whole}], ties=[ties])
    assert gate.accepts(expected.difference([{"y": whole + 1}], gate))
    assert not gate.accepts(expected.difference([{"y": random.permutation(whole)}], gate))


@pytest.mark.parametrize("seed", range(5))
def test_they_come_back_from_a_file(seed: int) -> None:
    outputs, ties = detections(seed)
    ties = Ties({"mask": np.random.default_rng(seed).random((2, 3))}, ties.rankings, {"mask": (1.0, 2.5)})
    back = Ties.from_arrays(ties.to_arrays())
    np.testing.assert_array_equal(back.margins["mask"], ties.margins["mask"])
    assert back.steps == ties.steps
    assert back.rankings[0].axes == ties.rankings[0].axes
    np.testing.assert_array_equal(back.rankings[0].left_out, ties.rankings[0].left_out)
    settled, count = back.settled(outputs, outputs, TOLERANCE)
    assert count == 0
    assert settled.keys() == outputs.keys()
