"""The choice among a plan's variants, on a simulated device that is told how long each takes."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_bundles import edgec_engine, variant, write_bundle

from edgec.targets.jetson.on_device import copy_to

JETPACK_5 = {"tensorrt": "8.5", "jetpack": "5.1.2", "cuda": "11.4", "strongly_typed": False}
FLAGS = ["fp16", "obey_precision_constraints"]
KEPT = {"/fc/MatMul": "fp32"}
DEVICE = {"tensorrt": "8.5.2", "jetpack": "5.1.2"}
VARIANTS = [
    variant("kept", flags=FLAGS, layer_precisions=KEPT),
    variant("flag", flags=["fp16"]),
    variant("plain", model="plain", flags=["fp16"]),
    variant("kept", "one_row", model="row", flags=FLAGS, layer_precisions=KEPT),
    variant("plain", "one_row", model="plain_row", flags=["fp16"]),
]
SLOW = {"OBEY_PRECISION_CONSTRAINTS": 6, "small": 6, "plain": 2, "row": 2, "plain_row": 4}
"""Milliseconds: `kept` takes 12, `flag` 6, `plain` 2, `kept_one_row` 8, `plain_one_row` 4."""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    others = dict.fromkeys(("plain", "row", "plain_row"), 1.0)
    return write_bundle(
        tmp_path / "b.edgec",
        others=others,
        **JETPACK_5,
        flags=FLAGS,
        layer_precisions=KEPT,
        variants=VARIANTS,
    )


def slow(**changes: float) -> str:
    return ",".join(f"{key}={value}" for key, value in {**SLOW, **changes}.items())


def build(bundle: Path, *options: str, **simulated: str) -> tuple[int, dict[str, Any], str]:
    told = {**DEVICE, "slow": slow(), **simulated}
    return edgec_engine(bundle, "build", "--seconds", "0.003", *options, **told)


def tried(fields: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in fields["choice"]["tried"]}


def test_the_fastest_that_passes_is_chosen_and_all_is_told(bundle: Path) -> None:
    status, fields, said = build(bundle)
    assert status == 0, said
    assert fields["variant"] == fields["choice"]["chosen"] == "plain"
    assert fields["choice"]["finished"]
    assert not fields["choice"]["left"]
    # Other types first, then the edit in the best types, then the rest.
    assert list(tried(fields)) == ["kept", "flag", "plain", "plain_one_row", "kept_one_row"]
    assert tried(fields)["kept"]["why"] == "flag is faster"
    assert tried(fields)["flag"]["why"] == "plain is faster"
    assert tried(fields)["plain_one_row"]["why"].startswith("slower than plain")
    assert [name for name, one in tried(fields).items() if one["won"]] == ["plain"]
    assert tried(fields)["plain_one_row"]["ratio"] > 1.2
    data = Path(f"{bundle}.device/model.engine").read_bytes()
    assert json.loads(data.split(b"\0")[1])["flags"] == ["FP16"]
    assert not list(Path(f"{bundle}.device").glob("trial*"))
    # What was chosen is kept, runs, and is told with the figures.
    assert build(bundle)[1]["kept"] is True
    status, report, said = edgec_engine(bundle, "bench", "--blocks", "2", "--seconds", "0.01", **DEVICE)
    assert status == 0, said
    assert report["choice"]["chosen"] == "plain"


def test_a_variant_beyond_the_gate_is_not_chosen(tmp_path: Path) -> None:
    changes = {"flags": FLAGS, "layer_precisions": KEPT, "variants": VARIANTS[:3]}
    bundle = write_bundle(tmp_path / "b.edgec", others={"plain": 1.2}, **JETPACK_5, **changes)
    status, fields, said = build(bundle)
    assert status == 0, said
    assert fields["variant"] == "flag"
    assert "output 'y' is" in tried(fields)["plain"]["why"]
    assert tried(fields)["plain"]["passed"] is False


def test_one_that_passes_takes_the_place_of_one_that_does_not(tmp_path: Path) -> None:
    """The plan's own graph is off in this TensorRT; a slower variant is right."""
    changes = {"flags": FLAGS, "layer_precisions": KEPT}
    variants = [{**VARIANTS[0], "model": "model_wrong.onnx"}, VARIANTS[2]]
    others = {"plain": 1.0, "wrong": 1.3}
    bundle = write_bundle(tmp_path / "b.edgec", others=others, **JETPACK_5, **changes, variants=variants)
    status, fields, said = build(bundle, slow=slow(plain=30))
    assert status == 0, said
    assert fields["variant"] == "plain"
    assert "output 'y' is" in tried(fields)["kept"]["why"]
    assert edgec_engine(bundle, "verify", **DEVICE)[0] == 0


def test_what_is_not_built_loses_and_says_why(bundle: Path) -> None:
    status, fields, said = build(bundle, build="fails:plain")
    assert status == 0, said
    assert "Could not find any implementation" in tried(fields)["plain"]["why"]
    assert fields["variant"] == "plain_one_row"


def test_a_build_that_was_cut_goes_on_behind_the_last_variant(bundle: Path) -> None:
    status, _, _ = build(bundle, build="off:plain")
    assert status != 0
    record = json.loads(Path(f"{bundle}.device/choice.json").read_text())
    assert [one["name"] for one in record["tried"]] == ["kept", "flag"]
    assert edgec_engine(bundle, "verify", **DEVICE)[0] == 0  # the best so far runs
    status, fields, said = build(bundle)
    assert status == 0, said
    assert list(tried(fields)) == ["kept", "flag", "plain", "plain_one_row", "kept_one_row"]
    assert said.count("parsing the model") == 3
    assert fields["variant"] == "plain"


def test_the_time_is_kept_and_more_time_goes_on(bundle: Path) -> None:
    status, fields, said = build(bundle, "--build-time", "0")
    assert status == 0, said
    assert fields["variant"] == "kept"
    assert len(fields["choice"]["left"]) == 4
    status, fields, said = build(bundle, "--build-time", "0.5s", build_seconds="0.4")
    assert status == 0, said
    assert "variants are left untried" in said
    assert fields["choice"]["left"]
    assert not fields["choice"]["finished"]
    status, fields, said = build(bundle, "--build-time", "5m")
    assert status == 0, said
    assert fields["choice"]["finished"]
    assert fields["variant"] == "plain"
    assert edgec_engine(bundle, "build", "--build-time", "soon")[0] == 2


def test_what_cannot_be_told_apart_stays(bundle: Path) -> None:
    same = slow(OBEY_PRECISION_CONSTRAINTS=0, plain=5.97, row=6, plain_row=5.9)
    status, fields, said = build(bundle, slow=same)
    assert status == 0, said
    assert fields["variant"] == "plain_one_row"
    assert tried(fields)["plain"]["why"] == "cannot be told from kept: 5.9700 against 6.0000 ms"
    assert tried(fields)["flag"]["why"].startswith("cannot be told from kept")


def test_a_choice_of_another_plan_or_device_is_begun_anew(bundle: Path) -> None:
    assert build(bundle)[0] == 0
    status, fields, _ = build(bundle, gpu="Xavier:8.7")
    assert (status, fields["kept"]) == (0, False)
    assert len(fields["choice"]["tried"]) == 5
    status, fields, _ = build(bundle, "--again", "--build-time", "0", gpu="Xavier:8.7")
    assert (status, fields["variant"]) == (0, "kept")


def test_less_workspace_is_taken_where_memory_lacks_and_it_is_said(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b.edgec")
    status, fields, said = edgec_engine(bundle, "build", build=f"memory:{70 << 20}")
    assert status == 0, said
    assert fields["notes"][-1] == "the device's memory was too small: built with a workspace of 64 MB"
    status, fields, _ = edgec_engine(bundle, "build", "--again", build=f"memory:{1 << 20}")
    assert status == 1
    assert "out of memory" in fields["error"]["what"]


def test_a_faster_one_wins_nearly_every_block_by_more_than_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(copy_to(tmp_path)))
    for name in [name for name in sys.modules if name.partition(".")[0] == "edgec_engine"]:
        monkeypatch.delitem(sys.modules, name)
    is_faster = importlib.import_module("edgec_engine.choice").is_faster
    pairs = np.random.default_rng(0).normal(1.0, 0.02, (2000, 2, 9)).tolist()
    assert sum(is_faster(one, other) for one, other in pairs) < 0.03 * len(pairs)
    assert sum(is_faster([0.9 * time for time in one], other) for one, other in pairs) > 0.97 * len(pairs)
    assert not is_faster([0.995] * 9, [1.0] * 9)
