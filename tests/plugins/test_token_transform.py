"""`TokenTransform` against the same steps written out in numpy, and what must hold of any of them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from bodies import run_body

CASES = settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def by_loops(feeds: dict, r: int, protected: int, temperature: float) -> tuple[np.ndarray, ...]:
    """One token after the other, in float64."""
    made: tuple[list, list, list] = ([], [], [])
    for tokens, score, metric, size in zip(*feeds.values(), strict=True):
        count = len(tokens)
        keys = metric.astype(np.float64).sum(0) * (size > 0)
        unit = keys / np.maximum(np.linalg.norm(keys, axis=-1, keepdims=True), 1e-15)
        order = sorted(
            range(protected, count), key=lambda n: (size[n, 0] > 0, score[n] if size[n, 0] > 0 else 0, -n)
        )
        leaving, staying = set(order[:r]), [n for n in range(count) if n not in order[:r]]
        shares = np.zeros((count, count - r))
        for n in range(count):
            if n not in leaving:
                shares[n, staying.index(n)] = 1.0
                continue
            hosts = [m for m, token in enumerate(staying) if token >= protected]
            logits = np.array([unit[n] @ unit[staying[m]] for m in hosts]) / temperature
            weights = np.exp(logits - logits.max())
            shares[n, hosts] = weights / weights.sum()
        into = shares.T * size.T
        mass = into.sum(1, keepdims=True)
        made[0].append(into @ tokens / np.maximum(mass, 1e-30))
        made[1].append(mass)
        made[2].append(shares)
    return tuple(np.array(each) for each in made)


@st.composite
def cases(draw) -> tuple[dict[str, np.ndarray], dict]:
    protected, free = draw(st.integers(0, 3)), draw(st.sampled_from([2, 3, 4, 7, 8, 17]))
    length, batch, heads = free + protected, draw(st.integers(1, 3)), draw(st.integers(1, 3))
    depth, channels = draw(st.sampled_from([1, 3, 8])), draw(st.sampled_from([1, 5, 16]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    metric = rng.integers(-2, 3, (batch, heads, length, depth))
    if draw(st.booleans()):
        metric[:] = metric[:, :, :1]
    sizes = rng.integers(0 if draw(st.booleans()) else 1, 5, (batch, length, 1))
    feeds = {
        "tokens": rng.normal(size=(batch, length, channels)),
        "score": rng.integers(-3, 4, (batch, length)),
        "metric": metric,
        "sizes": sizes,
    }
    r = draw(st.sampled_from(sorted({0, 1, (free - 1) // 2, free - 1})))
    attributes = {"r": r, "protected": protected, "temperature": draw(st.sampled_from([0.02, 0.05, 1.0]))}
    return {name: array.astype(np.float32) for name, array in feeds.items()}, attributes


@CASES
@given(cases())
def test_body_computes_the_formula(case: tuple) -> None:
    feeds, attributes = case
    expected = by_loops(feeds, **attributes)
    actual = run_body("TokenTransform", feeds, **attributes)
    # A cosine's rounding of 1e-7 is up to 5e-6 of a logit at the lowest temperature.
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)


@CASES
@given(cases())
def test_nothing_is_lost(case: tuple) -> None:
    feeds, attributes = case
    transformed, sizes, shares = run_body("TokenTransform", feeds, **attributes)
    np.testing.assert_allclose(shares.sum(-1), 1.0, atol=1e-5)
    np.testing.assert_allclose(sizes.sum(1), feeds["sizes"].sum(1), rtol=1e-5)
    total = (feeds["tokens"] * feeds["sizes"]).sum(1)
    np.testing.assert_allclose((transformed * sizes).sum(1), total, atol=2e-4)
    guarded = attributes["protected"]
    real = feeds["sizes"][:, :guarded] > 0
    kept, own = transformed[:, :guarded] * real, feeds["tokens"][:, :guarded] * real
    np.testing.assert_allclose(kept, own, rtol=1e-6)


def test_r_of_zero_is_nothing() -> None:
    rng = np.random.default_rng(0)
    feeds = {
        "tokens": rng.normal(size=(2, 9, 4)).astype(np.float32),
        "score": rng.normal(size=(2, 9)).astype(np.float32),
        "metric": rng.normal(size=(2, 3, 9, 4)).astype(np.float32),
        "sizes": np.ones((2, 9, 1), np.float32),
    }
    transformed, sizes, shares = run_body("TokenTransform", feeds, r=0, protected=1)
    np.testing.assert_array_equal(transformed, feeds["tokens"])
    np.testing.assert_array_equal(sizes, feeds["sizes"])
    np.testing.assert_array_equal(shares, np.broadcast_to(np.eye(9), (2, 9, 9)))


def test_a_low_temperature_prunes_into_the_nearest() -> None:
    rng = np.random.default_rng(1)
    feeds = {
        "tokens": rng.normal(size=(2, 20, 4)).astype(np.float32),
        "score": rng.normal(size=(2, 20)).astype(np.float32),
        "metric": rng.normal(size=(2, 3, 20, 6)).astype(np.float32),
        "sizes": rng.integers(1, 4, (2, 20, 1)).astype(np.float32),
    }
    sharp = run_body("TokenTransform", feeds, r=8, protected=2, temperature=1e-5)
    pruned = run_body("TokenPrune", feeds, r=8, protected=2, merge=1)
    np.testing.assert_allclose(sharp[0], pruned[0], atol=1e-5)
    np.testing.assert_allclose(sharp[1], pruned[1], atol=1e-5)
    np.testing.assert_array_equal(sharp[2].argmax(-1), pruned[2])
