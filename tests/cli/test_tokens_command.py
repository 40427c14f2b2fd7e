"""`edgec compile --tokens`: a named schedule, a search, and every way to ask for what cannot be."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from command_line import Command, block_model

sys.path.insert(0, str(Path(__file__).parents[1] / "passes" / "tokens"))
from encoders import CHANNELS, Encoder

from edgec.core.bundle import Bundle
from edgec.core.timing import Latency
from edgec.search.bench import Bench

PATCHES = 48


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small encoder with a class token, as a file; beside it data with and without labels."""
    folder = tmp_path_factory.mktemp("encoder")
    small = Encoder(patches=PATCHES, blocks=3)
    onnx.save(ir.to_proto(small.model()), folder / "encoder.onnx")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "encoder.onnx"))
    patches = np.random.default_rng(5).normal(size=(40, PATCHES, CHANNELS)).astype(np.float32)
    outputs = np.concatenate([session.run(None, {"patches": each[None]})[0] for each in patches])
    np.savez(folder / "labelled.npz", patches=patches, labels=outputs.argmax(axis=1))
    np.savez(folder / "inputs.npz", patches=patches)
    np.savez(folder / "shorter.npz", patches=patches[:, :9], labels=outputs.argmax(axis=1))
    np.savez(folder / "classes.npz", patches=patches, labels=np.arange(40))
    return folder / "encoder.onnx"


def test_a_named_schedule_is_compiled_gated_exactly_and_reported(
    edgec: Command, encoder: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "out.edgec"
    done = edgec("compile", encoder, "--target", "x86:ort", "--tokens", "0:12+1:6", "-o", bundle, "--json")
    assert done.status == 0, done.err
    tokens = done.json["tokens"]
    assert (tokens["name"], tokens["before"], tokens["after"]) == ("0:12+1:6", PATCHES + 1, PATCHES - 17)
    assert [site["r"] for site in tokens["sites"]][:2] == [12, 6]
    assert tokens["baseline"]["ratio"] > 0
    assert tokens["gated"] is False
    assert 0.5 < tokens["agreement"]["cosine"] < 1.0 - 1e-6
    assert done.json["numerics"]["scaled"] <= 1e-4
    assert done.json["fusions"]["tokens.merge"]["matched"] == 2
    opened = Bundle.open(bundle)
    assert opened.manifest["tokens"]["name"] == "0:12+1:6"
    assert "--tokens 0:12+1:6" in opened.report()["command"]
    assert edgec("verify", bundle).status == 0


def test_a_person_is_told_that_nothing_was_gated(edgec: Command, encoder: Path, tmp_path: Path) -> None:
    done = edgec(
        "compile", encoder, "--target", "x86:ort", "--tokens", "prune:r=4", "-o", tmp_path / "o.edgec"
    )
    assert done.status == 0, done.err
    assert "--tokens prune:0:4+1:4" in done.out
    assert "no budget was set" in done.out
    assert "against the reduced network" in done.out


def test_a_person_is_told_that_a_schedule_is_slower_and_it_ships(
    edgec: Command, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = (Latency((4.0,) * 5, (4.0,) * 5), Latency((2.0,) * 5, (2.0,) * 5))
    monkeypatch.setattr(Bench, "beside", lambda self, reduced, unreduced: times)
    bundle = tmp_path / "o.edgec"
    done = edgec("compile", encoder, "--target", "x86:ort", "--tokens", "r=4", "-o", bundle)
    assert done.status == 0, done.err
    assert "2.00 × the same engine with all" in done.out
    assert "it is slower than with all tokens" in done.out
    assert Bundle.open(bundle).report()["tokens"]["baseline"]["ratio"] == 2.0


def test_a_threshold_becomes_counts_on_calibration_inputs(
    edgec: Command, encoder: Path, tmp_path: Path
) -> None:
    taken = []
    for threshold in ("0.5", "0.9"):
        done = edgec(
            "compile", encoder, "--target", "x86:ort", "--tokens", f"prune:threshold={threshold}",
            "--calib", encoder.with_name("inputs.npz"), "-o", tmp_path / f"{threshold}.edgec", "--json",
        )  # fmt: skip
        assert done.status == 0, done.err
        assert done.json["tokens"]["method"] == "prune"
        taken.append(done.json["tokens"]["before"] - done.json["tokens"]["after"])
    assert 0 < taken[0] < taken[1]


def test_with_data_and_a_drop_a_named_schedule_is_gated(
    edgec: Command, encoder: Path, tmp_path: Path
) -> None:
    data = encoder.with_name("inputs.npz")
    words = ("compile", encoder, "--target", "x86:ort", "--precision", "fp32", "--tokens", "r=12")
    done = edgec(*words, "--calib", data, "--max-drop", "0.0001%", "-o", tmp_path / "o.edgec")
    assert done.status == 1
    assert "mean cosine to the source drops by" in done.err
    assert not (tmp_path / "o.edgec").exists()
    done = edgec(*words, "--calib", data, "--max-drop", "90%", "-o", tmp_path / "o.edgec", "--json")
    assert done.status == 0, done.err
    assert done.json["tokens"]["gated"] is True
    assert done.json["accuracy"]["metric"] == "mean cosine to the source"


def test_a_search_ends_with_a_frontier_and_one_look_at_what_was_held_out(
    edgec: Command, encoder: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "o.edgec"
    done = edgec(
        *("compile", encoder, "--target", "x86:ort", "--precision", "fp32", "--tokens", "auto"),
        *("--max-drop", "60%", "--eval-data", encoder.with_name("labelled.npz"), "-o", bundle, "--json"),
    )
    assert done.status == 0, done.err
    tokens = done.json["tokens"]
    assert tokens["gated"] is True
    assert [point["name"] for point in tokens["frontier"] if point["chosen"]] == [tokens["name"]]
    assert tokens["frontier"][-1]["name"] == "none" or tokens["name"] == "none"
    last = tokens["held_out"]["looks"][-1]
    assert (last["name"], last["kept"], last["drop"]) == (tokens["name"], True, done.json["accuracy"]["drop"])
    assert last["ratio"] == (None if tokens["baseline"] is None else tokens["baseline"]["ratio"])
    assert tokens["name"] == "none" or last["ratio"] < 1.0
    assert tokens["searched_on"]["samples"] == tokens["held_out"]["samples"] == 20
    assert {probe["method"] for probe in tokens["methods"]} >= {"merge", "prune"}
    assert edgec("verify", bundle).status == 0
    assert 'id="tokens"' in (bundle / "report.html").read_text()


def test_a_latency_that_no_schedule_reaches_says_how_near_it_came(
    edgec: Command, encoder: Path, tmp_path: Path
) -> None:
    done = edgec(
        *("compile", encoder, "--target", "x86:ort", "--tokens", "auto", "--latency", "0.0001ms"),
        *("--calib", encoder.with_name("inputs.npz"), "-o", tmp_path / "o.edgec"),
    )
    assert done.status == 1
    assert "no token schedule reaches 0.0001 ms; the fastest" in done.err
    assert not (tmp_path / "o.edgec").exists()


BAD: list[tuple[Callable[[Path], list[object]], int, tuple[str, ...]]] = [
    (lambda _: ["--tokens", "r=25"], 2, ("49 tokens (1 protected)", "choose at most r=24")),
    (lambda _: ["--tokens", "9:3"], 2, ("names layer 9", "choose layers from 0 to")),
    (lambda _: ["--tokens", "0:30"], 2, ("choose at most 24 there",)),
    (lambda _: ["--tokens", "half"], 2, ("no schedule", "r=N, keep=F")),
    (lambda _: ["--tokens", "squash:r=3"], 2, ("no method is named 'squash'", "merge")),
    (lambda _: ["--tokens", "keep=0"], 2, ("no fraction",)),
    (lambda _: ["--tokens", "threshold=0.5"], 2, ("merge does not score", "prune:threshold=0.5")),
    (lambda _: ["--tokens", "prune:threshold=0.5"], 2, ("no calibration inputs", "--calib")),
    (lambda _: ["--tokens", "auto"], 2, ("needs data", "--eval-data", "--calib")),
    (lambda _: ["--tokens", "r=4", "--max-drop", "1%"], 2, ("--max-drop needs data",)),
    (
        lambda path: ["--tokens", "auto", "--eval-data", path.with_name("shorter.npz")],
        2,
        ("samples of shape (9, 12)", "(48, 12)"),
    ),
    (
        lambda path: ["--tokens", "auto", "--eval-data", path.with_name("classes.npz")],
        2,
        ("from 0 to 11",),
    ),
    (lambda _: ["--passes", "+tokens.merge"], 2, ("--tokens auto", "--tokens r=8")),
]


@pytest.mark.parametrize(("options", "status", "said"), BAD)
def test_bad_requests_say_what_would_work(
    edgec: Command,
    encoder: Path,
    tmp_path: Path,
    options: Callable[[Path], list[object]],
    status: int,
    said: tuple[str, ...],
) -> None:
    done = edgec("compile", encoder, "--target", "x86:ort", *options(encoder), "-o", tmp_path / "o.edgec")
    assert done.status == status, done.err
    for words in said:
        assert words in done.err
    # Beside the stages that were entered, one sentence.
    assert len([line for line in done.err.splitlines() if not line.startswith("step ")]) == 1
    assert not (tmp_path / "o.edgec").exists()


def test_a_target_that_does_not_run_here_takes_a_schedule_and_no_search(
    edgec: Command, encoder: Path, tmp_path: Path
) -> None:
    done = edgec("compile", encoder, "--target", "coreml", "--tokens", "auto", "-o", tmp_path / "o.edgec")
    assert done.status == 2
    assert "does not run on this machine" in done.err
    assert "--target x86" in done.err
    done = edgec(
        *("compile", encoder, "--target", "coreml", "--precision", "fp32", "--tokens", "0:12"),
        *("-o", tmp_path / "o.edgec", "--json"),
    )
    assert done.status == 0, done.err
    assert done.json["tokens"]["baseline"] is None
    assert done.json["tokens"]["after"] == PATCHES - 11


def test_a_network_with_nothing_to_reduce_lists_the_reasons(edgec: Command, tmp_path: Path) -> None:
    onnx.save(block_model(), tmp_path / "block.onnx")
    done = edgec(
        "compile",
        tmp_path / "block.onnx",
        "--target",
        "x86:ort",
        "--tokens",
        "r=2",
        "-o",
        tmp_path / "o.edgec",
    )
    assert done.status == 1
    assert "no block's tokens can be reduced" in done.err
    assert re.search(r"\(node \S+\): nothing behind it gets cheaper", done.err)
