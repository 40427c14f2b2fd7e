"""Every command and example of docs/serving.md and docs/runtime.md, as it stands there."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "serving"))
from serving_parts import write_bundle

DOCS = Path(__file__).resolve().parents[2] / "docs"
COMMANDS = {
    "edgec": [sys.executable, "-m", "edgec.cli.main"],
    "edgec-runtime": [sys.executable, "-m", "edgec.packaging.runtime"],
}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


@contextmanager
def served(words: list[str], folder: Path) -> Iterator[str]:
    """The server of a command line, on a port that is free."""
    command = [*COMMANDS["edgec"], *words, "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert line.startswith("{"), line
            yield json.loads(line)["address"].removeprefix("http://")
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


@pytest.mark.parametrize("page", ["serving.md", "runtime.md"])
def test_the_commands_run_as_they_stand(page: str, tmp_path: Path) -> None:
    write_bundle(tmp_path / "deit.x86.edgec")
    for line in "".join(blocks(page, "sh")).splitlines():
        words = shlex.split(line)
        if words[:2] == ["edgec", "serve"]:
            with served(words[1:], tmp_path):
                continue
        done = subprocess.run(
            [*COMMANDS.get(words[0], words[:1]), *words[1:]], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"


def test_the_client_of_the_page_gets_its_answer(tmp_path: Path) -> None:
    write_bundle(tmp_path / "deit.x86.edgec")
    [code] = blocks("serving.md", "python")
    with served(["serve", "deit.x86.edgec"], tmp_path) as address:
        assert "localhost:8000" in code
        code = code.replace("localhost:8000", address)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["[[0.", "0.", "0.]]"]


def test_the_example_of_the_runtime_runs(tmp_path: Path) -> None:
    from edgec.packaging.wheel import write_runtime_wheel

    write_bundle(tmp_path / "deit.x86.edgec")
    [code] = blocks("runtime.md", "python")
    # A wheel of plain modules is a zip file that Python imports from.
    environment = {**os.environ, "PYTHONPATH": str(write_runtime_wheel(tmp_path))}
    command = [sys.executable, "-c", f"{code}\nprint(list(outputs))"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['y']\n"
