"""What a new user meets first: help, completion, the lists of passes and operators, progress in a pipe."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Command

from edgec.cli.main import COMMANDS
from edgec.core.progress import progress
from edgec.passes.pipeline import default_pipeline
from edgec.plugins.infra import plugins

EDGEC = str(Path(sys.executable).with_name("edgec"))


@pytest.mark.parametrize("command", COMMANDS)
def test_h_is_help(edgec: Command, command: str) -> None:
    done = edgec(command, "-h")
    assert done.status == 0
    assert done.out.startswith(f"Usage: edgec {command} ")


def test_the_passes_are_listed_in_their_order(edgec: Command) -> None:
    listed = edgec("passes", "--json").json["passes"]
    always = [entry["name"] for entry in listed if entry["runs"] == "always"]
    assert always == list(default_pipeline().names)
    assert all(entry["what"] for entry in listed)
    lossy = [entry["name"] for entry in listed if not entry["exact"]]
    assert lossy
    assert not set(lossy) & set(always)
    assert "fuse.attention" in edgec("passes").out


def test_the_operators_are_listed_with_their_kernels(edgec: Command) -> None:
    listed = {entry["name"]: entry for entry in edgec("ops", "--json").json["ops"]}
    assert set(listed) == set(plugins())
    assert listed["TokenMerge"]["kernels"] == ["cpu", "cuda"]
    assert "TokenMerge" in edgec("ops").out


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("edgec comp", "compile"),
        ("edgec compile zoo:vit_d", "zoo:vit_digits"),
        ("edgec compile --max", "--max-drop"),
    ],
)
def test_a_shell_completes_commands_models_and_options(words: str, completed: str) -> None:
    environment = {
        **os.environ,
        "_EDGEC_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    done = subprocess.run([EDGEC], env=environment, capture_output=True, text=True)
    assert completed in done.stdout.split()


def test_a_pipe_gets_one_line_a_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as steps:
        steps.stage(1, 3, "reading")
        steps.step("a part of it")
        steps.stage(2, 3, "searching", 150)
        steps.stage(3, 3, "writing", 20)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "step 1 of 3: reading"
    assert lines[1].startswith("step 2 of 3: searching (at most 2:30 left), after ")
    assert lines[2].startswith("step 3 of 3: writing (at most 20 s left), after ")
    assert len(lines) == 3


def test_a_compile_says_its_stages(edgec: Command, model_file: Path, tmp_path: Path) -> None:
    done = edgec("compile", model_file, "--target", "x86:ort", "-o", tmp_path / "b.edgec", "--json")
    assert done.status == 0, done.err
    stages = [line.split(":")[0] for line in done.err.splitlines() if line.startswith("step ")]
    assert stages == [f"step {number} of 5" for number in range(1, 6)]
    assert done.json["target"] == "x86"


def test_what_fails_while_it_is_read_is_one_sentence_and_no_stage(edgec: Command, tmp_path: Path) -> None:
    done = edgec("compile", tmp_path / "nowhere.onnx", "--target", "x86", "-o", tmp_path / "b.edgec")
    assert done.status == 2
    [line] = done.err.splitlines()
    assert line.startswith("edgec: ")
