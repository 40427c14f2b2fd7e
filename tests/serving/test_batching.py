"""Requests share runs where rows allow it, each gets its own rows, and none waits longer than the bound."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from serving_parts import WEIGHT, infer, python_model, serving, until, write_bundle
from tritonclient.utils import InferenceServerException

from edgec.serving.bundles import opened
from edgec.serving.rows import Rows, best_size, common_axis


class Gated:
    """A model whose runs wait until they are let go, and are remembered."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.runs: list[np.ndarray] = []

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.runs.append(feeds["x"])
        assert self.go.wait(60)
        if (feeds["x"] < 0).any():
            raise RuntimeError("a negative number")
        return {"y": 2 * feeds["x"]}


@pytest.mark.parametrize(("is_fixed", "sizes"), [(False, [1, 3]), (True, [4, 4])])
def test_what_waits_shares_a_run(is_fixed: bool, sizes: list[int]) -> None:
    model = Gated()
    rows = Rows(4, is_fixed)
    inputs = [np.full((1, 4), value, np.float32) for value in range(4)]
    with serving([python_model(model, rows=rows)]) as server, ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(infer, server, inputs[0])]
        until(lambda: len(model.runs) == 1)
        answers += [pool.submit(infer, server, x) for x in inputs[1:]]
        until(lambda: len(server.queues[0]) == 3)
        model.go.set()
        for x, answer in zip(inputs, answers, strict=True):
            np.testing.assert_array_equal(answer.result(), 2 * x)
    assert [len(run) for run in model.runs] == sizes


def test_a_request_that_breaks_a_run_harms_itself_alone(x: np.ndarray) -> None:
    model = Gated()
    with serving([python_model(model, rows=Rows(8, False))]) as server:
        with ThreadPoolExecutor(3) as pool:
            first = pool.submit(infer, server, x)
            until(lambda: len(model.runs) == 1)
            good, bad = (pool.submit(infer, server, sign * (x + 1)) for sign in (1, -1))
            until(lambda: len(server.queues[0]) == 2)
            model.go.set()
            np.testing.assert_array_equal(first.result(), 2 * x)
            np.testing.assert_array_equal(good.result(), 2 * (x + 1))
            with pytest.raises(InferenceServerException, match="m failed: a negative number"):
                bad.result()
        np.testing.assert_array_equal(infer(server, x), 2 * x)


def test_a_request_that_is_alone_is_not_held_back(x: np.ndarray) -> None:
    model = Gated()
    model.go.set()
    with serving([python_model(model, rows=Rows(8, False))], delay=3600.0) as server:
        infer(server, x)


def test_a_request_is_held_back_while_others_come_and_no_longer(x: np.ndarray) -> None:
    model = Gated()
    model.go.set()
    with serving([python_model(model, rows=Rows(8, False))], delay=3600.0) as server:
        queue = server.queues[0]
        queue.expect(1)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(infer, server, x)
            until(lambda: len(queue) == 1)
            assert not model.runs
            queue.expect(-1)
            answer.result()


@pytest.mark.parametrize(
    ("rows", "mixing", "shared"), [(1, False, None), (8, False, 8), (8, True, None), ("n", True, None)]
)
def test_rows_that_see_each_other_are_never_put_together(
    tmp_path: Path, rows: int | str, mixing: bool, shared: int | None
) -> None:
    path = write_bundle(tmp_path / "a.x86.edgec", rows, mixing)
    with opened([str(path)]) as [model]:
        assert (model.rows and model.rows.most) == shared


def test_an_open_batch_takes_several_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgec.serving.rows._shortest", lambda run, feeds: 1.0 if run(feeds) else 0.0)
    path = write_bundle(tmp_path / "a.x86.edgec", "n")
    monkeypatch.setattr("edgec.serving.rows._LONGEST_TRIAL", 2.0)
    with opened([str(path)]) as [model], serving([model]) as server:
        assert model.rows == Rows(32, is_fixed=False)
        rng = np.random.default_rng(3)
        inputs = [rng.standard_normal((1 + index % 3, 4), np.float32) for index in range(64)]
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda x: infer(server, x, "a"), inputs))
    for x, answer in zip(inputs, answers, strict=True):
        np.testing.assert_allclose(answer, x @ WEIGHT, rtol=1e-5, atol=1e-6)
    with opened([str(path)], batching=False) as [model]:
        assert model.rows is None


def test_an_axis_is_common_to_all_or_none() -> None:
    assert common_axis([("n", 4), ("n", 3)]) == "n"
    assert common_axis([(8, 4), (8,)]) == 8
    assert common_axis([(1, 4), (1, 3)]) is None
    assert common_axis([("n", 4), ("m", 3)]) is None
    assert common_axis([("n", 4), ()]) is None


def test_the_size_is_the_smallest_that_no_larger_one_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {1: 1.0, 2: 1.2, 4: 2.0, 8: 3.9, 16: 9.0, 32: 99.0}
    monkeypatch.setattr("edgec.serving.rows._LONGEST_TRIAL", 99.0)
    monkeypatch.setattr("edgec.serving.rows._shortest", lambda run, feeds: sizes[len(feeds["x"])])
    assert best_size(lambda feeds: feeds, {"x": np.zeros((1, 4))}) == 4
