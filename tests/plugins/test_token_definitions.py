"""The definitions of the token ops on cases small enough to work out by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from bodies import run_body

from edgec.core.errors import RequestError
from edgec.plugins.infra import plugins
from edgec.plugins.kernels.cpu import native


def feeds(keys: list[list[float]], sizes: list[float] | None = None) -> dict[str, np.ndarray]:
    """Tokens 0, 1, 2, … with the given keys."""
    count = len(keys)
    return {
        "tokens": np.arange(count, dtype=np.float32).reshape(1, count, 1),
        "metric": np.array(keys, np.float32).reshape(1, 1, count, -1),
        "sizes": np.array(sizes or [1.0] * count, np.float32).reshape(1, count, 1),
    }


EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]


def test_the_most_alike_pair_becomes_its_average() -> None:
    # Free tokens 1 … 4: 1 and 3 seek among 2 and 4; token 3 has the same key as 4.
    merged, sizes, assignment = run_body(
        "TokenMerge", feeds([EAST, EAST, NORTH, WEST, WEST]), r=1, protected=1
    )
    assert merged.ravel().tolist() == [0, 1, 2, 3.5]
    assert sizes.ravel().tolist() == [1, 1, 1, 2]
    assert assignment.tolist() == [[0, 1, 2, 3, 3]]


def test_sizes_weigh() -> None:
    merged, sizes, _ = run_body("TokenMerge", feeds([EAST, EAST], [3, 1]), r=1)
    assert merged.ravel().tolist() == [0.25]
    assert sizes.ravel().tolist() == [4]


def test_the_lower_index_wins_ties() -> None:
    assignment = run_body("TokenMerge", feeds([EAST] * 6), r=2)[2]
    # 0 and 2 go first, both into 1, the first of their equal partners.
    assert assignment.tolist() == [[0, 0, 0, 1, 2, 3]]
    scored = {**feeds([EAST] * 5), "score": np.ones((1, 5), np.float32)}
    assert run_body("TokenPrune", scored, r=2)[2].tolist() == [[0, 1, 2, 0, 0]]


def test_energy_leaves_lonely_tokens_alone() -> None:
    keys = [NORTH, EAST, EAST, WEST, EAST, EAST]
    assignment = run_body("TokenMergeEnergy", feeds(keys), r=2, margin=0.5)[2]
    # Tokens 1, 2, 4 and 5 have the highest energy: 1 and 4, of even rank, go into 2; 0 and 3 are lonely.
    assert assignment.tolist() == [[0, 1, 1, 2, 1, 3]]


def test_pruning_drops_or_merges() -> None:
    given_ = {**feeds([EAST, NORTH, EAST, NORTH]), "score": np.array([[9, 8, 1, 7]], np.float32)}
    merged, sizes, assignment = run_body("TokenPrune", given_, r=1, merge=1)
    assert (merged.ravel().tolist(), sizes.ravel().tolist()) == ([1, 1, 3], [2, 1, 1])
    dropped, sizes, same = run_body("TokenPrune", given_, r=1, merge=0)
    assert (dropped.ravel().tolist(), sizes.ravel().tolist()) == ([0, 1, 3], [1, 1, 1])
    assert assignment.tolist() == same.tolist() == [[0, 1, 0, 2]]


@pytest.mark.parametrize("op_type", ["TokenMerge", "TokenMergeEnergy", "TokenPrune"])
def test_nan_and_infinity_in_a_metric_decide_like_numbers(op_type: str) -> None:
    given_ = feeds([[np.nan, 1.0], [np.inf, 0.0], [1.0, 1.0], [-np.inf, np.nan], [2.0, 2.0], [0.0, 0.0]])
    if op_type == "TokenPrune":
        given_["score"] = np.array([[np.nan, np.inf, -np.inf, 0, 1, 2]], np.float32)
    body = run_body(op_type, given_, r=2)
    call, kernel = native.prepare(plugins()[op_type], given_, {"r": 2})
    call()
    assert np.isfinite(body[0]).all()
    np.testing.assert_array_equal(kernel[2], body[2])
    np.testing.assert_allclose(kernel[0], body[0], rtol=1e-6)


def test_a_nan_token_spoils_its_own_group_in_the_kernel() -> None:
    given_ = feeds([EAST, EAST, NORTH, WEST])
    given_["tokens"][0, 0] = np.nan
    call, outputs = native.prepare(plugins()["TokenMerge"], given_, {"r": 1})
    call()
    assert np.isnan(outputs[0].ravel()).tolist() == [True, False, False]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_restoring_gives_each_token_its_group(data: st.DataObject) -> None:
    free, protected = data.draw(st.integers(2, 20)), data.draw(st.integers(0, 2))
    r = data.draw(st.integers(0, free // 2))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    length = free + protected
    tokens = rng.normal(size=(2, length, 3)).astype(np.float32)
    metric, sizes = rng.normal(size=(2, 1, length, 4)).astype(np.float32), np.ones((2, length, 1), np.float32)
    drawn = {"tokens": tokens, "metric": metric, "sizes": sizes}
    call, outputs = native.prepare(plugins()["TokenMerge"], drawn, {"r": r, "protected": protected})
    call()
    merged, mass, assignment = outputs
    [restored] = run_body("TokenRestore", {"tokens": merged, "assignment": assignment})
    # A group's average, spread over its members, keeps every sample's sum.
    np.testing.assert_allclose(restored.sum(1), tokens.sum(1), atol=1e-4)
    np.testing.assert_array_equal(restored[:, :protected], tokens[:, :protected])
    assert mass.sum() == 2 * length


@pytest.mark.parametrize(
    ("op_type", "r", "protected", "words"),
    [
        ("TokenMerge", 5, 1, "choose r from 0 to 4"),
        ("TokenMerge", -1, 0, "choose r from 0 to 5"),
        ("TokenMergeEnergy", 6, 0, "choose r from 0 to 5"),
        ("TokenPrune", 9, 1, "choose r from 0 to 8"),
        ("TokenMerge", 0, 9, "needs two free tokens"),
    ],
)
def test_r_beyond_the_tokens_is_refused(op_type: str, r: int, protected: int, words: str) -> None:
    def value(*shape: int) -> ir.Value:
        return ir.Value(name="v", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))

    score = [value(1, 10)] if op_type == "TokenPrune" else []
    node = ir.Node(
        "ai.edgec",
        op_type,
        [value(1, 10, 4), *score, value(1, 2, 10, 3), value(1, 10, 1)],
        ir.convenience.convert_attributes({"r": r, "protected": protected}),
        num_outputs=3,
    )
    with pytest.raises(RequestError, match=words):
        plugins()[op_type].infer(node)
