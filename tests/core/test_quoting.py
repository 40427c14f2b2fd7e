"""No text from outside becomes code: hostile names through every language and every writer."""

from __future__ import annotations

import ast
import csv
import io
import re
import shlex
import string
import subprocess
import unicodedata
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.core import quoting
from edgec.core.errors import RequestError

NASTY = (
    '""";import os;"""',
    "'''\\",
    "syntax=evil",
    "escape=`",
    "a\nUSER root",
    "a\r\nRUN x",
    "\u2028RUN x",
    "\x85b",
    "\x1b[31m",
    "\u202egnp.exe",
    "$(id)",
    "`id`",
    "; rm -rf /",
    "{{ 7*7 }}",
    "{0.__class__}",
    "*/ evil() /*",
    "\\(evil)",
    "C:\\users\\net",
    "]]><script>",
    "\udc80",
)

hostile = st.one_of(
    st.sampled_from(NASTY),
    st.text(alphabet=st.characters(codec=None), max_size=30),
    st.text(alphabet="\"'\\\n\r`$(){};#=/*|<>& " + string.ascii_letters, max_size=30),
)


@given(hostile)
def test_a_line_stays_one_line(text: str) -> None:
    line = quoting.one_line(text)
    assert len(line.splitlines()) <= 1
    line.encode("utf-8")


@given(hostile)
def test_a_terminal_gets_no_control_characters(text: str) -> None:
    shown = quoting.printable(text)
    assert not {unicodedata.category(letter) for letter in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


@given(hostile)
def test_a_python_literal_reads_back(text: str) -> None:
    literal = quoting.python_string(text)
    assert literal.isascii()
    assert ast.literal_eval(literal) == text


@settings(max_examples=40, deadline=None)
@given(hostile.filter(lambda text: "\0" not in text))
def test_a_shell_word_is_one_word(text: str) -> None:
    word = quoting.shell_word(text)
    assert shlex.split(word) == [text]


@pytest.mark.parametrize("text", NASTY)
def test_a_real_shell_reads_the_word_back(text: str) -> None:
    command = f"printf %s {quoting.shell_word(text)}".encode("utf-8", "surrogateescape")
    done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=30)
    assert done.stdout == text.encode("utf-8", "surrogateescape")


def test_a_shell_word_has_no_nul() -> None:
    with pytest.raises(RequestError, match="NUL"):
        quoting.shell_word("a\0b")


@given(hostile)
def test_a_requirement_is_a_name_and_a_version_or_refused(text: str) -> None:
    for package, version in (("numpy", text), (text, "2.0"), (text, None)):
        try:
            line = quoting.requirement(package, version)
        except RequestError:
            continue
        assert re.fullmatch(r"[A-Za-z0-9][\w.-]*(==[0-9][\w.!+-]*)?", line, re.ASCII)


@pytest.mark.parametrize("version", ["2.4.6", "2026.4.1", "1.32.0+cpu", "2.0rc1", "1!2.0.post1"])
def test_versions_that_packages_have_are_kept(version: str) -> None:
    assert quoting.requirement("numpy", version) == f"numpy=={version}"


@given(hostile)
def test_a_swift_literal_has_no_quote_and_no_interpolation_of_its_own(text: str) -> None:
    literal = quoting.swift_string(text)
    assert re.fullmatch(r'"(?:[^"\\\n\r]|\\["\\nrt0]|\\u\{[0-9a-f]+\})*"', literal)


@given(hostile)
def test_a_cell_ends_at_its_own_bar(text: str) -> None:
    cell = quoting.markdown_cell(text)
    assert "\n" not in cell
    assert "|" not in cell.replace("\\\\", "").replace("\\|", "")


@settings(max_examples=60, deadline=None)
@given(hostile)
def test_every_writer_keeps_a_hostile_name_a_name(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    """The Dockerfiles, the wheel's module and its metadata, with the name wherever a name goes."""
    from edgec.packaging import docker, wheel
    from edgec.targets.jetson.docker import images

    folder = tmp_path_factory.mktemp("written")
    fields = {"name": name, "device": name, "engine": name, "precision": name, "tag": "tag"}
    for template in (docker._TEMPLATES / "x86.Dockerfile.j2", images.FOLDER / "Dockerfile.j2"):
        docker._render(
            template, folder, **fields, python="3.11", images=images.known()[0], plugins=True, capability="87"
        )
        text = (folder / "Dockerfile").read_text()
        docker._render(
            template,
            folder,
            **dict.fromkeys(fields, "tag"),
            python="3.11",
            images=images.known()[0],
            plugins=True,
            capability="87",
        )
        plain = (folder / "Dockerfile").read_text()
        assert _instructions(text) == _instructions(plain)
        assert "=" not in text.splitlines()[0]

    module = wheel._MODULE.format(doc=quoting.python_string(quoting.one_line(name)))
    kinds = [type(statement) for statement in ast.parse(module).body]
    assert kinds == [ast.Expr, ast.ImportFrom, ast.ImportFrom, ast.ImportFrom, ast.Assign, ast.FunctionDef]

    files = {"m/__init__.py": b"", f'm/{quoting.one_line(name) or "x"},".bin': b""}
    path = wheel._write(folder, "m", files, summary=name, requires=["numpy"], extras={}, entry_points="")
    with zipfile.ZipFile(path) as archive:
        information = next(entry for entry in archive.namelist() if entry.endswith("METADATA"))
        record = archive.read(information.replace("METADATA", "RECORD")).decode()
        metadata = HeaderParser().parsestr(archive.read(information).decode())
    assert metadata.get_all("Requires-Dist") == ["numpy"]
    assert [row[0] for row in csv.reader(io.StringIO(record))][: len(files)] == list(files)


def _instructions(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def test_every_text_template_is_rendered_through_the_filters() -> None:
    """Outside text in a template of a language without escaping carries a filter; the rest is edgec's."""
    from edgec.packaging import docker
    from edgec.targets.coreml.shipping import swift
    from edgec.targets.jetson.docker import images

    outside = ("name", "device", "engine", "precision", "model", "package", "source")
    for folder in (docker._TEMPLATES, images.FOLDER, swift._TEMPLATES):
        for template in sorted(Path(folder).glob("*.j2")):
            for expression in re.findall(r"{{(.*?)}}", template.read_text()):
                words = expression.strip()
                last = words.partition("|")[0].strip().split(".")[-1]
                own = words.startswith(("images.", "source"))  # the table of images
                assert own or last not in outside or "|" in words, f"{template.name}: {words}"
