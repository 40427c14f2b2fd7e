"""Ridge maps from moments are those of the rows, and the ridge is chosen by what other samples say."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.passes.slim.least_squares import RIDGES, Moments, fit, ridge_map


def moments_of(x: np.ndarray, y: np.ndarray) -> Moments:
    moments = Moments.empty(x.shape[1], y.shape[1])
    for start in range(0, len(x), 37):
        moments.add(x[start : start + 37], y[start : start + 37])
    return moments


def drawn(rows: int, seed: int = 0, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    weight = np.random.default_rng(99).normal(size=(12, 5))
    x = rng.normal(size=(rows, 12)) + 3.0
    y = x @ weight + 7.0 + noise * rng.normal(size=(rows, 5))
    return x, y, weight


def test_a_linear_layer_is_found_again_with_its_bias() -> None:
    x, y, weight = drawn(500)
    found = ridge_map(moments_of(x, y), np.zeros_like(weight), 1e-9)
    assert found.weight == pytest.approx(weight, abs=1e-4)
    assert found.bias == pytest.approx(np.full(5, 7.0), abs=1e-3)
    assert found.error < 1e-6


def test_it_is_the_penalised_solution_of_the_rows_themselves() -> None:
    x, y, weight = drawn(60, noise=1.0)
    prior = weight + 0.3
    found = ridge_map(moments_of(x, y), prior, 0.1)
    x0, y0 = x - x.mean(0), y - y.mean(0)
    penalty = 0.1 * np.square(x0).sum() / 12
    rows = np.concatenate([x0, np.sqrt(penalty) * np.eye(12)])
    right = np.concatenate([y0, np.sqrt(penalty) * prior])
    assert found.weight == pytest.approx(np.linalg.lstsq(rows, right, rcond=None)[0], abs=1e-4)
    left = y - x @ found.weight - found.bias
    assert found.error == pytest.approx(np.square(left).mean(), rel=1e-3)


def test_without_rows_the_map_is_what_it_was() -> None:
    prior = np.random.default_rng(3).normal(size=(12, 5))
    found = fit((Moments.empty(12, 5), Moments.empty(12, 5)), prior)
    assert np.array_equal(found.weight, prior)
    assert not found.bias.any()


def test_no_bias_is_made_up_where_a_layer_has_none() -> None:
    x, y, weight = drawn(300)
    found = ridge_map(moments_of(x, y), weight, 1e-3, intercept=False)
    assert not found.bias.any()
    assert found.error > 0.01


def test_few_noisy_rows_get_a_strong_ridge_and_many_clean_ones_a_weak_one() -> None:
    noisy = [moments_of(*drawn(8, seed=seed, noise=4.0)[:2]) for seed in (1, 2)]
    clean = [moments_of(*drawn(800, seed=seed)[:2]) for seed in (1, 2)]
    _, _, weight = drawn(1)
    assert fit((noisy[0], noisy[1]), weight).ridge == RIDGES[-1]
    assert fit((clean[0], clean[1]), np.zeros_like(weight)).ridge == RIDGES[0]


def test_sums_of_float32_rows_are_float64() -> None:
    x = np.full((200_000, 1), 0.1, np.float32)
    moments = Moments.empty(1, 1)
    for start in range(0, len(x), 1000):
        moments.add(x[start : start + 1000], x[start : start + 1000])
    assert moments.xx[0, 0] == pytest.approx(200_000 * float(np.float32(0.1)) ** 2, rel=1e-6)
