"""Every CPU kernel computes what its function body does, on 500 drawn cases each."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from token_bodies import run_body

from edgec.plugins.kernels.cpu import native as token_native

OPS = ("TokenMerge", "TokenMergeEnergy", "TokenPrune")
CASES = settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
FEWER = settings(CASES, max_examples=150)
# Sums of up to a few dozen terms near 1 in float32, taken in another order.
ROUNDING = 2e-5


@st.composite
def cases(draw, op_type: str, exact: bool) -> tuple[dict[str, np.ndarray], dict]:
    """Feeds and attributes.

    `exact` draws metrics of small integers, with equal and opposite tokens among them: every dot product
    is then exact in float32, in any order, and ties are real ties.
    """
    protected = draw(st.integers(0, 3))
    free = draw(st.sampled_from([2, 3, 4, 5, 7, 8, 16, 17, 33, 40]))
    length = free + protected
    limit = free - 1 if op_type == "TokenPrune" else free // 2
    r = draw(st.sampled_from(sorted({0, 1, limit // 2, limit})))
    batch, heads = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    depth, channels = draw(st.sampled_from([1, 3, 8, 20])), draw(st.sampled_from([1, 5, 16, 37]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (batch, heads, length, depth)
    metric = rng.integers(-2, 3, shape) if exact else rng.normal(size=shape)
    if exact and draw(st.booleans()):
        metric[:, :, rng.integers(0, length, length // 2)] = metric[:, :, rng.integers(0, length, 1)]
    sizes = rng.integers(0 if draw(st.booleans()) else 1, 5, (batch, length, 1))
    feeds = {
        "tokens": rng.normal(size=(batch, length, channels)).astype(np.float32),
        "metric": metric.astype(np.float32),
        "sizes": sizes.astype(np.float32),
    }
    attributes: dict = {"r": r, "protected": protected}
    if op_type == "TokenPrune":
        feeds["score"] = rng.integers(-3, 4, (batch, length)).astype(np.float32)
        attributes["merge"] = draw(st.integers(0, 1))
    if op_type == "TokenMergeEnergy":
        attributes["margin"] = 0.5
    return feeds, attributes


def kernel(op_type: str, feeds: dict[str, np.ndarray], attributes: dict, isa: str) -> tuple:
    call, outputs = token_native.prepare(
        op_type,
        feeds["tokens"],
        feeds["metric"],
        feeds["sizes"],
        score=feeds.get("score"),
        isa=isa,
        **attributes,
    )
    call()
    return outputs


def runnable() -> list[str]:
    best = token_native.instructions()
    return list(token_native.INSTRUCTIONS[token_native.INSTRUCTIONS.index(best) :])


def margins(op_type: str, feeds: dict[str, np.ndarray], attributes: dict) -> float:
    """The smallest non-negative gap, in float64, between two values that a decision compares."""
    metric = feeds["metric"].astype(np.float64).sum(1)[:, attributes["protected"] :]
    unit = metric / np.maximum(np.linalg.norm(metric, axis=-1, keepdims=True), 1e-15)
    cosine = unit @ unit.transpose(0, 2, 1)
    gaps = [np.diff(np.sort(cosine, axis=-1), axis=-1).min()]
    pulled = cosine - attributes.get("margin", 0.5)
    # An energy is a sum of rounded terms; one of them may round the other way.
    energy = np.where(pulled > 0, pulled, pulled / (1 + np.abs(pulled))).sum(-1) / 16
    gaps.append(np.diff(np.sort(energy, axis=-1), axis=-1).min())
    even = cosine[:, 0::2, 1::2].max(-1)
    if even.shape[1] > 1:
        gaps.append(np.diff(np.sort(even, axis=-1), axis=-1).min())
    return float(min(gaps))


def assert_same(op_type: str, feeds: dict, attributes: dict, isa: str, *, exact: bool) -> None:
    expected = run_body(op_type, feeds, **attributes)
    actual = kernel(op_type, feeds, attributes, isa)
    if not np.array_equal(expected[2], actual[2]):
        assert not exact, f"{isa}: {expected[2]} by definition, {actual[2]} by the kernel"
        assert margins(op_type, feeds, attributes) < ROUNDING
        return
    np.testing.assert_array_equal(actual[1], expected[1])
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("op_type", OPS)
def test_kernel_decides_ties_as_defined(op_type: str) -> None:
    @CASES
    @given(cases(op_type, exact=True))
    def check(case: tuple) -> None:
        for isa in runnable():
            assert_same(op_type, *case, isa, exact=True)

    check()


@pytest.mark.parametrize("op_type", OPS)
def test_kernel_equals_body(op_type: str) -> None:
    @FEWER
    @given(cases(op_type, exact=False))
    def check(case: tuple) -> None:
        for isa in runnable():
            assert_same(op_type, *case, isa, exact=False)

    check()


@st.composite
def assignments(draw) -> dict[str, np.ndarray]:
    batch, kept, channels = (
        draw(st.integers(1, 3)),
        draw(st.integers(1, 12)),
        draw(st.sampled_from([1, 5, 16, 37])),
    )
    length = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tokens = rng.normal(size=(batch, kept, channels))
    if draw(st.booleans()):
        tokens[:, rng.integers(0, kept)] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    places = rng.integers(0, kept, (batch, length))
    return {"tokens": tokens.astype(np.float32), "assignment": places.astype(np.int32)}


@CASES
@given(assignments())
def test_restoring_copies_as_the_body_does(feeds: dict[str, np.ndarray]) -> None:
    [expected] = run_body("TokenRestore", feeds)
    np.testing.assert_array_equal(token_native.restore(**feeds), expected)


@pytest.mark.parametrize("place", [-1, 3])
def test_a_place_that_does_not_exist_is_refused(place: int) -> None:
    assert token_native.restore(np.zeros((1, 3, 2)), np.array([[0, place, 2]])) is None
