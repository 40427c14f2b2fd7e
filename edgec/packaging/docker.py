"""A Docker context: a folder that `docker build` makes an image of, with the bundle inside.

DIR/
Dockerfile  .dockerignore  entrypoint.sh  bundle/
requirements.txt  wheels/     (x86 only: the runtime, and the engine's version)
"""

from __future__ import annotations

import functools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import jinja2

from edgec.core.bundle import Bundle
from edgec.core.errors import JobError, RequestError
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
    if folder.exists() and not (folder / "Dockerfile").is_file():
        raise RequestError(
            "exists and is no Docker context, so it is not overwritten",
            where=str(folder),
            fix="choose another path with -o",
        )
    if not folder.absolute().parent.is_dir():
        raise RequestError("no such folder", where=str(folder.absolute().parent), fix="make it first")
    scratch = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir()
        if (bundle.path / _PLAN).is_file():
            _write_jetson(bundle, scratch)
        else:
            _write_x86(bundle, scratch)
        shutil.copytree(bundle.path, scratch / "bundle")
        (scratch / ".dockerignore").write_text("**/__pycache__\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _write_jetson(bundle: Bundle, folder: Path) -> None:
    plan = json.loads((bundle.path / _PLAN).read_text(encoding="utf-8"))
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
        capability=plan["compute_capability"].replace(".", ""),
    )
    shutil.copyfile(jetson.FOLDER / "entrypoint.sh", folder / "entrypoint.sh")


def _write_x86(bundle: Bundle, folder: Path) -> None:
    wheel.check_runs_here(bundle)
    kind = bundle.manifest["engine"]
    (folder / "wheels").mkdir()
    wheel.write_runtime_wheel(folder / "wheels")
    numpy = bundle.manifest.get("tools", {}).get("numpy")
    requirements = [wheel.engine_requirement(bundle, kind), f"numpy=={numpy}" if numpy else "numpy>=2.0"]
    (folder / "requirements.txt").write_text("\n".join(requirements) + "\n", encoding="utf-8")
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


def _render(template: Path, folder: Path, **fields: Any) -> None:
    lines = {key: _line(value) for key, value in fields.items()}
    text = _environment(template.parent).get_template(template.name).render(**lines)
    (folder / "Dockerfile").write_text(text, encoding="utf-8")


def _line(value: Any) -> Any:
    """Names come from other people's models: no line break of theirs may become an instruction."""
    return " ".join(value.split()) if isinstance(value, str) else value


@functools.cache
def _environment(templates: Path) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
