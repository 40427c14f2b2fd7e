"""Comparison: what passes, what cannot pass, and what a gate sees."""

from __future__ import annotations

from math import erf

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.core.numerics import (
    GATES,
    Difference,
    Expected,
    Gate,
    compare,
    compare_arrays,
    roundings_only,
    spreads,
)
from edgec.core.ties import Ties

DRAWN = np.random.default_rng(0).normal(size=(4, 100)).astype(np.float32)
FP32 = GATES["fp32"]


def drawn(shape: tuple[int, ...], seed: int, count: int = 3) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape) for _ in range(count)]


def rounded(exact: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
    return [{"y": array.astype(np.float32)} for array in exact]


def test_equal_arrays_differ_by_nothing() -> None:
    found = compare_arrays(DRAWN, DRAWN.copy())
    assert (found.max_abs, found.scaled, found.rms, found.slice_rms) == (0.0, 0.0, 0.0, 0.0)
    assert found.cosine == pytest.approx(1.0)


@given(st.floats(1e-3, 1e3), st.integers(0, 399))
def test_one_changed_element_is_found(size: float, place: int) -> None:
    other = DRAWN.astype(np.float64)
    other.ravel()[place] += size
    found = compare_arrays(DRAWN.astype(np.float64), other)
    assert found.max_abs == pytest.approx(size)
    assert found.beyond == pytest.approx(size / np.std(DRAWN), rel=1e-3)


@pytest.mark.parametrize("spread", [1e-6, 1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("mean", [0.0, 1.0, 1000.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (1, 1000), (2, 3, 40, 40)])
@pytest.mark.parametrize("fault", ["scale", "offset", "noise"])
def test_an_error_of_a_twentieth_of_the_spread_is_caught(
    spread: float, mean: float, shape: tuple[int, ...], fault: str
) -> None:
    if mean * 6e-8 > 0.05 * spread:
        pytest.skip("fp32 itself cannot hold the spread")
    exact = [array * spread + mean for array in drawn(shape, 5)]
    noise = drawn(shape, 6)
    wrong = {
        "scale": [mean + 1.05 * (array - mean) for array in exact],
        "offset": [array + 0.05 * spread for array in exact],
        "noise": [array + 0.05 * spread * other for array, other in zip(exact, noise, strict=True)],
    }[fault]
    references = rounded(exact)
    known = [{"y": array} for array in exact]
    assert not FP32.accepts(compare(references, rounded(wrong), known))
    # What rounds as the source does passes: the same numbers, moved by less than fp32 holds.
    alike = [array + 1e-7 * spread * other for array, other in zip(exact, noise, strict=True)]
    assert FP32.accepts(compare(references, rounded(alike), known))


def test_fp16_is_held_to_the_spread_too() -> None:
    exact = [1.0 + 1e-3 * array for array in drawn((1, 500), 2)]
    half = [{"y": array.astype(np.float16).astype(np.float32)} for array in exact]
    assert not GATES["fp16"].accepts(compare(rounded(exact), half))
    centred = [{"y": (array - 1.0).astype(np.float16).astype(np.float32)} for array in exact]
    assert GATES["fp16"].accepts(compare(rounded([array - 1.0 for array in exact]), centred))


def test_a_nearly_constant_output_near_zero_is_judged_by_the_source_s_rounding() -> None:
    # A detector's probabilities where there is nothing: a sigmoid is exact to 1e-7 of one, not of itself.
    random = np.random.default_rng(1)
    exact = 2e-6 * random.random((1, 1, 40, 40))
    source = (exact + 3e-8 * random.standard_normal(exact.shape)).astype(np.float32)
    engine = (exact + 3e-8 * random.standard_normal(exact.shape)).astype(np.float32)
    assert not FP32.accepts(compare([{"y": source}], [{"y": engine}]))
    found = compare([{"y": source}], [{"y": engine}], [{"y": exact}])
    assert FP32.accepts(found)
    assert found.rounding > 0.03
    assert found.cosine < 0.9999


def test_rounding_is_taken_off_up_to_a_bound() -> None:
    random = np.random.default_rng(1)
    exact = random.standard_normal((1, 400))
    for rounding, excused in ((1e-2, True), (1.0, False)):
        source = (exact + rounding * random.standard_normal(exact.shape)).astype(np.float32)
        engine = (exact + rounding * random.standard_normal(exact.shape)).astype(np.float32)
        found = compare([{"y": source}], [{"y": engine}], [{"y": exact}])
        assert FP32.accepts(found) is excused
        assert found.rounding == pytest.approx(rounding, rel=0.5)
        assert not FP32.accepts(compare([{"y": source}], [{"y": engine}]))


def test_scores_beside_pixels_do_not_hide() -> None:
    random = np.random.default_rng(3)
    output = np.concatenate([random.uniform(0, 640, (1, 4, 500)), random.random((1, 8, 500)) ** 4], axis=1)
    wrong = output.copy()
    wrong[:, 5] = wrong[:, 6]
    for precision in ("fp32", "fp16"):
        assert not GATES[precision].accepts(compare_arrays(output, wrong))
    assert compare_arrays(output, wrong).beyond < GATES["fp16"].scaled


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
    assert FP32.accepts(compare_arrays(masked, masked.copy()))
    other = masked.copy()
    other[1] = np.inf
    assert not FP32.accepts(compare_arrays(masked, other))


def test_zeros_are_no_match_for_values() -> None:
    assert compare_arrays(DRAWN, np.zeros_like(DRAWN)).cosine == 0.0
    assert compare_arrays(np.zeros(3), np.zeros(3)).cosine == 1.0
    for gate in GATES.values():
        assert not gate.accepts(compare_arrays(DRAWN, np.zeros_like(DRAWN)))


def test_whole_numbers_are_compared_by_agreement() -> None:
    classes = np.arange(100)
    other = classes.copy()
    other[0] = 1
    found = compare_arrays(classes, other)
    assert (found.max_abs, found.unequal) == (0.0, 0.01)
    assert not FP32.accepts(found)
    assert GATES["fp16"].accepts(found)
    other[1:10] = 99
    assert not GATES["fp16"].accepts(compare_arrays(classes, other))
    assert not FP32.accepts(compare_arrays(np.array([True]), np.array([False])))


def test_an_output_of_one_number_has_its_spread_over_the_samples() -> None:
    units = spreads([{"y": np.array([[value]])} for value in (1.0, 1.001, 0.999)])
    assert units[0]["y"] == pytest.approx(8.16e-4, rel=1e-2)
    assert spreads([{"y": np.array([[5.0]])}])[0]["y"] == 5.0
    assert spreads([{"y": np.zeros((1, 1))}])[0]["y"] == np.finfo(np.float32).tiny


@pytest.mark.parametrize("shape", [(1, 1), (1, 400)])
def test_what_is_zero_in_the_source_must_be_zero(shape: tuple[int, ...]) -> None:
    zeros = [{"y": np.zeros(shape, np.float32)}] * 3
    for gate in GATES.values():
        assert gate.accepts(compare(zeros, [{"y": -sample["y"]} for sample in zeros]))
        assert not gate.accepts(compare(zeros, [{"y": sample["y"] + np.float32(1e-9)} for sample in zeros]))
    # On one sample of several it has the others' spread.
    mixed = [{"y": np.zeros(shape, np.float32)}, *rounded(drawn(shape, 1, 2))]
    assert FP32.accepts(compare(mixed, [{"y": sample["y"] + np.float32(1e-9)} for sample in mixed]))


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_a_constant_is_held_to_a_part_of_its_size(size: float) -> None:
    samples = [{"y": np.full((1, 400), size, np.float32)}] * 3
    for off, allowed in ((5e-7, True), (1e-3, False)):
        assert FP32.accepts(compare(samples, [{"y": samples[0]["y"] * (1 + off)}] * 3)) is allowed


@pytest.mark.parametrize("output", ["a", "b"])
@pytest.mark.parametrize("sample", [0, 1])
def test_the_worst_sample_and_output_count(output: str, sample: int) -> None:
    good = {"a": DRAWN, "b": DRAWN}
    samples = [good, good]
    samples[sample] = {**good, output: DRAWN + np.float32(0.5)}
    found = compare([good, good], samples)
    assert found.output == output
    alone = compare_arrays(good[output], samples[sample][output], output)
    for field in ("max_abs", "scaled", "rms", "cosine", "beyond", "beyond_rms", "slice_rms"):
        assert getattr(found, field) == pytest.approx(getattr(alone, field)), field
    assert found.max_abs == pytest.approx(0.5, rel=1e-5)
    assert not FP32.accepts(found)


def test_swapped_outputs_are_noticed() -> None:
    other = DRAWN[:, ::-1].copy()
    found = compare([{"a": DRAWN, "b": other}], [{"a": other, "b": DRAWN}])
    assert not GATES["bf16"].accepts(found)


def test_a_missing_output_a_wrong_shape_and_no_samples_raise() -> None:
    with pytest.raises(ValueError, match="missing"):
        compare([{"a": DRAWN}], [{"b": DRAWN}])
    with pytest.raises(ValueError, match="shape"):
        compare([{"a": DRAWN}], [{"a": DRAWN[:1]}])
    with pytest.raises(ValueError, match="samples"):
        compare([], [])
    with pytest.raises(ValueError, match="samples"):
        Expected([{"a": DRAWN}] * 2, ties=[Ties()] * 2).difference([{"a": DRAWN}], FP32)


@pytest.mark.parametrize("field", ["beyond", "beyond_rms", "slice_rms", "unequal"])
def test_a_gate_needs_every_bound(field: str) -> None:
    gate = Gate(1.0, 1.0, 1.0, 1.0, "")
    assert gate.accepts(Difference(beyond=1.0, beyond_rms=1.0, slice_rms=1.0, unequal=1.0))
    assert not gate.accepts(Difference(**{field: 1.1}))  # type: ignore[arg-type]
    assert not gate.accepts(Difference(**{field: float("nan")}))  # type: ignore[arg-type]
    assert "allowed" in gate.broken(Difference(**{field: 1.1}))  # type: ignore[arg-type]


def test_the_fp32_gate_sees_a_tanh_gelu() -> None:
    # The two forms of GELU differ by 4.7e-4 at most: fp16 tolerance hides it, fp32 must not.
    x = np.linspace(-4, 4, 1001)
    exact = 0.5 * x * (1 + np.vectorize(erf)(x / np.sqrt(2)))
    tanh = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    assert not FP32.accepts(compare_arrays(exact, tanh))
    assert GATES["fp16"].accepts(compare_arrays(exact, tanh))


@pytest.mark.parametrize("fill", [-1e4, -1e9, 1e10, float(np.finfo(np.float32).min)])
@pytest.mark.parametrize("shape", [(1, 5), (1, 200)])
def test_a_mask_s_fill_does_not_hide_what_stands_beside_it(fill: float, shape: tuple[int, ...]) -> None:
    references = rounded(drawn(shape, 8))
    wrong = rounded([array + 0.05 for array in drawn(shape, 8)])
    for sample in (*references, *wrong):
        sample["y"][..., -2:] = fill
    assert not FP32.accepts(compare(references, wrong))
    assert FP32.accepts(compare(references, references))
    for sample, reference in zip(wrong, references, strict=True):
        sample["y"][...] = reference["y"]
        sample["y"][..., -1] *= np.float32(0.9)
    assert not GATES["fp16"].accepts(compare(references, wrong))


def test_masked_values_do_not_hide_scores_beside_pixels() -> None:
    random = np.random.default_rng(3)
    output = np.concatenate([random.uniform(0, 640, (1, 4, 500)), random.random((1, 8, 500)) ** 4], axis=1)
    output[0, 0, 0] = -np.inf
    wrong = output.copy()
    wrong[:, 5] = wrong[:, 6]
    assert not GATES["fp16"].accepts(compare_arrays(output, wrong))
    assert GATES["fp16"].accepts(compare_arrays(output, output))


def test_a_score_beside_pixels_does_not_hide_where_there_are_few_numbers() -> None:
    random = np.random.default_rng(4)
    exact = [np.concatenate([random.uniform(0, 640, 4), random.random(1)])[None] for _ in range(3)]
    wrong = [array.copy() for array in exact]
    for array in wrong:
        array[0, 4] = 1.0 - array[0, 4]
    half = [{"y": array.astype(np.float16)} for array in exact]
    assert GATES["fp16"].accepts(compare(rounded(exact), half))
    assert not GATES["fp16"].accepts(compare(rounded(exact), rounded(wrong)))


def test_what_varies_by_its_last_places_alone_is_constant() -> None:
    random = np.random.default_rng(5)
    ones = (1.0 + 6e-8 * random.integers(-1, 2, (1, 500))).astype(np.float32)
    assert FP32.accepts(compare_arrays(ones, np.ones_like(ones)))
    assert GATES["fp16"].accepts(compare_arrays(ones, ones.astype(np.float16)))
    assert not FP32.accepts(compare_arrays(ones, ones + np.float32(1e-3)))


def test_complex_numbers_are_compared_in_both_parts() -> None:
    random = np.random.default_rng(6)
    both = random.standard_normal((1, 50)) + 1j * random.standard_normal((1, 50))
    assert FP32.accepts(compare_arrays(both, both.copy()))
    assert not GATES["bf16"].accepts(compare_arrays(both, both.conj()))


def test_a_float64_that_is_no_rounding_excuses_nothing() -> None:
    random = np.random.default_rng(7)
    exact = random.standard_normal((1, 3, 40, 40))
    flipped = exact.copy()
    flipped[0, 0, 0, 0] += 2.0
    other = random.standard_normal(exact.shape)
    references = rounded([exact])
    wrong = rounded([exact + 0.02 * random.standard_normal(exact.shape)])
    for known in (flipped, other):
        assert not FP32.accepts(compare(references, wrong, roundings_only(references, [{"y": known}])))
        assert FP32.accepts(compare(references, references, roundings_only(references, [{"y": known}])))
    [kept] = roundings_only(references, [{"y": flipped}])
    assert np.count_nonzero(kept["y"] != flipped) == 1
    assert roundings_only(references, [{"y": other}]) == [{}]


def test_a_fill_that_float64_holds_better_is_no_other_function() -> None:
    exact = drawn((1, 200), 9)
    for array in exact:
        array[0, 50:] -= 1e9
    references = rounded(exact)
    kept = roundings_only(references, [{"y": array} for array in exact])
    assert all("y" in sample for sample in kept)


def test_a_single_large_number_is_no_fill() -> None:
    exact = [np.array([[20000.0 + place, 3.0 + place / 10]]) for place in range(3)]
    wrong = [array + np.array([[0.05, 0.0]]) for array in exact]
    assert not FP32.accepts(compare(rounded(exact), rounded(wrong)))


def heavy(random: np.random.Generator, shape: tuple[int, ...], tail: str) -> np.ndarray:
    """Numbers around 0, and beside them few huge ones or a long tail."""
    body = random.standard_normal(shape)
    if tail == "cauchy":
        return random.standard_cauchy(shape)
    flat = body.reshape(-1)
    flat[:: 37 if tail == "many" else flat.size // 3] *= 1e4 if tail == "many" else 1e5
    return body


@pytest.mark.parametrize("tail", ["few", "many", "cauchy"])
@pytest.mark.parametrize("shape", [(1, 40), (1, 1000), (1, 3, 64, 64)])
@pytest.mark.parametrize("mean", [0.0, 3.0])
@pytest.mark.parametrize("known", [True, False])
def test_a_few_huge_numbers_hide_nothing_in_the_body(
    tail: str, shape: tuple[int, ...], mean: float, known: bool
) -> None:
    if tail == "few" and not known:
        pytest.skip("the source's rounding is taken for that of the largest numbers")
    random = np.random.default_rng(3)
    exact = [mean + heavy(random, shape, tail) for _ in range(3)]
    noise = drawn(shape, 6)
    spread = 1.4826 * np.median(np.abs(exact[0] - np.median(exact[0])))
    wrong = [array + 0.05 * spread * other for array, other in zip(exact, noise, strict=True)]
    alike = [array * (1 + 1e-7 * other) for array, other in zip(exact, noise, strict=True)]
    float64 = [{"y": array} for array in exact] if known else []
    assert not FP32.accepts(compare(rounded(exact), rounded(wrong), float64))
    assert FP32.accepts(compare(rounded(exact), rounded(alike), float64))


def test_an_output_of_little_beside_much_may_round_as_the_much_does() -> None:
    # Most of a detector's scores are nearly 0, and a sigmoid may be exact to a last place of 1.
    random = np.random.default_rng(4)
    scores = 1e-7 * random.random((1, 1, 60, 60))
    scores[..., ::20, ::20] = 0.9
    engine = scores + 3e-8 * random.uniform(-1, 1, scores.shape)
    assert FP32.accepts(compare_arrays(scores.astype(np.float32), engine, exact=scores))


def test_a_rounding_of_one_number_excuses_no_other() -> None:
    exact = drawn((1, 400), 2)
    source = [array.copy() for array in exact]
    other = [array.copy() for array in exact]
    for rounds, errs in zip(source, other, strict=True):
        rounds[0, 7] += 0.05
        errs[0, 50] += 0.05
    known = [{"y": array} for array in exact]
    assert FP32.accepts(compare(rounded(source), rounded(exact), known))
    assert compare(rounded(source), rounded(other), known).beyond > FP32.scaled


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_an_output_is_judged_in_the_last_place_of_its_own_type(kind: str) -> None:
    dtype = np.dtype(getattr(ml_dtypes, kind, kind))
    eps = float(ml_dtypes.finfo(dtype).eps)
    exact = drawn((1, 500), 4)
    source = [{"y": array.astype(dtype)} for array in exact]
    # An engine that is right in float32 rounds some numbers to the next.
    engine = [{"y": (array * (1 + 1e-6)).astype(np.float32).astype(dtype)} for array in exact]
    beside = [{"y": (array * (1 + 0.15 * eps)).astype(dtype)} for array in exact]
    for found in (engine, beside):
        assert FP32.accepts(compare(source, found))
    wrong = [{"y": (array + 4 * eps * np.abs(array)).astype(dtype)} for array in exact]
    assert not FP32.accepts(compare(source, wrong))


def test_what_the_source_moves_at_one_place_excuses_no_other() -> None:
    references = rounded(drawn((1, 400), 2))
    moves = [{"y": np.full((1, 400), 1e-3, np.float32)} for _ in references]
    for sample in moves:
        sample["y"][0, :5] = 0.3
    for place, excused in ((3, True), (50, False)):
        engine = [{"y": sample["y"].copy()} for sample in references]
        for sample in engine:
            sample["y"][0, place] += 0.2
        assert GATES["fp16"].accepts(compare(references, engine, moves=moves)) is excused
        assert not GATES["fp16"].accepts(compare(references, engine))


@pytest.mark.parametrize("shape", [(1, 4), (1, 300), (1, 4, 20, 20)])
def test_a_source_that_moves_everywhere_excuses_a_tenth_of_a_spread(shape: tuple[int, ...]) -> None:
    exact = drawn(shape, 2)
    moves = [{"y": np.full(shape, 2.0, np.float32)} for _ in exact]
    for part, excused in ((0.1, True), (0.25, False)):
        engine = rounded([array + part * np.std(exact) for array in exact])
        assert GATES["fp16"].accepts(compare(rounded(exact), engine, moves=moves)) is excused


def test_probabilities_of_nothing_are_held_to_the_last_place_of_a_half() -> None:
    """A detector's map on a picture without text: 5e-7 everywhere, in steps of a half's last place."""
    random = np.random.default_rng(0)
    true = [5e-7 + 1e-7 * random.normal(size=(1, 1, 64, 64)) for _ in range(3)]
    rounded = [(np.float32(0.5) + array.astype(np.float32)) - np.float32(0.5) for array in true]
    steps = [2**-24 * random.integers(-1, 2, array.shape).astype(np.float32) for array in rounded]
    exact, references = [{"y": array} for array in true], [{"y": array} for array in rounded]
    found = [{"y": array + step} for array, step in zip(rounded, steps, strict=True)]
    assert FP32.accepts(compare(references, found, exact=exact))
    wrong = [{"y": array + np.float32(1e-6)} for array in rounded]
    assert not FP32.accepts(compare(references, wrong, exact=exact))
    # Numbers as small that were computed beside small ones have no such steps.
    fine = [{"y": array.astype(np.float32)} for array in true]
    off = [{"y": sample["y"] + step} for sample, step in zip(fine, steps, strict=True)]
    assert not FP32.accepts(compare(fine, off, exact=exact))


@pytest.mark.parametrize("spread", [1e-4, 1e-3])
def test_numbers_around_one_are_held_to_their_spread_though_they_come_in_steps(spread: float) -> None:
    random = np.random.default_rng(3)
    drawn = [(1.0 + spread * random.standard_normal((1, 4096))).astype(np.float32) for _ in range(3)]
    found = [{"y": array + np.float32(0.08 * spread)} for array in drawn]
    assert GATES["fp16"].broken(compare([{"y": array} for array in drawn], found))
