"""`edgec package`: a bundle as a Docker context, an image, an artifact, wheels, or C++ sources around it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from edgec.cli import options
from edgec.core.errors import RequestError


def command(
    bundle: options.BundlePath,
    docker: Annotated[bool, typer.Option("--docker", help="a folder for docker build")] = False,
    wheel: Annotated[bool, typer.Option("--wheel", help="two wheels, the runtime and the bundle")] = False,
    cpp: Annotated[
        bool, typer.Option("--cpp", help="C++ sources of a library that runs it, with a C interface")
    ] = False,
    oci: Annotated[
        bool, typer.Option("--oci", help="the image that serves it, as an OCI archive; needs --base")
    ] = False,
    base: Annotated[
        Path | None,
        typer.Option("--base", metavar="F.tar", help="an image with Python: an OCI archive or layout"),
    ] = None,
    modelpack: Annotated[
        bool, typer.Option("--modelpack", help="the bundle as a CNCF ModelPack artifact, an OCI archive")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="the folder or archive to write")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Pack a bundle for others: a Docker context, an image, a registry's artifact, wheels, or C++ sources."""
    from edgec.core.bundle import Bundle
    from edgec.judging.runtime_warnings import texts
    from edgec.packaging.oci_layout import MAKE_BASE

    asked = {_docker: docker, _wheels: wheel, _cpp: cpp, _oci: oci, _modelpack: modelpack}
    if sum(asked.values()) != 1:
        raise RequestError(
            "package makes one thing at a time",
            fix="give --docker, --wheel, --cpp, --oci or --modelpack",
        )
    if oci != (base is not None):
        raise RequestError(
            "--oci and --base go together",
            fix=f"give both or neither; {MAKE_BASE}",
        )
    opened = Bundle.open(bundle)
    known_wrong = texts(opened.report())
    for text in known_wrong:
        print(f"edgec: {text}", file=sys.stderr)
    write = next(function for function, is_asked in asked.items() if is_asked)
    fields = write(opened, output, base)
    if as_json:
        from edgec.cli.output import print_json

        print_json({"bundle": str(bundle), "known_wrong": known_wrong, **fields})
    else:
        print("\n".join(fields["say"]))


def _docker(bundle: Any, output: Path | None, _base: Path | None) -> dict[str, Any]:
    from edgec.packaging.docker import write_context

    folder = write_context(bundle, output or Path(f"{bundle.path.name.removesuffix('.edgec')}.docker"))
    text = (folder / "Dockerfile").read_text(encoding="utf-8")
    said = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#   docker")]
    # The Dockerfile's own line stands in its folder.
    said[0] = f"{said[0].removesuffix(' .')} {shlex.quote(str(folder))}"
    return {"context": str(folder), "dockerfile": str(folder / "Dockerfile"), "say": [str(folder), *said]}


def _wheels(bundle: Any, output: Path | None, _base: Path | None) -> dict[str, Any]:
    from edgec.packaging.wheel import write_wheels

    folder = output or Path()
    folder.mkdir(parents=True, exist_ok=True)
    paths = [str(path) for path in write_wheels(bundle, folder)]
    return {"wheels": paths, "say": [*paths, "pip install " + " ".join(paths)]}


def _cpp(bundle: Any, output: Path | None, _base: Path | None) -> dict[str, Any]:
    from edgec.packaging.cpp_sources import write_sources

    folder = output or Path(f"{bundle.path.name.removesuffix('.edgec')}.cpp")
    commands = write_sources(bundle, folder)
    return {"sources": str(folder), "commands": commands, "say": [str(folder), *commands]}


def _oci(bundle: Any, output: Path | None, base: Path | None) -> dict[str, Any]:
    from edgec.packaging.oci_image import write_image

    path = output or _beside(bundle, ".oci.tar")
    tag = write_image(bundle, base or Path(), path)
    image = shlex.quote(f"oci-archive:{path}")
    commands = [f"podman load -i {shlex.quote(str(path))}", f"podman run -p 8000:8000 localhost/{tag}"]
    push = f"skopeo copy {image} docker://REGISTRY/{tag}"
    return {"image": str(path), "tag": tag, "commands": commands, "say": [str(path), *commands, push]}


def _modelpack(bundle: Any, output: Path | None, _base: Path | None) -> dict[str, Any]:
    from edgec.packaging.modelpack import TAG, write_modelpack

    path = output or _beside(bundle, ".modelpack.tar")
    write_modelpack(bundle, path)
    push = f"oras cp --from-oci-layout {shlex.quote(f'{path}:{TAG}')} REGISTRY/NAME:{TAG}"
    return {"artifact": str(path), "say": [str(path), push]}


def _beside(bundle: Any, ending: str) -> Path:
    return Path(bundle.path.name.removesuffix(".edgec") + ending)
