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
from collections.abc import Iterable
from pathlib import Path

import edgec
from edgec.core.bundle import Bundle, recorded_files, writing_file
from edgec.core.errors import JobError, RequestError
from edgec.core.plain_files import read_plain
from edgec.core.quoting import one_line, python_string, requirement
from edgec.version import __version__

RUNTIME = "edgec_runtime"
ENGINES = {"ort": "onnxruntime", "openvino": "openvino"}
"""The package that runs an engine of each kind."""

_TAKEN = frozenset({"numpy", *ENGINES.values(), *sys.stdlib_module_names})
"""Packages that a bundle of this name would write over, or hide."""

_TOP = ("__init__.py", "version.py", "py.typed")
_ROOMS = ("core", "runtime")
_MODULE = '''{doc}

from pathlib import Path

from edgec.runtime.session import Session
from edgec.runtime.session import load as _load

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
    if bundle.manifest["engine"] not in ENGINES:
        raise JobError(
            f"an engine of the kind {bundle.manifest['engine']} is not run by edgec's own runtime",
            where=str(bundle.path),
            fix="compile for --target x86; for a Jetson use edgec deploy or --docker",
        )


def write_runtime_wheel(folder: Path) -> Path:
    """Write `edgec.runtime` and `edgec.core` as a wheel of their own."""
    root = Path(edgec.__file__).parent
    files = {f"edgec/{name}": (root / name).read_bytes() for name in _TOP}
    for room in _ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            files[f"edgec/{path.relative_to(root).as_posix()}"] = path.read_bytes()
    return _write(
        folder,
        RUNTIME,
        files,
        summary="Runs what edgec compiled.",
        requires=["numpy>=2.0"],
        extras={kind: [package] for kind, package in ENGINES.items()},
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
        platform="linux_x86_64" if native else "any",
    )


def engine_requirement(bundle: Bundle, kind: str) -> str:
    """The engine's package in the version that the bundle was compiled and verified with."""
    package = ENGINES[kind]
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
    extras: dict[str, list[str]],
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
        metadata += [f'Requires-Dist: {package}; extra == "{extra}"' for package in packages]
    tag = f"py3-none-{platform}"
    pure = "true" if platform == "any" else "false"
    wheel = f"Wheel-Version: 1.0\nGenerator: edgec {__version__}\nRoot-Is-Purelib: {pure}\nTag: {tag}\n"
    members = {
        **files,
        f"{info}/METADATA": ("\n".join(metadata) + "\n").encode(),
        f"{info}/WHEEL": wheel.encode(),
    }
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
            archive.writestr(entry, data)
    return path


def _digest(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
