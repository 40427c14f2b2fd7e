"""`edgec report A B …`: one table of all bundles, limits for continuous integration, JUnit."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from edgec.cli.main import run
from edgec.core import bundle as bundles
from edgec.core.bundle import Bundle, InputsOutputs
from edgec.report.advice import advice_by_cause
from edgec.report.comparison import render, row_of


def written(folder: Path, name: str, report: dict[str, Any]) -> Path:
    """A bundle that has nothing but a report and an engine of 1,000 bytes."""
    path = folder / name
    with bundles.writing(path) as scratch:
        (scratch / "engine").mkdir()
        (scratch / "engine" / "model.bin").write_bytes(bytes(1000))
        bundles.write_json(scratch / bundles.REPORT_JSON, report)
        bundles.write_json(scratch / bundles.IO, InputsOutputs((), (), {}, ()).to_json())
        bundles.seal(scratch, {"samples": 1})
    return path


@pytest.fixture
def pair(sample_report: dict[str, Any], tmp_path: Path) -> tuple[Path, Path]:
    """A bundle with every figure, and one of which only a prediction is known."""
    unmeasured = {
        **sample_report,
        "target": "coreml",
        "accuracy": None,
        "latency": {
            "measured": False,
            "device": "",
            "blocks": 0,
            "entries": [],
            "predicted": [{"name": "all", "device": "A17", "p50": 1.25, "why": "rates"}],
        },
    }
    return written(tmp_path, "a.x86.edgec", sample_report), written(tmp_path, "b.coreml.edgec", unmeasured)


def test_a_row_says_what_each_figure_is(pair: tuple[Path, Path], sample_report: dict[str, Any]) -> None:
    measured, predicted = (row_of(Bundle.open(path)) for path in pair)
    entry = next(each for each in sample_report["latency"]["entries"] if each["role"] == "chosen")
    assert (measured.p50, measured.device) == (entry["p50"], sample_report["latency"]["device"])
    assert measured.drop == sample_report["accuracy"]["drop"]
    assert measured.size == 1000
    assert (predicted.p50, predicted.device, predicted.predicted) == (None, "", 1.25)
    assert predicted.drop is None


def test_the_page_has_both_and_keeps_predictions_apart(pair: tuple[Path, Path]) -> None:
    rows = [row_of(Bundle.open(path)) for path in pair]
    page = render([*rows, dataclasses.replace(rows[0], name="<script>", device="another")], "1.0")
    assert "a.x86.edgec" in page
    assert "b.coreml.edgec" in page
    assert "&lt;script&gt;" in page
    assert "Compare within a device only" in page
    chart = page[: page.index('id="all"')]
    assert "b.coreml.edgec" not in chart


def limited(pair: tuple[Path, Path], tmp_path: Path, *words: str) -> tuple[int, ET.Element]:
    junit = tmp_path / "j.xml"
    out = ["-o", str(tmp_path / "c.html"), "--junit", str(junit)]
    status = run(["report", *map(str, pair), *out, *words], debug=False)
    return status, ET.parse(junit).getroot()


def test_limits_fail_what_is_above_and_what_is_not_known(pair: tuple[Path, Path], tmp_path: Path) -> None:
    status, top = limited(pair, tmp_path)
    assert status == 0
    assert [suite.get("failures") for suite in top] == ["0", "0"]
    status, top = limited(pair, tmp_path, "--fail-above", "1000ms", "--fail-above", "50%")
    assert status == 1
    first, second = top
    assert (first.get("tests"), first.get("failures")) == ("3", "0")
    said = [failure.get("message") for failure in second.iter("failure")]
    assert said == [
        "its latency was not measured",
        "its score is not known: it was compiled without evaluation data",
    ]
    status, top = limited(pair[:1], tmp_path, "--fail-above", "0.001ms")  # type: ignore[arg-type]
    assert status == 1
    assert "a median of" in next(iter(top.iter("failure"))).get("message", "")


@pytest.mark.parametrize("words", [["5"], ["5ms", "6ms"], ["-1%"], ["fast"]])
def test_a_limit_that_is_none_is_refused(pair: tuple[Path, Path], tmp_path: Path, words: list[str]) -> None:
    limits = [option for word in words for option in ("--fail-above", word)]
    out = tmp_path / "c.html"
    assert run(["report", str(pair[0]), "-o", str(out), *limits], debug=False) == 2
    assert not out.exists()


def test_one_cause_is_told_once() -> None:
    def finding(why: str, layer: str) -> dict[str, str]:
        return {
            "severity": "slow",
            "why": why,
            "fix": "f",
            "title": "t",
            "url": "u",
            "op": "add",
            "source": layer,
            "node": layer,
        }

    section = {"findings": [finding("a", "x"), *(finding("b", f"y{place % 2}") for place in range(30))]}
    often, once = advice_by_cause(section)
    assert (often.why, often.count, often.layers) == ("b", 30, ["y0", "y1"])
    assert (once.why, once.count) == ("a", 1)
    assert advice_by_cause(None) == []
