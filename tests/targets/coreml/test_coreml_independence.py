"""The checker knows Core ML from its format alone: what made the package tells it nothing."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FILES = sorted((ROOT / "targets" / "coreml" / "checker").glob("*.py"))
ALLOWED = ("edgec.core", "edgec.targets.coreml.checker")
"""Of edgec: errors and the dialect, and the checker itself."""


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_checker_imports_nothing_of_what_it_checks(path):
    for name in imported(path):
        ours = name.split(".")[0] == "edgec"
        assert not ours or name.startswith(ALLOWED), f"{path.name} imports {name}"
        assert not name.startswith(("coremltools.converters", "coremltools.optimize")), name
        assert name != "coremltools", f"{path.name} imports all of coremltools"


def test_there_is_a_checker():
    assert len(FILES) > 8
