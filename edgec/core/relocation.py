"""Modules of edgec under another package's name, for what is shipped without edgec.

A device may have edgec itself too, or another version of what was shipped: two packages of one name would
hide each other. So what is shipped has a name of its own, and is made of the same sources: their imports are
rewritten, and nothing else.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import edgec

_ROOT = Path(edgec.__file__).parent


def modules_of(package: str) -> list[str]:
    """Full names of a package's modules, itself among them, sorted."""
    folder = _ROOT.joinpath(*package.split(".")[1:])
    names = [path.relative_to(folder).with_suffix("").parts for path in folder.rglob("*.py")]
    return sorted(".".join((package, *parts)).removesuffix(".__init__") for parts in names)


def needed(modules: Iterable[str]) -> list[str]:
    """The modules with all modules of edgec that they import, also where that is done late; sorted."""
    found: set[str] = set()
    pending = list(modules)
    while pending:
        name = pending.pop()
        # The top of edgec is the compiler's; what is shipped has one of its own.
        if name in found or name in ("", "edgec") or not _is_module(name):
            continue
        found.add(name)
        pending.append(name.rpartition(".")[0])
        pending += _imported(_file(name).read_text(encoding="utf-8"))
    return sorted(found)


def relocated(modules: Iterable[str], names: Mapping[str, str]) -> dict[str, bytes]:
    """Source files by their path in a wheel or folder, under other names.

    Args:
        modules: full names of modules of edgec.
        names: what a name, with all below it, becomes; the longest that fits is taken.

    Raises:
        ValueError: a module imports one of edgec that has no other name.
    """
    files = {}
    for module in modules:
        path = _file(module)
        target = _renamed(module, names).replace(".", "/")
        target += "/__init__.py" if path.name == "__init__.py" else ".py"
        files[target] = _rewritten(path.read_text(encoding="utf-8"), names).encode()
    return files


def _rewritten(text: str, names: Mapping[str, str]) -> str:
    lines = text.splitlines(keepends=True)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and _is_edgec(node.module):
            line = lines[node.lineno - 1]
            found, put = re.escape(str(node.module)), _renamed(str(node.module), names)
            lines[node.lineno - 1] = re.sub(rf"\bfrom {found}\b", f"from {put}", line, count=1)
        elif isinstance(node, ast.Import) and any(_is_edgec(alias.name) for alias in node.names):
            raise ValueError(f"{ast.unparse(node)!r} cannot be rewritten: import from it instead")
    return "".join(lines)


def _renamed(module: str, names: Mapping[str, str]) -> str:
    fitting = [name for name in names if module == name or module.startswith(f"{name}.")]
    if not fitting:
        raise ValueError(f"{module} has no other name")
    longest = max(fitting, key=len)
    return names[longest] + module[len(longest) :]


def _imported(text: str) -> list[str]:
    tree = ast.parse(text)
    # What only a type checker imports is not needed.
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and _is_edgec(node.module) and id(node) not in typing:
            found += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def _is_edgec(module: str | None) -> bool:
    return module is not None and module.split(".")[0] == "edgec"


def _file(module: str) -> Path:
    path = _ROOT.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _is_module(name: str) -> bool:
    return _file(name).is_file()
