"""What the report says about slimming."""

from __future__ import annotations

from typing import Any

from edgec.report.render import render


def test_units_kinds_and_the_frontier_are_told_by_the_users_layers(
    sample_report: dict[str, Any], sample_slim: dict[str, Any]
) -> None:
    text = render({**sample_report, "slim": sample_slim})
    section = text.split('<section id="slim">')[1].split("</section>")[0]
    for said in ("blocks.2.mlp", ">768<", ">192<", "mlp=0.5", "head.fc", "it makes an output of the graph"):
        assert said in section
    # A plan of several axes is told by what each option takes.
    assert "<code>--slim mlp:blocks.2.mlp=192</code> <code>--tokens prune:2:98</code>" in section
    assert 'href="#slim"' in text


def test_a_missing_budget_and_a_slower_engine_are_told_before_the_figures(
    sample_report: dict[str, Any], sample_slim: dict[str, Any]
) -> None:
    slower = {**sample_slim, "gated": False, "baseline": {**sample_slim["baseline"], "ratio": 1.2}}
    notice = render({**sample_report, "slim": slower}).split("</aside>")[0]
    assert "Units are taken away and no budget was set" in notice
    assert "it takes 1.20 times as long as the same engine with all units" in notice


def test_a_report_without_slimming_has_no_section(sample_report: dict[str, Any]) -> None:
    assert 'id="slim"' not in render(sample_report)
