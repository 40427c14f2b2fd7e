"""ONNX's node tests: what passed when the table was made passes still."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("coremltools")
ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "benchmarks"))
import coreml_node_tests as node_tests  # noqa: E402

TABLE = ROOT / "benchmarks" / "results" / "coreml_node_tests.md"
QUICK = 25
"""Every so many cases are run without `full`."""


def known_failures() -> set[str]:
    return set(re.findall(r"^- `(\w+)`", TABLE.read_text(), re.MULTILINE))


def broken(step: int, folder: Path) -> list[str]:
    failing = known_failures()
    found = []
    for case in node_tests.cases_of_onnx()[::step]:
        if case.name in failing or node_tests.inexpressible(case):
            continue
        reason = node_tests.judge(case, folder)
        if reason not in ("", node_tests.NOTHING_LEFT):
            found.append(f"{case.name}: {reason}")
    return found


@pytest.fixture(autouse=True)
def quiet():  # type: ignore[no-untyped-def]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def test_the_table_holds_on_every_so_many_cases(tmp_path: Path) -> None:
    assert broken(QUICK, tmp_path) == []


@pytest.mark.full
def test_the_table_holds(tmp_path: Path) -> None:
    assert broken(1, tmp_path) == []


def test_three_in_four_expressible_cases_pass() -> None:
    passed, of = map(int, re.search(r"(\d+) of (\d+) expressible cases pass", TABLE.read_text()).groups())
    assert passed >= 0.75 * of
