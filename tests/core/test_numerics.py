"""Comparison: what passes, what cannot pass, and what a gate sees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.core.numerics import GATES, Gate, compare, compare_arrays

DRAWN = np.random.default_rng(0).normal(size=(4, 100)).astype(np.float32)


def test_equal_arrays_differ_by_nothing() -> None:
    found = compare_arrays(DRAWN, DRAWN.copy())
    assert (found.max_abs, found.scaled) == (0.0, 0.0)
    assert found.cosine == pytest.approx(1.0)


@given(st.floats(1e-3, 1e3), st.integers(0, 399))
def test_one_changed_element_is_found(size: float, place: int) -> None:
    other = DRAWN.astype(np.float64)
    other.ravel()[place] += size
    found = compare_arrays(DRAWN.astype(np.float64), other)
    assert found.max_abs == pytest.approx(size)


def test_large_outputs_are_measured_in_their_spread_and_small_ones_absolutely() -> None:
    assert compare_arrays(DRAWN * 1000, DRAWN * 1000 + 1).scaled == pytest.approx(1e-3, rel=0.1)
    assert compare_arrays(DRAWN * 1e-3, DRAWN * 1e-3 + 1e-3).scaled == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_fails_every_gate(bad: float) -> None:
    other = DRAWN.copy()
    other[0, 0] = bad
    for gate in GATES.values():
        assert not gate.accepts(compare_arrays(DRAWN, other))
        assert not gate.accepts(compare_arrays(other, DRAWN))


def test_the_same_masked_values_agree() -> None:
    masked = DRAWN.copy()
    masked[1] = -np.inf
    assert GATES["fp32"].accepts(compare_arrays(masked, masked.copy()))
    other = masked.copy()
    other[1] = np.inf
    assert not GATES["fp32"].accepts(compare_arrays(masked, other))


def test_zeros_are_no_match_for_values() -> None:
    assert compare_arrays(DRAWN, np.zeros_like(DRAWN)).cosine == 0.0
    assert compare_arrays(np.zeros(3), np.zeros(3)).cosine == 1.0


def test_the_worst_sample_and_output_count() -> None:
    good = {"a": DRAWN, "b": DRAWN}
    bad = {"a": DRAWN, "b": DRAWN + 0.5}
    found = compare([good, good], [good, bad])
    assert found.output == "b"
    assert found.max_abs == pytest.approx(0.5, rel=1e-5)


def test_a_missing_output_a_wrong_shape_and_no_samples_raise() -> None:
    with pytest.raises(ValueError, match="missing"):
        compare([{"a": DRAWN}], [{"b": DRAWN}])
    with pytest.raises(ValueError, match="shape"):
        compare([{"a": DRAWN}], [{"a": DRAWN[:1]}])
    with pytest.raises(ValueError, match="samples"):
        compare([], [])


def test_a_gate_needs_both_bounds() -> None:
    gate = Gate(1e-2, 0.999, "")
    assert not gate.accepts(compare_arrays(DRAWN, DRAWN + 0.1))
    assert gate.accepts(compare_arrays(DRAWN, DRAWN + 1e-3))


def test_the_fp32_gate_sees_a_tanh_gelu() -> None:
    # The two forms of GELU differ by 4.7e-4 at most: fp16 tolerance hides it, fp32 must not.
    from math import erf

    x = np.linspace(-4, 4, 1001)
    exact = 0.5 * x * (1 + np.vectorize(erf)(x / np.sqrt(2)))
    tanh = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    assert not GATES["fp32"].accepts(compare_arrays(exact, tanh))
    assert GATES["fp16"].accepts(compare_arrays(exact, tanh))
