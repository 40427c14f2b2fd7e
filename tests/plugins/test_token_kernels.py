"""The kernels of token reduction on metrics whose sums round, where a decision may fall otherwise."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from bodies import run_body

from edgec.plugins.infra import INSTRUCTIONS, plugins
from edgec.plugins.kernels.cpu import native

OPS = ("TokenMerge", "TokenMergeEnergy", "TokenPrune")
CASES = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
# Sums of up to a few dozen terms near 1 in float32, taken in another order.
ROUNDING = 2e-5


@st.composite
def cases(draw, op_type: str) -> tuple[dict[str, np.ndarray], dict]:
    """Feeds and attributes."""
    protected = draw(st.integers(0, 3))
    free = draw(st.sampled_from([2, 3, 4, 5, 7, 8, 16, 17, 33, 40]))
    length = free + protected
    limit = free - 1 if op_type == "TokenPrune" else free // 2
    r = draw(st.sampled_from(sorted({0, 1, limit // 2, limit})))
    batch, heads = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    depth, channels = draw(st.sampled_from([1, 3, 8, 20])), draw(st.sampled_from([1, 5, 16, 37]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (batch, heads, length, depth)
    metric = rng.normal(size=shape)
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


@pytest.mark.parametrize("op_type", OPS)
def test_kernel_equals_body(op_type: str) -> None:
    @CASES
    @given(cases(op_type))
    def check(case: tuple) -> None:
        feeds, attributes = case
        expected = run_body(op_type, feeds, **attributes)
        for isa in native.instructions():
            if isa not in INSTRUCTIONS:
                continue
            call, actual = native.prepare(plugins()[op_type], feeds, attributes, isa=isa)
            call()
            if not np.array_equal(expected[2], actual[2]):
                assert margins(op_type, feeds, attributes) < ROUNDING
                continue
            np.testing.assert_array_equal(actual[1], expected[1])
            np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5, atol=1e-5)

    check()


@pytest.mark.parametrize("place", [-1, 3])
def test_a_place_that_does_not_exist_is_refused(place: int) -> None:
    feeds = {"tokens": np.zeros((1, 3, 2), np.float32), "assignment": np.array([[0, place, 2]], np.int32)}
    call, _ = native.prepare(plugins()["TokenRestore"], feeds, {})
    with pytest.raises(ValueError, match="TokenRestore refused"):
        call()
