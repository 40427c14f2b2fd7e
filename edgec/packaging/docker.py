"""A Docker context: a folder that `docker build` makes an image of, with the bundle inside.

DIR/
Dockerfile  .dockerignore  entrypoint.sh  bundle/
requirements.txt  wheels/     (x86 only: the runtime, and the engine's version)
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import jinja2

from edgec.core import appearing
from edgec.core.bundle import RECOMPILE, Bundle, check_writable_folder, copy_bundle
from edgec.core.errors import IntegrityError, JobError
from edgec.core.json_file import Record, read_object
from edgec.core.quoting import one_line, requirement
from edgec.packaging import wheel
from edgec.targets.jetson.docker import images as jetson

_TEMPLATES = Path(__file__).parent / "templates"
_PLAN = "engine/plan.json"


def write_context(bundle: Bundle, folder: Path) -> Path:
    """Write the context for a bundle's target; the folder is made, and is whole or not there at all.

    Args:
        bundle: the bundle.
        folder: does not exist yet, or is a context that is replaced.

    Returns:
        the folder.

    Raises:
        RequestError: something else is at the folder.
        JobError: no image is known for the bundle's target.
    """
    check_writable_folder(folder, "Dockerfile", "Docker context")
    with appearing.folder(folder) as scratch:
        if (bundle.path / _PLAN).is_file():
            _write_jetson(bundle, scratch)
        else:
            _write_x86(bundle, scratch)
        copy_bundle(bundle, scratch / "bundle")
        (scratch / ".dockerignore").write_text("**/__pycache__\n", encoding="utf-8")
    return folder


def _write_jetson(bundle: Bundle, folder: Path) -> None:
    plan = _plan(bundle.path / _PLAN)
    if not plan.get("jetpack"):
        raise JobError(
            f"there is no image for {plan.get('device') or 'this device'}, which is no Jetson",
            where=str(bundle.path),
            fix="compile for a Jetson or for x86",
        )
    images = jetson.images_for(plan["tensorrt"])
    _render(
        jetson.FOLDER / "Dockerfile.j2",
        folder,
        name=bundle.manifest["model"]["name"],
        tag=wheel.package_name(bundle),
        device=plan["device"],
        images=images,
        plugins=(bundle.path / "plugins" / "CMakeLists.txt").is_file(),
        capability=_capability(plan["compute_capability"], bundle.path / _PLAN),
    )
    shutil.copyfile(jetson.FOLDER / "entrypoint.sh", folder / "entrypoint.sh")


def _write_x86(bundle: Bundle, folder: Path) -> None:
    wheel.check_runs_here(bundle)
    kind = bundle.manifest["engine"]
    (folder / "wheels").mkdir()
    wheel.write_runtime_wheel(folder / "wheels")
    (folder / "requirements.txt").write_text("\n".join(x86_requirements(bundle)) + "\n", encoding="utf-8")
    _render(
        _TEMPLATES / "x86.Dockerfile.j2",
        folder,
        name=bundle.manifest["model"]["name"],
        tag=wheel.package_name(bundle),
        engine=kind,
        precision=bundle.manifest["precision"],
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
    )
    shutil.copyfile(_TEMPLATES / "x86.entrypoint.sh", folder / "entrypoint.sh")


def x86_requirements(bundle: Bundle) -> list[str]:
    """What the runtime's wheel needs to serve a bundle, in the versions that the bundle was verified with."""
    numpy = bundle.manifest.get("tools", {}).get("numpy")
    return [
        wheel.engine_requirement(bundle, bundle.manifest["engine"]),
        requirement("numpy", numpy) if numpy else "numpy>=2.0",
        *map(_pinned, wheel.EXTRAS["serve"]),
    ]


def _pinned(text: str) -> str:
    """A requirement in the version that is installed here; as it is where none is."""
    package, _, marker = text.partition("; ")
    name = package.partition(">")[0]
    try:
        pinned = requirement(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return text
    return f"{pinned}; {marker}" if marker else pinned


def _render(template: Path, folder: Path, **fields: Any) -> None:
    text = _environment(template.parent).get_template(template.name).render(**fields)
    (folder / "Dockerfile").write_text(text, encoding="utf-8")


def _plan(path: Path) -> Record:
    try:
        plan = Record(read_object(path))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"cannot be read ({error})", where=str(path), fix=RECOMPILE) from error
    plan.where = str(path)
    for key in ("device", "tensorrt", "compute_capability"):
        if not isinstance(plan[key], str):
            raise IntegrityError(f"its field {key!r} is no text", where=str(path), fix=RECOMPILE)
    return plan


def _capability(text: str, path: Path) -> str:
    """`8.7` as CMake writes it, `87`."""
    if not re.fullmatch(r"[0-9]+\.[0-9]+", text, re.ASCII):
        raise IntegrityError(f"{text!r} is no compute capability", where=str(path), fix=RECOMPILE)
    return text.replace(".", "")


@functools.cache
def _environment(templates: Path) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["comment"] = one_line
    return environment
