"""Predicted latencies: bounded, ordered, honest about what is not stated, apart from what is measured."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from edgec.core.bundle import Bundle
from edgec.devices.prediction import PredictedLatency, Unpredicted, Work, predict
from edgec.devices.profiles import profile, profiles
from edgec.report.render import render
from edgec.targets.coreml.neural_engine.operations import Operation, Tensor
from edgec.targets.coreml.neural_engine.placement import macs


def work(macs: int = 10**9, weights: int = 10**7) -> list[Work]:
    return [Work("a", macs // 2, weights // 2, True), Work("b", macs // 2, weights // 2, True)]


def predicted(name: str, items: list[Work]) -> PredictedLatency:
    found = predict(profile(name), items)
    assert isinstance(found, PredictedLatency)
    return found


def test_the_band_holds_the_prediction() -> None:
    for device in profiles():
        if device.vendor != "Apple":
            continue
        found = predict(device, work())
        if isinstance(found, Unpredicted):
            assert "npu_tops" not in device.compute
            assert "states no rate" in found.why
        else:
            assert 0 < found.low < found.p50 < found.high
            assert "between" in found.why


def test_more_work_takes_longer_and_a_faster_chip_less() -> None:
    assert predicted("iphone-13", work(10**10)).p50 > predicted("iphone-13", work(10**9)).p50
    assert predicted("iphone-12", work(10**10)).p50 > predicted("iphone-13", work(10**10)).p50
    assert predicted("ipad-pro-m2", work(10**6, 10**9)).bound == "bandwidth"
    assert predicted("iphone-13", work(10**10)).bound == "arithmetic"
    assert predicted("iphone-13", work(10**3)).bound == "dispatch"


def test_arithmetic_at_the_stated_rate() -> None:
    """15.8 TOP/s at 30 %: 2 · 10⁹ operations in 0.42 ms, and one dispatch of 0.22 ms."""
    assert predicted("iphone-13", work(10**9)).p50 == pytest.approx(2e3 / (15.8e3 * 0.3) + 0.22, rel=1e-6)


def test_a_rate_that_counts_int8_is_halved() -> None:
    assert "half in fp16" in predicted("ipad-pro-m4", work()).why


def test_leaving_the_engine_costs_dispatches() -> None:
    items = work()
    broken = [items[0], Work("gather", 0, 0, False), items[1]]
    assert predicted("iphone-13", broken).dispatches == 2
    assert predicted("iphone-13", broken).p50 > predicted("iphone-13", items).p50
    doubted = [items[0], dataclasses.replace(items[0], certain=False), items[1]]
    assert predicted("iphone-13", doubted).dispatches == 1
    nothing = [dataclasses.replace(item, accelerated=False) for item in items]
    assert isinstance(predict(profile("iphone-13"), nothing), Unpredicted)


def tensor(*shape: int, constant: bool = False) -> Tensor:
    return Tensor("t", "fp16", shape, constant)


def test_multiply_accumulates() -> None:
    conv = Operation(
        "c",
        "conv",
        "c",
        (("x", tensor(1, 8, 1, 10)), ("weight", tensor(16, 8, 1, 1))),
        (tensor(1, 16, 1, 10),),
        {},
    )
    assert macs(conv) == 16 * 10 * 8
    turned = Operation(
        "m", "matmul", "m", (("x", tensor(1, 1, 4, 7)), ("y", tensor(1, 1, 4, 9))), (tensor(1, 1, 7, 9),),
        {"transpose_x": True},
    )  # fmt: skip
    assert macs(turned) == 7 * 9 * 4
    attention = Operation(
        "a", "scaled_dot_product_attention", "a",
        (("query", tensor(1, 2, 5, 8)), ("key", tensor(1, 2, 6, 8)), ("value", tensor(1, 2, 6, 8))),
        (tensor(1, 2, 5, 8),), {},
    )  # fmt: skip
    assert macs(attention) == 2 * (2 * 5 * 6 * 8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The digits' transformer in the Neural Engine's form."""
    import edgec

    folder = tmp_path_factory.mktemp("bundles") / "digits.edgec"
    return edgec.compile("zoo:vit_digits", target="coreml:ios18:auto", output=folder)


def test_the_report_keeps_predictions_apart(bundle: Bundle) -> None:
    report = bundle.report()
    assert report["latency"]["measured"] is False
    assert report["latency"]["predicted"]
    assert all(entry["p50"] is None for entry in report["latency"]["entries"])
    section = report["neural_engine"]
    assert section["predicted"] is True
    assert section["form"] == {"taken": True, "why": "no transpose stays"}
    assert section["transposes"] == 0
    assert {item["device"] for item in section["unpredicted"]} >= {"iphone-15-pro", "iphone-16"}
    page = (bundle.path / "report.html").read_text(encoding="utf-8")
    assert 'data-kind="measured"' not in page
    assert "no device ran it" in page


def test_the_summary_counts(bundle: Bundle) -> None:
    from edgec.report.assemble import summary

    fields = summary(bundle)
    assert fields["neural_engine"]["counts"].keys() == {"leaves", "may leave", "slow"}
    assert fields["latency_ms"]["p50"] is None


def test_a_device_measurement_is_merged_under_source_layers(bundle: Bundle, tmp_path: Path, capsys) -> None:
    import shutil

    from typer.testing import CliRunner

    from edgec.cli.main import app
    from edgec.targets.coreml.neural_engine.operations import operations

    copy = tmp_path / "copy.edgec"
    shutil.copytree(bundle.path, copy)
    name = "engine/model.mlpackage/Data/com.apple.CoreML/model.mlmodel"
    rows = [
        {"operation": item.name, "op": item.op, "device": "Neural Engine", "supported": ["CPU"], "cost": 0.01}
        for item in operations(copy / "engine")
    ]
    fields = {
        "schema": 1,
        "model_sha256": bundle.manifest["files"][name],
        "measured": "2026-01-01T00:00:00Z",
        "device": {"name": "iPhone99,9", "system": "iOS 99"},
        "compute_units": "all",
        "latency": {"p50": 1.25, "p90": 1.5, "blocks": [1.2, 1.25, 1.3], "runs": 200},
        "layers": [],
        "placement": rows,
    }
    file = tmp_path / "measured.json"
    file.write_text(json.dumps(fields), encoding="utf-8")
    page = tmp_path / "page.html"
    words = ["report", str(copy), "--measured", str(file), "-o", str(page)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    report = Bundle.open(copy).report()
    assert report["latency"]["device"] == "iPhone99,9"
    chosen = next(entry for entry in report["latency"]["entries"] if entry["role"] == "chosen")
    assert chosen["p50"] == 1.25
    assert report["latency"]["predicted"] == bundle.report()["latency"]["predicted"]
    placed = report["measurements"][0]["placement"]
    assert "blocks.0.attn.qkv" in {row["source"] for row in placed}
    text = page.read_text(encoding="utf-8")
    assert "Placement on iPhone99,9" in text
    assert text == render(report)

    fields["model_sha256"] = "0" * 64
    file.write_text(json.dumps(fields), encoding="utf-8")
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code != 0
    assert "another model" in str(refused.exception or refused.output)
