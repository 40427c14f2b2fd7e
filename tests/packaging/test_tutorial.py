"""docs/tutorial.md, from its first command to its last, and the sentences that docs/failures.md explains."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("edgec", "passes", "frontends", "targets", "devices")


def blocks(page: str) -> list[tuple[str, str]]:
    """The page's code in its order, with its language."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(r"^```(sh|python)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run(words: list[str], folder: Path) -> None:
    command = [sys.executable, "-m", "edgec.cli.main", *words[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        if words[1] == "serve":
            assert process.stderr is not None
            assert "listening" in process.stderr.readline()
            process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=600)
        assert process.returncode == 0, f"{shlex.join(words)}: {said}"


@pytest.mark.full
def test_the_tutorial_works_as_it_stands(tmp_path: Path) -> None:
    for language, code in blocks("tutorial.md"):
        if language == "python":
            if named := re.match(r"# (\S+\.py)\n", code):
                (tmp_path / named[1]).write_text(code)
            else:
                subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
            continue
        for line in code.splitlines():
            words = shlex.split(line)
            if words[1] == "serve":
                words[words.index("8000")] = "0"
            run(words, tmp_path)
    for name in (
        "digits.x86.edgec",
        "classifier.x86.edgec",
        "compared.html",
        "wheels",
        "image",
        "digits.cpp",
    ):
        assert (tmp_path / name).exists()


def test_every_sentence_that_is_explained_is_said() -> None:
    source = "\n".join(path.read_text() for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))
    # As it is said, whatever lines and quotes it is written in.
    said = re.sub(r'"\s*\n\s*f?"', "", source)
    page = (ROOT / "docs" / "failures.md").read_text()
    sentences = [
        text
        for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
        for text in re.findall("`(.+?)`", row)
    ]
    assert len(sentences) > 10
    for sentence in sentences:
        assert sentence in said, sentence


def test_the_pages_lead_to_each_other() -> None:
    readme = (ROOT / "README.md").read_text()
    for page in sorted((ROOT / "docs").glob("*.md")):
        assert f"docs/{page.name}" in readme, page.name
        for link in re.findall(r"\]\(([^)#:]+\.md)", page.read_text()):
            assert (page.parent / link).is_file(), f"{page.name}: {link}"
