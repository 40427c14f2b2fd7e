"""A failure that edgec did not foresee: told as its own fault, with a file that a report can carry.

The file has the exception, where it was raised, the versions, and the graph's structure: names, ops, shapes
and types. It has no weights, no inputs and none of the folders that somebody works in.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from edgec.core.errors import JobError, UnforeseenError
from edgec.version import __version__

ISSUES = "report it to edgec's maintainers"

_LETTERS = 2000
"""Of what an exception says, the most that is kept: some print the arrays that they were given."""

_NUMBERS = 16
"""Of an attribute's list, the longest that says how an op works: axes, pads, strides of five axes."""

_PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "openvino", "torch", "coremltools", "tensorrt-rtx")


def explained(error: Exception, command: list[str]) -> JobError:
    """The error to show for one that nobody foresaw, once its file is written."""
    said = str(error).strip().partition("\n")[0]
    what = f"this is a bug of edgec: unexpected {type(error).__name__}" + (f" ({said})" if said else "")
    around = ""
    if isinstance(error, UnforeseenError):
        what, around = error.what, f"{error.fix}, and " if error.fix else ""
    try:
        path = write(error, command)
    except OSError:
        return JobError(what, fix=f"{around}{ISSUES} with what --debug shows")
    return JobError(what, fix=f"{around}{ISSUES} and attach the file {path}, which holds no weights")


def write(error: Exception, command: list[str]) -> Path:
    """Write the file into edgec's cache; returns its path.

    Raises:
        OSError: it cannot be written.
    """
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    fields = {
        "edgec": __version__,
        "command": command,
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _versions(),
        "error": f"{type(error).__name__}: {error}"[:_LETTERS],
        "traceback": [line[:_LETTERS] for line in traceback.format_exception(error)],
        "graph": _structure(error),
    }
    text = _without_folders(json.dumps(fields, indent=1, default=str))
    handle, name = tempfile.mkstemp(prefix="failure-", suffix=".json", dir=folder)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text + "\n")
    return Path(name)


def _folder() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "edgec" / "failures"


def _without_folders(text: str) -> str:
    """The text with this user's folders by what they are, longest first: one may lie in another."""
    import sysconfig

    named = {
        str(Path(__file__).parents[2]): "<edgec>",
        sysconfig.get_path("purelib"): "<packages>",
        sysconfig.get_path("stdlib"): "<python>",
        tempfile.gettempdir(): "<temporary>",
        str(Path.cwd()): ".",
        str(Path.home()): "~",
    }
    for folder in sorted(named, key=len, reverse=True):
        if len(Path(folder).parts) > 1:
            text = text.replace(json.dumps(folder)[1:-1], named[folder])
    return text


def _versions() -> dict[str, str]:
    import importlib.metadata

    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _structure(error: Exception) -> dict[str, Any] | None:
    """The graph that was worked on: the innermost one that a frame of the traceback holds."""
    ir = sys.modules.get("onnx_ir")
    if ir is None:
        return None
    for frame in reversed(list(_frames(error.__traceback__))):
        for value in frame.values():
            model = value if isinstance(value, ir.Model) else getattr(value, "model", None)
            if isinstance(model, ir.Model):
                return _described(model)
    return None


def _frames(trace: TracebackType | None) -> Iterator[dict[str, Any]]:
    while trace is not None:
        yield trace.tb_frame.f_locals
        trace = trace.tb_next


def _described(model: Any) -> dict[str, Any]:
    def value(one: Any) -> dict[str, str] | None:
        return None if one is None else {"name": one.name, "type": str(one.dtype), "shape": str(one.shape)}

    return {
        "opsets": dict(model.opset_imports),
        "inputs": [value(one) for one in model.graph.inputs],
        "outputs": [value(one) for one in model.graph.outputs],
        "initializers": [value(one) for one in model.graph.initializers.values()],
        "nodes": [
            {
                "name": node.name,
                "op": f"{node.domain}::{node.op_type}",
                "attributes": {
                    name: str(one.type) if node.op_type == "Constant" else _attribute(one)
                    for name, one in node.attributes.items()
                },
                "inputs": [None if one is None else one.name for one in node.inputs],
                "outputs": [value(one) for one in node.outputs],
            }
            for node in model.graph.all_nodes()
        ],
    }


def _attribute(attribute: Any) -> Any:
    """An attribute that says how an op works; a tensor, a graph or what is long is only named as one."""
    small = isinstance(attribute.value, int | float | str) or (
        isinstance(attribute.value, tuple | list)
        and all(isinstance(one, int | float) for one in attribute.value)
    )
    small = small and (isinstance(attribute.value, int | float) or len(attribute.value) <= _NUMBERS)
    return attribute.value if small else str(attribute.type)
