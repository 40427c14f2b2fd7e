"""Compiling where edgec's own OpenVINO kernels cannot be compiled or loaded: by definition, and said."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from command_line import Command

sys.path.insert(0, str(Path(__file__).parents[1] / "passes" / "tokens"))
from encoders import CHANNELS, Encoder

from edgec.core.bundle import Bundle
from edgec.core.graph import Graph, Source
from edgec.passes.decompose import load_passes
from edgec.passes.manager import Pipeline
from edgec.passes.tokens.schedule import Schedule
from edgec.search.axes.token_methods import METHODS
from edgec.targets.base import Candidate
from edgec.targets.x86.target import X86

pytest.importorskip("openvino")

PATCHES = 21

ALL_TOKENS = "-canonicalize.sink_slice"
"""For packing all attentions must have the same tokens as queries."""

Break = Callable[[pytest.MonkeyPatch, Path], None]


def script(folder: Path, body: str) -> Path:
    """A compiler: `--version` says so, and anything else runs the body with the output's path in `$made`."""
    path = folder / "broken-g++"
    path.write_text(
        f'#!/bin/sh\nfor made; do :; done\n[ "$made" = --version ] && exit 0\n{body}\n', encoding="utf-8"
    )
    path.chmod(0o755)
    return path


def no_compiler(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(folder))


def failing_compiler(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    made = script(folder, "echo 'fatal error: no space left on device' >&2\nexit 1")
    monkeypatch.setenv("CXX", str(made))


def compiler_of_another_machine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("CXX", str(script(folder, 'echo "no library at all" > "$made"')))


def cache_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "file"))


BROKEN: dict[str, tuple[Break, str]] = {
    "no compiler": (no_compiler, "no C++ compiler is installed; install g++"),
    "failing compiler": (failing_compiler, "no space left on device"),
    "library that does not load": (compiler_of_another_machine, "does not load the compiled kernels"),
    "no cache folder": (cache_that_cannot_be_made, "could not be compiled"),
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoder") / "encoder.onnx"
    onnx.save(ir.to_proto(Encoder(patches=PATCHES).model()), path)
    return path


@pytest.mark.parametrize(
    ("method", "broken"),
    [*(("", broken) for broken in BROKEN), ("energy:", "no compiler"), ("prune:", "no compiler")],
)
def test_tokens_are_reduced_by_definition(
    edgec: Command,
    encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    broken: str,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "tools").mkdir()
    break_it, why = BROKEN[broken]
    break_it(monkeypatch, tmp_path / "tools")
    bundle = tmp_path / "out.edgec"
    done = edgec(
        "compile", encoder, "--target", "x86:openvino", "--tokens", f"{method}0:5+1:4", "-o", bundle, "--json"
    )  # fmt: skip
    assert done.status == 0, done.err
    assert done.json["engine"] == "openvino"
    assert done.json["tokens"]["after"] == PATCHES + 1 - 9
    assert done.json["numerics"]["scaled"] <= 1e-4
    [fallback] = done.json["fallbacks"]
    op_type = {"": "TokenMerge", "energy:": "TokenMergeEnergy", "prune:": "TokenPrune"}[method]
    assert fallback["what"].endswith(f"kernels of {op_type}")
    assert why in fallback["why"]
    assert "definitions in standard ops" in fallback["instead"]
    ratio = done.json["tokens"]["baseline"]["ratio"]
    assert f"measured: {ratio:.2f} times the same engine with all tokens" in fallback["cost"]
    opened = Bundle.open(bundle)
    assert opened.report()["fallbacks"] == opened.manifest["fallbacks"] == [fallback]
    assert not list(bundle.rglob("*.so"))
    page = (bundle / "report.html").read_text(encoding="utf-8")
    assert "1 fallback: part of the model does not run the way it was meant to" in page
    assert f"kernels of {op_type}" in page
    assert edgec("verify", bundle).status == 0


def test_a_person_is_told(
    edgec: Command, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_compiler(monkeypatch, tmp_path)
    arguments = ("compile", encoder, "--target", "x86:openvino", "-o", tmp_path / "o.edgec")
    done = edgec(*arguments, "--tokens", "0:5")
    assert done.status == 0, done.err
    said = [line for line in done.out.splitlines() if line.startswith("fallback")]
    assert len(said) == 1
    assert "TokenMerge not used: no C++ compiler is installed" in said[0]
    assert "cost: measured: " in done.out


def test_nothing_is_said_where_no_kernel_is_needed(
    edgec: Command, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_compiler(monkeypatch, tmp_path)
    done = edgec("compile", encoder, "--target", "x86:openvino", "-o", tmp_path / "o.edgec", "--json")
    assert done.status == 0, done.err
    assert done.json["fallbacks"] == []


def test_another_engine_that_ships_is_said_to_need_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    no_compiler(monkeypatch, tmp_path)
    model = Encoder(patches=PATCHES).model()
    Pipeline([METHODS["merge"].make(Schedule({0: 5}))]).run(model)
    graph = Graph(model, Source("encoder", "onnx", "encoder", "0"), (), [], [])
    shipped = Candidate("ort", "fp32", "decomposed")
    [fallback] = X86().fallbacks(graph, shipped, "")
    assert "ort ships" in fallback.instead
    assert X86("ort").fallbacks(graph, shipped, "") == []


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder whose padded places nobody reads; beside it inputs to calibrate on."""
    folder = tmp_path_factory.mktemp("masked")
    model = Encoder(patches=PATCHES, learned=0, masked=True).model()
    # ONNX Runtime's Attention takes no bias that is the same for all queries, as a padding mask is.
    load_passes()
    Pipeline.named(["decompose.attention"]).run(model)
    onnx.save(ir.to_proto(model), folder / "masked.onnx")
    rng = np.random.default_rng(3)
    np.savez(
        folder / "inputs.npz",
        patches=rng.normal(size=(24, PATCHES, CHANNELS)).astype(np.float32),
        mask=(np.arange(PATCHES) < rng.integers(1, PATCHES, (24, 1))).astype(np.float32),
    )
    return folder / "masked.onnx"


def test_a_form_of_kernels_alone_is_skipped_and_named(
    edgec: Command, masked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_compiler(monkeypatch, tmp_path)
    bundle = tmp_path / "out.edgec"
    done = edgec(
        "compile", masked, "--target", "x86:openvino", "--passes", ALL_TOKENS, "-o", bundle, "--json"
    )  # fmt: skip
    assert done.status == 0, done.err
    [fallback] = done.json["fallbacks"]
    assert "'padding-free'" in fallback["what"]
    assert "no C++ compiler" in fallback["why"]
    assert fallback["cost"].startswith("not known")
    names = [entry["name"] for entry in Bundle.open(bundle).report()["latency"]["entries"]]
    assert not any("padding-free" in name for name in names)


def test_a_search_names_the_form_among_its_candidates(
    edgec: Command, masked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_compiler(monkeypatch, tmp_path)
    bundle = tmp_path / "out.edgec"
    done = edgec(
        "compile", masked, "--target", "x86:openvino", "--max-drop", "5%", "--passes", ALL_TOKENS,
        "--calib", masked.with_name("inputs.npz"), "-o", bundle, "--json",
    )  # fmt: skip
    assert done.status == 0, done.err
    entries = Bundle.open(bundle).report()["latency"]["entries"]
    skipped = [entry for entry in entries if entry["form"] == "padding-free" and entry["precision"] == "fp32"]
    assert skipped
    assert all("no C++ compiler" in entry["why"] for entry in skipped)
