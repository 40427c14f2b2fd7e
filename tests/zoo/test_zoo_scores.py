"""How outputs are scored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.zoo.evaluation import Evaluation, spearman


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=40))
def test_spearman_is_the_textbooks(pairs: list[tuple[int, int]]) -> None:
    stats = pytest.importorskip("scipy.stats")
    one, other = np.array(pairs, dtype=float).T
    if len(set(one)) > 1 and len(set(other)) > 1:
        assert spearman(one, other) == pytest.approx(stats.spearmanr(one, other).statistic, abs=1e-12)


def test_accuracy_counts_right_classes() -> None:
    data = Evaluation({"image": np.zeros((4, 1))}, np.array([0, 1, 2, 2]), "accuracy")
    assert data.samples == 4
    assert data.score(np.eye(3)[[0, 1, 2, 0]]) == {"accuracy": 0.75}


def test_embeddings_are_scored_against_the_source() -> None:
    rng = np.random.default_rng(0)
    source = rng.normal(size=(8, 16))
    source[1] = source[0] + 0.1 * rng.normal(size=16)
    data = Evaluation({"x": np.zeros((8, 1))}, None, "embedding", np.array([5.0, 1.0, 0.0, 2.0]))
    same = data.score(3.0 * source, source)
    assert same["cosine"] == pytest.approx(1.0)
    assert same["ranking"] == pytest.approx(1.0)
    other = data.score(source + rng.normal(size=source.shape), source)
    assert other["cosine_min"] < other["cosine"] < 0.95
    assert other["ranking"] < 0.95
    with pytest.raises(ValueError, match="source"):
        data.score(source)
