"""Wheels: the runtime alone, and a bundle as a package that depends on it.

    pip install edgec_runtime-….whl MODEL-….whl
    >>> import deit_x86
    >>> with deit_x86.load() as session: session.run({...})

They are written here, member by member, in the format of the binary distribution specification
(packaging.python.org, wheel 1.0): the same bytes for the same bundle, and no build tool is needed.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import keyword
import re
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from edgec.core.bundle import Bundle, recorded_files, writing_file
from edgec.core.errors import JobError, RequestError
from edgec.core.plain_files import read_plain
from edgec.core.quoting import one_line, python_string, requirement
from edgec.core.relocation import modules_of, needed, relocated
from edgec.runtime.machine import PACKAGES
from edgec.version import __version__

RUNTIME = "edgec_runtime"
_TAKEN = frozenset({"numpy", *PACKAGES.values(), *sys.stdlib_module_names})
"""Packages that a bundle of this name would write over, or hide."""

_TOP = "edgec.packaging.runtime"
_ROOMS = ("edgec.runtime", "edgec.serving")
_NAMES = {"edgec": RUNTIME, _TOP: RUNTIME}
_COMMAND = f"[console_scripts]\nedgec-runtime = {RUNTIME}.__main__:main\n"
EXTRAS = {
    **{kind: (package,) for kind, package in PACKAGES.items()},
    # As in pyproject.toml.
    "serve": (
        "starlette>=0.44",
        "uvicorn>=0.33",
        "httptools>=0.6",
        "uvloop>=0.19",
        "prometheus-client>=0.21",
    ),
    "sign": ("cryptography>=44",),
    "pictures": ("pillow>=11",),
}
_MODULE = '''{doc}

from pathlib import Path

from edgec_runtime import Session
from edgec_runtime import load as _load

BUNDLE = Path(__file__).parent / "bundle"


def load() -> Session:
    """Open the model for running."""
    return _load(BUNDLE)
'''


def write_wheels(bundle: Bundle, folder: Path) -> list[Path]:
    """Write both wheels into a folder; returns their paths, the runtime's first.

    Raises:
        JobError: the bundle's engine does not run on x86.
    """
    check_runs_here(bundle)
    return [write_runtime_wheel(folder), write_bundle_wheel(bundle, folder)]


def check_runs_here(bundle: Bundle) -> None:
    """See that the runtime runs the bundle.

    Raises:
        JobError: it is for a device of another kind.
    """
    if bundle.manifest["engine"] not in PACKAGES:
        raise JobError(
            f"an engine of the kind {bundle.manifest['engine']} is not run by edgec's own runtime",
            where=str(bundle.path),
            fix="compile for --target x86; for a Jetson use edgec deploy or --docker",
        )


def write_runtime_wheel(folder: Path) -> Path:
    """Write the runtime and the server, with what they need of edgec, as the wheel of `edgec_runtime`."""
    top = modules_of(_TOP)
    modules = needed([*top, *(module for room in _ROOMS for module in modules_of(room))])
    # The room that the top lies in is edgec's own.
    shipped = [module for module in modules if module != _TOP.rpartition(".")[0]]
    return _write(
        folder,
        RUNTIME,
        {**relocated(shipped, _NAMES), f"{RUNTIME}/py.typed": b""},
        summary="Runs and serves what edgec compiled.",
        requires=["numpy>=2.0"],
        extras=EXTRAS,
        entry_points=_COMMAND,
    )


def write_bundle_wheel(bundle: Bundle, folder: Path) -> Path:
    """Write a bundle as a package that carries it and opens it."""
    name = package_name(bundle)
    model = one_line(str(bundle.manifest["model"]["name"]))
    doc = python_string(f"The compiled model {model}: `load()` opens it for running.")
    files = {f"{name}/__init__.py": _MODULE.format(doc=doc).encode()}
    for file, digest in recorded_files(bundle).items():
        content = io.BytesIO()
        read_plain(bundle.path, file, digest, content.write)
        files[f"{name}/bundle/{file}"] = content.getvalue()
    kind = bundle.manifest["engine"]
    native = any(path.endswith(".so") for path in files)
    return _write(
        folder,
        name,
        files,
        summary=f"{model}, compiled by edgec for {bundle.manifest['target']}.",
        requires=[f"edgec_runtime=={__version__}", engine_requirement(bundle, kind)],
        extras={},
        entry_points="",
        platform="linux_x86_64" if native else "any",
    )


def engine_requirement(bundle: Bundle, kind: str) -> str:
    """The engine's package in the version that the bundle was compiled and verified with."""
    package = PACKAGES[kind]
    return requirement(package, bundle.manifest.get("tools", {}).get(package))


def package_name(bundle: Bundle) -> str:
    """The bundle's name as a Python package's.

    Raises:
        RequestError: nothing of it is left, or it is edgec's own.
    """
    stem = bundle.path.name.removesuffix(".edgec")
    name = re.sub(r"\W+", "_", stem, flags=re.ASCII).strip("_").lower()
    if not name.isidentifier() or keyword.iskeyword(name) or name in _TAKEN:
        name = f"model_{name}"
    if not name.strip("_") or name in ("edgec", RUNTIME, "model_"):
        raise RequestError(
            "its name does not make a package's name", where=str(bundle.path), fix="rename the bundle"
        )
    return name


def _write(
    folder: Path,
    name: str,
    files: dict[str, bytes],
    *,
    summary: str,
    requires: Iterable[str],
    extras: Mapping[str, Iterable[str]],
    entry_points: str,
    platform: str = "any",
) -> Path:
    info = f"{name}-{__version__}.dist-info"
    metadata = [
        "Metadata-Version: 2.1",
        f"Name: {name.replace('_', '-')}",
        f"Version: {__version__}",
        f"Summary: {one_line(summary)}",
        "Requires-Python: >=3.11",
        *(f"Requires-Dist: {requirement}" for requirement in requires),
    ]
    for extra, packages in extras.items():
        metadata.append(f"Provides-Extra: {extra}")
        metadata += [f"Requires-Dist: {_with_marker(package, extra)}" for package in packages]
    tag = f"py3-none-{platform}"
    pure = "true" if platform == "any" else "false"
    wheel = f"Wheel-Version: 1.0\nGenerator: edgec {__version__}\nRoot-Is-Purelib: {pure}\nTag: {tag}\n"
    members = {
        **files,
        f"{info}/METADATA": ("\n".join(metadata) + "\n").encode(),
        f"{info}/WHEEL": wheel.encode(),
    }
    if entry_points:
        members[f"{info}/entry_points.txt"] = entry_points.encode()
    record = io.StringIO(newline="")
    rows = csv.writer(record, lineterminator="\n")
    rows.writerows((path, _digest(data), len(data)) for path, data in members.items())
    rows.writerow((f"{info}/RECORD", "", ""))
    members[f"{info}/RECORD"] = record.getvalue().encode()
    path = folder / f"{name}-{__version__}-{tag}.whl"
    with (
        writing_file(path) as scratch,
        zipfile.ZipFile(scratch, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for member, data in members.items():
            entry = zipfile.ZipInfo(member)  # without a date: the same bytes each time
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, compresslevel=9)
    return path


def _with_marker(package: str, extra: str) -> str:
    """A requirement that holds for an extra, besides what it says itself."""
    name, _, marker = package.partition("; ")
    return f'{name}; {marker} and extra == "{extra}"' if marker else f'{name}; extra == "{extra}"'


def _digest(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
