"""Drawn examples are distinct, possible and never all zeros."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.core.graph import TensorSpec
from edgec.frontends.examples import Drawing, count, draw, hides_whole, told

SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)
DTYPES = st.sampled_from(["float32", "float16", "int64", "int32", "uint8", "bool"])


@given(SHAPES.filter(lambda shape: np.prod(shape) > 1), DTYPES, st.integers(0, 1000))
@settings(deadline=None)
def test_no_feed_is_all_zeros_and_the_seed_decides(shape, dtype, seed):
    specs = [TensorSpec("x", shape, dtype)]
    feeds = draw(specs, {}, samples=3, seed=seed)
    again = draw(specs, {}, samples=3, seed=seed)
    for feed, same in zip(feeds, again, strict=True):
        assert feed["x"].shape == shape
        assert feed["x"].dtype == dtype
        assert feed["x"].any()
        np.testing.assert_array_equal(feed["x"], same["x"])


def test_feeds_are_distinct():
    feeds = draw([TensorSpec("x", (4, 4), "float32")], {}, samples=4, seed=0)
    assert len({feed["x"].tobytes() for feed in feeds}) == 4


@given(st.integers(2, 40), st.integers(0, 1000))
@settings(deadline=None)
def test_masks_are_whole_then_padded_right_then_left_then_hide_a_row(length, seed):
    specs = [TensorSpec("m", (2, length), "int64", "mask")]
    whole, right, left, hidden = [feed["m"] for feed in draw(specs, {}, samples=4, seed=seed)]
    assert whole.all()
    assert (right[:, 0] == 1).all()
    assert (right[:, -1] == 0).all()
    assert (np.diff(right, axis=1) <= 0).all()
    assert (left[:, 0] == 0).all()
    assert (left[:, -1] == 1).all()
    assert hidden.any(axis=1).tolist() == [True, False]


def test_a_long_mask_has_holes():
    left = draw([TensorSpec("m", (1, 200), "bool", "mask")], {}, samples=3, seed=0)[2]["m"][0]
    assert (np.diff(left.astype(int)) < 0).any()


def test_a_mask_whose_ones_hide_is_the_other_way_round():
    specs, drawings = [TensorSpec("m", (2, 9), "bool")], {"m": Drawing("mask", inverted=True)}
    whole, right, _, hidden = [feed["m"] for feed in draw(specs, drawings, samples=4, seed=0)]
    assert not whole.any()
    assert right[:, -1].all()
    assert hidden[1].all()
    assert [hides_whole(specs, drawings, {"m": mask}) for mask in (whole, right, hidden)] == [
        False,
        False,
        True,
    ]


def test_rows_are_hidden_whole_in_a_sample_of_their_own():
    specs = [TensorSpec("m", (2, 9), "int64", "mask")]
    assert [count(specs, {}, samples) for samples in (1, 3)] == [1, 4]
    assert count([TensorSpec("x", (2, 9), "float32")], {}, 3) == 3


def test_positions_count_up_from_the_start_to_the_end_and_between():
    drawings = {"p": Drawing("positions", high=4096)}
    feeds = draw([TensorSpec("p", (3, 8), "int64")], drawings, samples=3, seed=0)
    first, last, between = (feed["p"] for feed in feeds)
    assert (first == np.arange(8)).all()
    assert (last == np.arange(4088, 4096)).all()
    assert (np.diff(between, axis=1) == 1).all()
    assert np.unique(between[:, 0]).size == 3


@given(st.integers(1, 30), st.integers(1, 20), st.integers(0, 5))
@settings(deadline=None)
def test_positions_stay_in_their_table(length, rows, low):
    drawings = {"p": Drawing("positions", low=low, high=low + rows)}
    for feed in draw([TensorSpec("p", (2, length), "int64")], drawings, samples=4, seed=0):
        assert feed["p"].min() >= low
        assert feed["p"].max() < low + rows


@pytest.mark.parametrize("shape", [(), (1,), (2, 6)])
def test_both_ends_of_a_range_are_among_the_samples(shape):
    for dtype, drawing in [("int64", Drawing(high=1000)), ("float32", Drawing(high=999, uniform=True))]:
        feeds = draw([TensorSpec("t", shape, dtype)], {"t": drawing}, samples=3, seed=0)
        values = np.concatenate([feed["t"].reshape(-1) for feed in feeds])
        assert (values.min(), values.max()) == (0, 999)
        assert 0 < feeds[0]["t"].max() < 999


def test_a_sound_has_full_scale_and_is_quiet():
    feeds = draw(
        [TensorSpec("w", (1, 4000), "float32")], {"w": Drawing("sound", high=32767)}, samples=3, seed=0
    )
    peaks = [np.abs(feed["w"]).max() for feed in feeds]
    assert 2 < peaks[0] < 6
    assert peaks[1] == pytest.approx(32767)
    assert peaks[2] < 0.1


def test_lengths_are_full_first_and_short_later():
    specs = [TensorSpec("x", (2, 50, 8), "float32"), TensorSpec("n", (2,), "int64")]
    feeds = draw(specs, {"n": Drawing("lengths", low=1, high=0)}, samples=3, seed=0)
    assert feeds[0]["n"].tolist() == [50, 50]
    assert feeds[2]["n"][0] == 1
    assert all(feed["n"].min() >= 1 and feed["n"].max() <= 50 for feed in feeds)


def test_flags_are_drawn_both_ways():
    feeds = draw([TensorSpec("a", (), "bool"), TensorSpec("b", (1,), "bool")], {}, samples=4, seed=0)
    assert {(bool(feed["a"]), bool(feed["b"][0])) for feed in feeds} == {
        (True, True),
        (False, False),
        (True, False),
        (False, True),
    }


def test_what_was_drawn_is_told_as_it_is():
    specs = [TensorSpec("ids", (1, 9), "int64"), TensorSpec("x", (1, 9), "float32")]
    drawings = {"ids": Drawing(high=30522)}
    feeds = draw(specs, drawings, samples=3, seed=0)
    assert [str(item) for item in told(specs, drawings, feeds)] == ["ids 0…30521", "x N(0, 1)"]
    near = draw(specs, {"ids": Drawing(high=5)}, samples=3, seed=0)
    assert str(told(specs, drawings, near)[0]) == "ids 0…4"


def test_padding_holds_the_padding_id_and_nothing_else_does():
    specs = [TensorSpec("ids", (3, 20), "int64", "tokens"), TensorSpec("m", (3, 20), "int64", "mask")]
    drawings = {"ids": Drawing(high=5, pad=1, padded_by="m")}
    for feed in draw(specs, drawings, samples=5, seed=0):
        np.testing.assert_array_equal(feed["ids"] == 1, feed["m"] == 0)
        assert feed["ids"].min() >= 0
        assert feed["ids"].max() < 5


def test_segments_are_runs():
    for feed in draw([TensorSpec("s", (2, 9), "int64")], {"s": Drawing("segments")}, samples=4, seed=0):
        assert (np.diff(feed["s"], axis=1) >= 0).all()
        assert set(np.unique(feed["s"])) == {0, 1}


@pytest.mark.parametrize("example", [np.arange(100, dtype=np.float32) + 5, np.arange(7, dtype=np.int64) * 3])
def test_a_rich_example_lends_its_values(example):
    spec = TensorSpec("x", (50,), example.dtype.name)
    for feed in draw([spec], {"x": Drawing(like=example)}, samples=3, seed=0):
        assert set(feed["x"]) <= set(example)


def test_a_single_number_is_kept():
    (feed,) = draw([TensorSpec("n", (1,), "int64")], {"n": Drawing(like=np.array([80]))}, samples=1, seed=0)
    assert feed["n"].tolist() == [80]


def test_open_dimensions_of_one_name_have_one_size_and_differ_between_samples():
    specs = [TensorSpec("a", ("N", 3), "float32"), TensorSpec("b", ("N", "T"), "float32")]
    feeds = draw(specs, {}, samples=3, seed=0)
    assert all(feed["a"].shape[0] == feed["b"].shape[0] for feed in feeds)
    assert len({feed["b"].shape for feed in feeds}) == 3
