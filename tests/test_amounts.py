"""Amounts are checked in one place, in words and in numbers alike."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgec import amounts
from edgec.compiler import load
from edgec.core.errors import RequestError
from edgec.request import Request


@pytest.mark.parametrize(
    ("given", "meant"),
    [(None, None), ("1%", 0.01), ("0.5", 0.5), (0.25, 0.25), (0, 0.0), (np.float32(1), 1.0)],
)
def test_a_share(given: object, meant: float | None) -> None:
    assert amounts.share(given, "--max-drop") == meant


@pytest.mark.parametrize(
    ("given", "meant"), [(None, None), ("5ms", 5.0), ("0.005s", 5.0), ("5", 5.0), (2.5, 2.5), (3, 3.0)]
)
def test_a_time(given: object, meant: float | None) -> None:
    assert amounts.milliseconds(given, "--latency") == meant


NO_SHARES = [
    5,
    -1,
    math.nan,
    math.inf,
    "1 percent",
    "500",
    "",
    "-1%",
    True,
    [0.1],
    np.ones(2),
    1j,
    b"1%",
    "1٪",
]


@pytest.mark.parametrize("given", NO_SHARES, ids=repr)
def test_python_is_refused_what_the_command_line_is(given: object) -> None:
    with pytest.raises(RequestError, match="is not a share"):
        Request.checked("x86:ort", max_drop=given)


@pytest.mark.parametrize("given", [0, -1, math.nan, math.inf, "soon", "5 m", True, [5]], ids=repr)
def test_a_latency_that_is_none(given: object) -> None:
    with pytest.raises(RequestError, match="is not a time"):
        Request.checked("x86:ort", latency=given)


@pytest.mark.parametrize(
    "given",
    [{"seed": -1}, {"seed": 2**32}, {"seed": "7"}, {"seed": 1.5}, {"precision": 8}, {"tokens": 5}],
    ids=repr,
)
def test_other_words_are_checked_before_the_model_is_read(given: dict[str, object]) -> None:
    with pytest.raises(RequestError):
        Request.checked("x86:ort", **given)


def test_a_target_is_text() -> None:
    with pytest.raises(RequestError):
        Request.checked(86)  # type: ignore[arg-type]


@pytest.mark.parametrize("batch", [0, -1, 1.5, "2", True])
def test_a_batch_is_a_whole_number(batch: object) -> None:
    with pytest.raises(RequestError, match="--batch"):
        load("zoo:vit_digits", batch=batch)  # type: ignore[arg-type]
