"""run, verify, bench, inspect, report, zoo, devices and doctor on a real bundle."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import TOKENS, WIDTH, Command

from edgec.core import bundle as bundles


def test_run_writes_what_the_engine_computes(edgec: Command, shared_bundle: Path, tmp_path: Path) -> None:
    feeds = {"x": np.random.default_rng(3).normal(size=(1, TOKENS, WIDTH)).astype(np.float32)}
    bundles.write_arrays(tmp_path / "in.npz", feeds)
    arguments = ("run", shared_bundle, "--input", tmp_path / "in.npz", "--output", tmp_path / "out.npz")
    done = edgec(*arguments, "--json")
    assert done.status == 0, done.err
    written = bundles.read_arrays(tmp_path / "out.npz")["logits"]
    assert done.json["outputs"]["logits"]["argmax"] == int(written.argmax())
    assert written.shape == (1, 5)


def test_verify_proves_a_copy_without_its_source(edgec: Command, shared_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere.edgec"
    shutil.copytree(shared_bundle, copy)
    done = edgec("verify", copy, "--json")
    assert done.status == 0, done.err
    assert done.json["passed"] is True
    assert done.json["samples"] == 3
    assert (done.json["kind"], done.json["ran"], done.json["not_run"]) == (
        "measured",
        "the engine itself",
        [],
    )


def test_verify_fails_where_the_samples_say_otherwise(
    edgec: Command, shared_bundle: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "m.edgec"
    shutil.copytree(shared_bundle, copy)
    path = copy / "samples" / "2.outputs.npz"
    changed = {name: array + 0.01 for name, array in bundles.read_arrays(path).items()}
    bundles.write_arrays(path, changed)
    manifest = bundles.Bundle.open(copy, check=False).manifest
    bundles.seal(copy, {key: value for key, value in manifest.items() if key not in ("files", "sha256")})
    done = edgec("verify", copy, "--json")
    assert done.status == 1
    assert "off by" in done.json["error"]["what"]


@pytest.mark.parametrize("name", ["engine/engine.json", "samples/0.inputs.npz", "report.html"])
def test_a_changed_byte_is_named(edgec: Command, shared_bundle: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "m.edgec"
    shutil.copytree(shared_bundle, copy)
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(bytes(content))
    for command in ("verify", "run", "inspect", "report"):
        done = edgec(command, copy)
        assert done.status == 1
        assert Path(name).name in done.err
        assert "changed after it was written" in done.err


def test_bench_measures_the_bundle_and_its_peers(edgec: Command, shared_bundle: Path, monkeypatch) -> None:
    monkeypatch.chdir(shared_bundle.parent)
    done = edgec("bench", shared_bundle, "--against", "ort,openvino", "--blocks", "2", "--json")
    assert done.status == 0, done.err
    names = [entry["name"] for entry in done.json["entries"]]
    assert names[1:] == ["ort fp32", "openvino fp32"]
    assert all(entry["p50"] > 0 for entry in done.json["entries"])


def test_inspect_tells_what_a_model_is_made_of(edgec: Command, shared_bundle: Path) -> None:
    done = edgec("inspect", shared_bundle.parent / "block.onnx", "--json")
    assert done.status == 0, done.err
    fields = done.json
    weights = 2 * WIDTH + 3 * WIDTH * WIDTH + WIDTH * WIDTH + WIDTH * 5
    assert fields["parameters"] == weights
    # Products with weights, and queries by keys by values.
    assert fields["macs"] == TOKENS * 4 * WIDTH * WIDTH + 2 * TOKENS * TOKENS * WIDTH + WIDTH * 5
    [site] = fields["attention"]
    assert (site["heads"], site["queries"], site["keys"]) == (2, TOKENS, TOKENS)
    assert fields["fusions"]["fuse.attention"]["matched"] == 1


def test_inspect_of_a_bundle_shows_its_manifest(edgec: Command, shared_bundle: Path) -> None:
    assert edgec("inspect", shared_bundle, "--json").json["target"] == "x86"
    assert "engine" in edgec("inspect", shared_bundle).out


def test_report_is_one_file(edgec: Command, shared_bundle: Path, tmp_path: Path) -> None:
    done = edgec("report", shared_bundle, "-o", tmp_path / "r.html")
    assert done.status == 0, done.err
    text = (tmp_path / "r.html").read_text()
    assert text.lower().startswith("<!doctype html>")
    assert "block" in text


def test_zoo_devices_and_doctor_answer(edgec: Command, monkeypatch, tmp_path: Path) -> None:
    names = [entry["name"] for entry in edgec("zoo", "--json").json["models"]]
    assert {"vit_digits", "minilm"} <= set(names)
    shown = edgec("devices", "jetson-orin-nano-8gb", "--json")
    assert shown.status == 0, shown.err
    assert edgec("doctor", "--json").json["checks"]
    assert "torch [torch]" in edgec("doctor").out
