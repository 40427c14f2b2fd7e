"""The rooms: every folder reaches the wheel, and imports point one way only."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
ROOMS = ("edgec", "plugins", "passes", "frontends", "devices", "targets", "zoo")

# What each room may import of edgec, besides itself; the driver's files may import everything.
MAY_IMPORT = {
    "edgec.core": set(),
    "edgec.runtime": {"edgec.core"},
    "edgec.serving": {"edgec.core", "edgec.runtime"},
    "edgec.plugins": {"edgec.core"},
    "edgec.passes": {"edgec.core", "edgec.plugins"},
    "edgec.frontends": {"edgec.core"},
    "edgec.devices": {"edgec.core", "edgec.runtime"},
    "edgec.targets": {"edgec.core", "edgec.plugins", "edgec.passes", "edgec.devices", "edgec.runtime"},
    "edgec.zoo": {"edgec.core", "edgec.frontends"},
    "edgec.judging": {
        *("edgec.core", "edgec.runtime", "edgec.plugins", "edgec.passes"),
        *("edgec.devices", "edgec.targets", "edgec.zoo"),
    },
    "edgec.slim": {"edgec.core", "edgec.frontends", "edgec.passes"},
    "edgec.search": {
        *("edgec.core", "edgec.runtime", "edgec.plugins", "edgec.passes"),
        *("edgec.devices", "edgec.targets", "edgec.judging"),
    },
}


def sources() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts if parts[0] == "edgec" else ("edgec", *parts))
    return name.removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "edgec"}


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_the_design_allows(room: str) -> None:
    allowed = {room, "edgec", *MAY_IMPORT[room]}
    for path in sources():
        if room_of(module_of(path)) != room:
            continue
        for name in imported(path):
            # `from edgec.core import x` names both; a bare `edgec.version` belongs to no room.
            bare = name in ("edgec.version", "edgec.version.__version__")
            assert room_of(name) in allowed or bare, f"{path.name} imports {name}"


def test_every_package_is_listed_and_mapped() -> None:
    found = {module_of(path) for path in sources() if path.name == "__init__.py"}
    assert set(PROJECT["packages"]) == found
    for package in found:
        mapped = PROJECT["package-dir"].get(package)
        folder = package.replace(".", "/") if mapped is None else mapped
        assert (ROOT / folder / "__init__.py").is_file(), package


def test_every_python_file_is_in_a_package() -> None:
    for path in sources():
        assert (path.parent / "__init__.py").is_file(), path


def test_every_data_file_reaches_the_wheel() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", *ROOMS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    data = {ROOT / name for name in tracked.stdout.split() if not name.endswith((".py", ".md"))}
    shipped: set[Path] = set()
    for package in PROJECT["packages"]:
        folder = ROOT / PROJECT["package-dir"].get(package, package.replace(".", "/"))
        for pattern in PROJECT["package-data"]["*"]:
            shipped |= set(folder.glob(pattern))
    assert data <= shipped, f"not in package-data: {sorted(path.name for path in data - shipped)}"


def test_importing_edgec_imports_nothing_heavy() -> None:
    code = (
        "import sys, edgec; "
        "heavy = {'torch', 'onnx', 'onnx_ir', 'onnxruntime', 'openvino', 'numpy'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_command_line_starts_without_the_compiler() -> None:
    code = (
        "import sys; sys.argv = ['edgec', '--help']; "
        "from edgec.cli import main\n"
        "try: main.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'onnx', 'onnx_ir', 'onnxruntime', 'openvino', 'numpy'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "compile" in done.stdout
