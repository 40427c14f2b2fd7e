"""What a sweep compiles: models × targets × rows of options, from a TOML file or from the command line."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgec.core.errors import RequestError

PLAIN = "plain"
"""The name of the row of options that has none."""

OPTIONS = {
    **dict.fromkeys(("precision", "tokens", "slim", "latency", "max-drop", "search-time"), str),
    **dict.fromkeys(("calib", "eval-data", "example"), Path),
    **dict.fromkeys(("passes", "batch", "seed"), str),
    "input": list,
}
"""What a row of options may hold: options of `edgec compile`, and whether they name a file."""

_KEYS = {"models", "targets", "options", "devices", "inputs"}


@dataclasses.dataclass(frozen=True, order=True)
class Cell:
    """One compile.

    Attributes:
        name: the model as the plan names it.
        model: as `edgec compile` takes it, files by their absolute path.
        target: likewise.
        row: the name of its row of options.
        words: that row as words of the command line.
        files: the files that the words name.
        device: what it needs alone while it runs; empty where nothing.
    """

    name: str
    model: str
    target: str
    row: str = PLAIN
    words: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    device: str = ""

    @property
    def folder(self) -> str:
        """The name of its folder: readable, and of this cell only."""
        asked = "\0".join((self.name, self.target, *self.words))
        readable = re.sub(r"[^\w.-]+", "-", f"{self.name.rpartition('/')[2]}.{self.target}.{self.row}")
        return f"{readable[:80]}.{hashlib.sha256(asked.encode()).hexdigest()[:10]}"

    def __str__(self) -> str:
        return f"{self.name} → {self.target}" + ("" if self.row == PLAIN else f" ({self.row})")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a sweep compiles.

    Attributes:
        name: the sweep's, for its folder.
        cells: in the order in which they begin, those of a model together.
    """

    name: str
    cells: tuple[Cell, ...]


def read(path: Path) -> Plan:
    """A plan from a TOML file.

    Raises:
        RequestError: it is no plan; says which key and what it may be.
    """
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"the plan cannot be read: {error.strerror}", where=str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"it is no TOML: {error}", where=str(path)) from None
    try:
        _check(fields)
        return made(
            path.stem,
            fields["models"],
            fields["targets"],
            fields.get("options") or {PLAIN: {}},
            fields.get("inputs", {}),
            fields.get("devices", {}),
            path.parent,
        )
    except RequestError as error:
        raise RequestError(error.what, where=str(path), fix=error.fix) from None


def made(
    name: str,
    models: Sequence[str],
    targets: Sequence[str],
    rows: Mapping[str, Mapping[str, Any]],
    inputs: Mapping[str, Sequence[str]] = {},
    devices: Mapping[str, str] = {},
    beside: Path = Path(),
) -> Plan:
    """A plan of every model for every target with every row of options.

    Args:
        name: the sweep's.
        models: as `edgec compile` takes them.
        targets: likewise.
        rows: options by name, by the name of their row.
        inputs: `--input` words of a model, by the model.
        devices: by target, what its cells need alone.
        beside: the folder that paths are relative to.

    Raises:
        RequestError: something is empty, said twice or unknown.
    """
    for what, said in (("model", models), ("target", targets)):
        if not said:
            raise RequestError(f"there is no {what} in the plan", fix=f"name at least one {what}")
        if twice := [one for one in dict.fromkeys(said) if said.count(one) > 1]:
            raise RequestError(f"the {what} {twice[0]} is in the plan twice")
    for what, named, known in (("inputs", inputs, models), ("devices", devices, targets)):
        if strange := [one for one in named if one not in known]:
            raise RequestError(f"'{what}' names {strange[0]}, which is not in the plan")
    cells = []
    for model, target, (row, options) in itertools.product(models, targets, rows.items()):
        words, files = _words(options, beside)
        words += tuple(word for text in inputs.get(model, ()) for word in ("--input", text))
        device = devices.get(target, "")
        cells.append(Cell(model, _located(model, beside), target, row, words, files, device))
    return Plan(name, tuple(cells))


def _words(options: Mapping[str, Any], beside: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    words: list[str] = []
    files: list[str] = []
    for name, value in options.items():
        if name not in OPTIONS:
            raise RequestError(f"no option is named {name!r}", fix=f"choose from {', '.join(OPTIONS)}")
        if OPTIONS[name] is list:
            words += [word for text in value for word in (f"--{name}", str(text))]
            continue
        text = str(value)
        if OPTIONS[name] is Path:
            text = str(_absolute(beside / text))
            files.append(text)
        words += [f"--{name}", text]
    return tuple(words), tuple(files)


def _located(model: str, beside: Path) -> str:
    """A model whose file is named by its absolute path; others as they are."""
    kind, colon, rest = model.partition(":")
    if colon and kind in ("zoo", "timm"):
        return model
    if colon and kind == "hf":
        return f"hf:{_absolute(beside / rest)}"
    return str(_absolute(beside / kind)) + colon + rest


def _absolute(path: Path) -> Path:
    """Without `..`, and with links as they are named."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _check(fields: Mapping[str, Any]) -> None:
    if strange := sorted(set(fields) - _KEYS):
        raise RequestError(f"no key is named {strange[0]!r}", fix=f"choose from {', '.join(sorted(_KEYS))}")
    for key in ("models", "targets"):
        said = fields.get(key)
        if not isinstance(said, list) or not all(isinstance(one, str) for one in said):
            raise RequestError(f"{key!r} must be a list of texts")
    for key in ("options", "inputs", "devices"):
        if not isinstance(fields.get(key, {}), dict):
            raise RequestError(f"{key!r} must be a table")
    for row, options in fields.get("options", {}).items():
        if not isinstance(options, dict):
            raise RequestError(f"'options.{row}' must be a table of options")
    for model, words in fields.get("inputs", {}).items():
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise RequestError(f"the inputs of {model} must be a list of texts")
    for target, device in fields.get("devices", {}).items():
        if not isinstance(device, str) or not re.fullmatch(r"[\w.-]+", device):
            raise RequestError(f"the device of {target} must be a name of letters, digits, dots and dashes")
