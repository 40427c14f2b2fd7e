"""The key of a cell: a digest of all that its result follows from."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from edgec.core.bundle import file_sha256
from edgec.report.assemble import tool_versions
from edgec.sweep.plan import Cell
from edgec.version import __version__


def key_of(cell: Cell) -> str:
    """A hexadecimal digest of what is asked, the files that it names and the versions of all tools.

    A model by name is what its package makes of the name; a Python file is taken as it is, without what
    it imports.
    """
    digest = hashlib.sha256(_versions().encode())
    for word in (cell.target, *cell.words):
        digest.update(f"{word}\0".encode())
    for file in cell.files:
        digest.update(_content(file).encode())
    kind, colon, rest = cell.model.partition(":")
    if colon and kind in ("zoo", "timm"):
        digest.update(cell.model.encode())
    else:
        digest.update(_content(rest if kind == "hf" else kind).encode() + rest.encode())
    return digest.hexdigest()


@functools.cache
def _versions() -> str:
    tools = ", ".join(f"{name} {version}" for name, version in sorted(tool_versions().items()))
    return f"edgec {__version__}, {tools}"


@functools.cache
def _content(name: str) -> str:
    """A digest of a file, with the weights beside it, or of all files of a folder; its name where none is."""
    path = Path(name)
    beside = path.parent.glob(f"{path.name}*") if path.is_file() else path.rglob("*")
    files = sorted(file for file in beside if file.is_file())
    return " ".join(f"{file.relative_to(path.parent)} {file_sha256(file)}" for file in files) or name
