"""Drawn examples are distinct, possible and never all zeros."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.core.graph import TensorSpec
from edgec.frontends.examples import Drawing, draw

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
def test_masks_start_real_and_end_padded(length, seed):
    specs = [TensorSpec("m", (2, length), "int64", "mask")]
    first, *others = [feed["m"] for feed in draw(specs, {}, samples=4, seed=seed)]
    assert first.all()
    for mask in others:
        assert (mask[:, 0] == 1).all()
        assert (mask[:, -1] == 0).all()
        assert (np.diff(mask, axis=1) <= 0).all()


def test_padding_holds_the_padding_id_and_nothing_else_does():
    specs = [TensorSpec("ids", (3, 20), "int64", "tokens"), TensorSpec("m", (3, 20), "int64", "mask")]
    drawings = {"ids": Drawing(high=5, pad=1, padded_by="m")}
    for feed in draw(specs, drawings, samples=5, seed=0):
        np.testing.assert_array_equal(feed["ids"] == 1, feed["m"] == 0)
        assert feed["ids"].min() >= 0
        assert feed["ids"].max() < 5


def test_segments_are_runs():
    for feed in draw([TensorSpec("s", (2, 9), "int64")], {"s": Drawing(segments=True)}, samples=4, seed=0):
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
