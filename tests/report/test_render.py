"""The report page: whole with every section or hardly any, safe with any text, and honest in its tables."""

from __future__ import annotations

import copy
import html.parser
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.core.errors import RequestError
from edgec.report.render import render, report_data
from edgec.report.schema import Report

SMALLEST: dict[str, Any] = {"schema": 1, "model": {"name": "m"}}

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(html.parser.HTMLParser):
    """Tags, texts and tables of a page; fails on a tag that is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.ids: set[str] = set()
        self.tables: list[dict[str, Any]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fields = dict(attrs)
        self.tags.append((tag, fields))
        self.ids |= {fields["id"] or ""} if "id" in fields else set()
        if tag == "table":
            self.tables.append({"kind": fields.get("data-kind"), "text": "", "caption": False, "scopes": 0})
        if tag == "caption":
            self.tables[-1]["caption"] = True
        if tag == "th":
            assert fields.get("scope") in ("col", "row")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data
            if "table" in self.open:
                self.tables[-1]["text"] += data


def test_every_section_is_there(sample_report: dict[str, Any]) -> None:
    page = Page(render(sample_report))
    assert {"latency", "numerics", "layers", "passes", "origin", "reproduce"} <= page.ids
    text = re.sub(r"\s+", " ", page.text)
    for expected in (
        "deit_tiny_patch16_224",
        "The weights are random",
        "12.1 ms",
        "1.42× its speed",
        "plain openvino, takes 17.2 ms",
        "97.50%",
        "97.78 %",
        "a drop of 0.28 points on 360 samples",
        "off by 3.1e-6 of the output's spread",
        "rounding argues for 0.0001",
        "2.46 times the chosen engine's latency",
        "could not be taken: failed its gate",
        "blocks.3.attn",
        "the probabilities have a second consumer, /blocks.3/attn/ReduceMean",
        "409 nodes became 122",
        "dynamo",
        "verified against the module's own outputs",
        "edgec compile timm:deit_tiny_patch16_224",
        "2026.4.1",
        sample_report["files"]["io.json"],
        "5.72 M",
        "AMD EPYC, 2 cores",
    ):
        assert expected in text, expected


def test_every_engine_and_layer_is_listed(sample_report: dict[str, Any]) -> None:
    page = Page(render(sample_report))
    measured = next(table["text"] for table in page.tables if table["kind"] == "measured")
    for entry in sample_report["latency"]["entries"]:
        assert entry["name"] in measured
    layers = next(table["text"] for table in page.tables if "Engine layer" in table["text"])
    for layer in sample_report["layers"]:
        assert layer["layer"] in layers


def test_the_smallest_report_renders() -> None:
    page = Page(render(SMALLEST))
    assert "Nothing was measured on a device." in page.text
    assert "Nothing was compared with the source." in page.text
    assert "No evaluation data was given" in page.text
    assert not {"layers", "passes"} & page.ids


OPTIONAL = (
    "accuracy",
    "layers",
    "passes",
    "attention",
    "numerics",
    "latency",
    "device",
    "tools",
    "files",
    "command",
)


@pytest.mark.parametrize("missing", OPTIONAL)
@pytest.mark.parametrize("how", ["left out", "empty"])
def test_a_missing_section_does_not_hinder_the_others(
    sample_report: dict[str, Any], missing: str, how: str
) -> None:
    value = sample_report.pop(missing)
    if how == "empty":
        sample_report[missing] = None if missing in ("accuracy", "numerics", "latency") else type(value)()
    page = Page(render(sample_report))
    links = {(fields.get("href") or "").removeprefix("#") for tag, fields in page.tags if tag == "a"}
    assert links <= page.ids


def test_texts_of_the_model_are_escaped(sample_report: dict[str, Any], sample_tokens: dict[str, Any]) -> None:
    nasty = "<script>alert(1)</script>\"'&"
    sample_report["layers"][0] |= {"layer": nasty, "source": nasty, "op": nasty, "microseconds": 1e9}
    sample_report["passes"][0] |= {"sites": [nasty], "matched": 1, "name": f"fuse.{nasty}"}
    sample_report["passes"][1]["missed"] = [{"node": nasty, "source": nasty, "reason": nasty}]
    sample_report["model"] |= {"name": nasty, "notes": [nasty], "exporter_reason": nasty}
    sample_report["latency"]["entries"][0] |= {"name": nasty, "why": nasty}
    sample_report["latency"]["predicted"][0] |= {"name": nasty, "device": nasty}
    sample_report["fallbacks"] = [nasty, {nasty: nasty}]
    sample_tokens |= {"name": nasty, "meaning": nasty, "refused": [{"source": nasty, "reason": nasty}]}
    sample_tokens["frontier"][0]["name"] = nasty
    sample_tokens["sites"][0]["layer"] = nasty
    sample_report["tokens"] = sample_tokens
    sample_report |= {"command": nasty, "target": nasty, "files": {nasty: nasty}}
    sample_report["device"]["name"] = nasty
    text = render(sample_report)
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "<script>alert" not in text
    assert nasty in page.text


ANY = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)


@settings(max_examples=25, deadline=None)
@given(name=ANY, source=ANY, op=ANY, reason=ANY, time=st.floats(0, 1e12))
def test_any_text_leaves_the_page_whole(name: str, source: str, op: str, reason: str, time: float) -> None:
    report = {
        **SMALLEST,
        "model": {"name": name, "notes": [reason]},
        "layers": [{"layer": name, "source": source, "op": op, "microseconds": time}],
        "passes": [
            {
                "name": op,
                "matched": 1,
                "sites": [source],
                "missed": [{"node": name, "source": source, "reason": reason}],
                "nodes_before": 2,
                "nodes_after": 1,
            }
        ],
    }
    usual = {"script", "style", "table", "svg", "section", "details", "figure", "code"}
    counts = [tag for tag, _ in Page(render(report)).tags if tag in usual]
    plain = {**report, "model": {"name": "m", "notes": ["n"]}}
    assert counts == [tag for tag, _ in Page(render(plain)).tags if tag in usual]


def test_nothing_is_loaded_from_anywhere(sample_report: dict[str, Any]) -> None:
    text = render(sample_report)
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"link", "img", "iframe", "object", "embed", "base", "form"}
    for tag, fields in page.tags:
        assert not {"src", "srcset", "action", "background"} & set(fields), tag
        assert not [name for name in fields if name.startswith("on")]
        if tag == "a":
            assert (fields["href"] or "").startswith("#")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text.replace("http-equiv", ""))
    policy = next(fields["content"] or "" for tag, fields in page.tags if "http-equiv" in fields)
    assert "default-src 'none'" in policy


def test_measured_and_predicted_never_share_a_table(sample_report: dict[str, Any]) -> None:
    tables = {table["kind"]: table["text"] for table in Page(render(sample_report)).tables if table["kind"]}
    assert "tensorrt fp16" in tables["predicted"]
    assert "tensorrt fp16" not in tables["measured"]
    for entry in sample_report["latency"]["entries"]:
        assert entry["name"] not in tables["predicted"]


def test_latencies_that_nothing_measured_are_called_predictions(sample_report: dict[str, Any]) -> None:
    sample_report["latency"] |= {"measured": False, "device": "", "predicted": []}
    page = Page(render(sample_report))
    tables = {table["kind"]: table["text"] for table in page.tables if table["kind"]}
    assert set(tables) == {"predicted"}
    figures = [entry for entry in sample_report["latency"]["entries"] if entry["p50"] is not None]
    assert tables["predicted"].count("no device") == len(figures)
    assert "A prediction: nothing was measured." in page.text
    assert "× its speed" not in page.text


def test_tables_have_captions_and_scroll_regions_have_names(sample_report: dict[str, Any]) -> None:
    page = Page(render(sample_report))
    assert page.tables
    assert all(table["caption"] for table in page.tables)
    regions = [fields for _, fields in page.tags if fields.get("role") == "region"]
    assert len(regions) == len(page.tables)
    assert all(fields.get("aria-label") and fields.get("tabindex") == "0" for fields in regions)


def test_a_failed_gate_is_said_first(sample_report: dict[str, Any]) -> None:
    gate = sample_report["numerics"]["gates"][0]
    gate |= {"max_abs": float("inf"), "scaled": float("inf"), "rms": float("inf"), "passed": False}
    page = Page(render(sample_report))
    assert "Beyond the gate: neutral graph." in page.text
    assert "not finite" in page.text


def test_a_slower_engine_is_said_to_be_slower(sample_report: dict[str, Any]) -> None:
    chosen = sample_report["latency"]["entries"][0]
    chosen |= {"ratio_to_best_baseline": 1.25, "ratio_interval": [1.2, 1.3], "verdict": "slower"}
    text = Page(render(sample_report)).text
    assert "0.80× its speed" in text
    assert "Slower: the best peer" in text


def test_what_cannot_be_told_apart_is_no_claim(sample_report: dict[str, Any]) -> None:
    chosen = sample_report["latency"]["entries"][0]
    chosen |= {
        "ratio_to_best_baseline": 0.78,
        "ratio_interval": [0.7, 1.1],
        "verdict": "cannot be told apart",
    }
    text = Page(render(sample_report)).text
    assert "Cannot be told apart: the best peer" in text
    assert "1.28" not in text
    assert "× its speed" not in text


def test_a_page_without_an_engine_claims_nothing_measured(sample_report: dict[str, Any]) -> None:
    ran = "ONNX Runtime standing in for TensorRT"
    sample_report["numerics"] |= {"kind": "emulated", "ran": ran}
    sample_report["accuracy"] |= {"kind": "emulated"}
    sample_report["layers"] = []
    sample_report["latency"] |= {"measured": False, "entries": [], "predicted": []}
    page = Page(render(sample_report))
    measured, emulated = re.findall(
        r"(?:Measured on the device|Emulated on this machine):([^\n]*)", page.text
    )
    assert measured.strip() == "nothing, no device ran this bundle."
    assert "top-1 accuracy of the engine" in emulated
    assert ran in emulated
    assert "Numerics, emulated" in page.text
    assert "Accuracy, emulated" in page.text
    assert "The engine did not run" in page.text


def test_another_precision_than_the_peers_is_said(sample_report: dict[str, Any]) -> None:
    sample_report["latency"]["entries"][0]["precision"] = "bf16"
    assert "in fp32; this engine runs bf16" in Page(render(sample_report)).text


def test_fallbacks_are_said_first_and_listed(sample_report: dict[str, Any]) -> None:
    sample_report["fallbacks"] = ["blocks.3.attn runs on ort", {"node": "head", "why": "no kernel"}]
    text = Page(render(sample_report)).text
    assert "2 fallbacks: part of the model does not run the way it was meant to" in text
    assert "blocks.3.attn runs on ort" in text
    assert "no kernel" in text


def test_a_busy_machine_is_said_first(sample_report: dict[str, Any]) -> None:
    assert "The machine was busy" not in Page(render(sample_report)).text
    sample_report["latency"]["entries"][0]["spread"] = 0.6
    text = Page(render(sample_report)).text
    assert "The machine was busy: the chosen engine's blocks spread by 60 %" in text


def test_samples_are_listed_where_the_run_kept_them(sample_report: dict[str, Any]) -> None:
    sample_report["numerics"]["gates"][1]["details"] = [
        {"sample": 2, "output": "second_output", "max_abs": 1e-6, "scaled": 4.5e-7, "cosine": 1.0}
    ]
    text = Page(render(sample_report)).text
    assert "second_output" in text
    assert "4.5e-7" in text


def test_the_same_report_gives_the_same_bytes_and_is_left_alone(sample_report: dict[str, Any]) -> None:
    before = copy.deepcopy(sample_report)
    assert render(sample_report) == render(copy.deepcopy(sample_report))
    assert sample_report == before


def test_the_sample_has_every_key_of_the_schema(sample_report: dict[str, Any]) -> None:
    # Annotations are strings there, so the class itself cannot tell which keys may be left out.
    required = {key for key, kind in Report.__annotations__.items() if "NotRequired" not in str(kind)}
    assert required <= set(sample_report) <= set(Report.__annotations__)


@pytest.mark.parametrize("wrong", [{}, {"schema": "1", "model": {}}, {"schema": 1}])
def test_what_is_no_report_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="not a report"):
        report_data(wrong)


def test_a_newer_report_is_refused() -> None:
    with pytest.raises(RequestError, match="schema 99"):
        render({**SMALLEST, "schema": 99})


def test_the_gates_table_shows_whatever_figures_a_gate_holds(sample_report: dict[str, Any]) -> None:
    gate = sample_report["numerics"]["gates"][1]
    gate |= {"noise_floors": 3.25, "layer": "first beyond it: blocks.3.attn"}
    gate["gate"]["noise_floors"] = 8.0
    text = Page(render(sample_report)).text
    assert "Noise floors" in text
    assert "3.2e0" in text
    assert "noise floors 8e0" in text
    assert "first beyond it: blocks.3.attn" in text


def test_a_report_that_does_not_say_what_ran_is_judged_by_its_engine(sample_report: dict[str, Any]) -> None:
    sample_report |= {"engine": "tensorrt"}
    for section in ("numerics", "accuracy"):
        del sample_report[section]["kind"]
    for entry in sample_report["latency"]["entries"]:
        del entry["interval"], entry["ratio_interval"], entry["verdict"]
    data = report_data(sample_report)
    assert (data["numerics"]["kind"], data["accuracy"]["kind"]) == ("emulated", "emulated")  # type: ignore[index]
    assert "Cannot be told apart" in Page(render(sample_report)).text


def test_what_nothing_predicted_is_no_prediction(sample_report: dict[str, Any]) -> None:
    latency = sample_report["latency"]
    latency |= {"measured": False, "predicted": [], "device": ""}
    figures = ("p50", "p90", "spread", "interval", "ratio_to_best_baseline", "ratio_interval", "verdict")
    latency["entries"] = [{**latency["entries"][0], **dict.fromkeys(figures), "blocks": []}]
    page = Page(render(sample_report))
    assert not [table for table in page.tables if table["kind"] == "predicted"]
    assert "compiled on AMD EPYC" in page.text


def test_what_the_device_verified_is_told_as_measured(sample_report: dict[str, Any]) -> None:
    sample_report["numerics"] |= {"kind": "emulated", "ran": "ONNX Runtime standing in for TensorRT"}
    sample_report["measurements"] = [
        {"device": {"name": "orin-17"}, "verified": {"max_abs": 4e-3, "scaled": 3e-3, "cosine": 0.9999}}
    ]
    text = Page(render(sample_report)).text
    assert "Measured on orin-17: off by 3e-3 of it" in text
    assert "numerics of the engine on orin-17" in text


def test_what_the_runtime_is_known_to_get_wrong_is_said_first(sample_report: dict[str, Any]) -> None:
    finding = {
        "name": "GridSample in TensorRT",
        "layers": ["warp"],
        "seen": "large errors",
        "instead": "compare on the device",
        "sources": ["github.com/NVIDIA/TensorRT/issues/4813"],
        "text": "known to be wrong: GridSample in TensorRT (warp)",
    }
    sample_report["known_wrong"] = [finding]
    text = Page(render(sample_report)).text
    assert text.index(finding["text"]) < text.index("Latency")
    assert "NVIDIA/TensorRT/issues/4813" in text


def test_ways_through_branches_have_a_table_and_sides_never_taken_are_named():
    branches = {
        "sites": [{"name": "gate <1>", "kind": "If", "taken": ["else"], "missed": ["then"]}],
        "tried": 160,
        "shares_of": "drawn inputs",
        "paths": [{"path": "gate <1> else", "share": 0.75, "p50": 1.5, "p90": 1.75}],
    }
    page = Page(render({**SMALLEST, "branches": branches}))
    [table] = [table for table in page.tables if table["kind"] == "branches"]
    assert "gate <1> else" in table["text"]
    assert "75 %" in table["text"]
    assert "1.50" in table["text"]
    assert "No sample takes gate <1> then (160 inputs were tried)" in page.text


def test_the_page_says_what_the_inputs_were():
    drawn = [{"name": "ids", "what": "0…999"}, {"name": "x", "what": "N(0, 1)"}]
    gate = {"stage": "ort fp32", "max_abs": 0, "scaled": 0, "cosine": 1, "output": "y", "passed": True}
    gate |= {"gate": {"scaled": 1e-4, "cosine": 0.999, "why": "rounding"}, "samples": 3}
    report = {**SMALLEST, "inputs_drawn": drawn, "ranges_from": "drawn inputs", "precision": "fp16"}
    page = Page(render({**report, "numerics": {"gates": [gate]}}))
    assert "ids 0…999; x N(0, 1). Ranges that decide precision come from drawn inputs." in page.text
