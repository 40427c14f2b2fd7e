"""What the report says about token reduction."""

from __future__ import annotations

import re
from typing import Any

from edgec.report import charts
from edgec.report.render import render


def test_the_frontier_its_names_and_the_looks_are_told(
    sample_report: dict[str, Any], sample_tokens: dict[str, Any]
) -> None:
    text = render({**sample_report, "tokens": sample_tokens})
    for said in ("prune:2:118", "0.61", "2 looks", "refused", "blocks.4.attn", "it is windowed"):
        assert said in text
    assert 'href="#tokens"' in text
    assert "reduced network" in text


def test_longer_inputs_and_a_missing_budget_are_told_before_the_figures(
    sample_report: dict[str, Any], sample_tokens: dict[str, Any]
) -> None:
    tokens = sample_tokens
    tokens["gated"] = False
    notice = render({**sample_report, "tokens": tokens}).split("</aside>")[0]
    assert "fill at most 72 of 128 tokens" in notice
    assert "no budget was set" in notice
    tokens |= {"gated": True, "padding": None}
    notice = render({**sample_report, "tokens": tokens}).split("</aside>")[0]
    assert "fill at most" not in notice
    assert "no budget" not in notice


def test_a_schedule_without_a_search_or_data_says_that_nothing_was_gated(
    sample_report: dict[str, Any], sample_tokens: dict[str, Any]
) -> None:
    tokens = sample_tokens
    tokens |= {"frontier": [], "searched_on": None, "held_out": None, "gated": False, "baseline": None}
    del tokens["methods"]
    text = render({**sample_report, "tokens": tokens, "accuracy": None})
    assert "nothing was gated" in text
    assert '<svg class="frontier"' not in text


def test_a_report_without_reduction_has_no_section(sample_report: dict[str, Any]) -> None:
    assert 'id="tokens"' not in render(sample_report)


def test_the_frontier_chart_has_a_dot_a_point_and_faster_lies_to_the_left() -> None:
    points = [(2.0, 0.90, "", "a"), (4.0, 0.97, "chosen", "b"), (8.0, 0.98, "", "c")]
    drawn = str(charts.frontier(points))
    dots = re.findall(r'x1="([\d.]+)" y1="([\d.]+)".*?class="dot', drawn.replace("<line", "\n<line"))
    across, down = zip(*((float(x), float(y)) for x, y in dots), strict=True)
    assert list(across) == sorted(across)
    assert list(down) == sorted(down, reverse=True)
    assert drawn.count('class="dot chosen"') == 1
    assert str(charts.frontier([])).startswith("<svg")
