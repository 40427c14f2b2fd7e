"""`edgec package`: a bundle as a Docker context, as wheels, or as C++ sources around it."""

from __future__ import annotations

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
    output: Annotated[Path | None, typer.Option("-o", "--output", help="the folder to write")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Pack a bundle for others: a Docker context, wheels, or C++ sources."""
    from edgec.core.bundle import Bundle
    from edgec.judging.runtime_warnings import texts

    if docker + wheel + cpp != 1:
        raise RequestError("package makes one thing at a time", fix="give --docker, --wheel or --cpp")
    opened = Bundle.open(bundle)
    known_wrong = texts(opened.report())
    for text in known_wrong:
        print(f"edgec: {text}", file=sys.stderr)
    write = _docker if docker else _wheels if wheel else _cpp
    fields = write(opened, output)
    if as_json:
        from edgec.cli.output import print_json

        print_json({"bundle": str(bundle), "known_wrong": known_wrong, **fields})
    else:
        print("\n".join(fields["say"]))


def _docker(bundle: Any, output: Path | None) -> dict[str, Any]:
    from edgec.packaging.docker import write_context

    folder = write_context(bundle, output or Path(f"{bundle.path.name.removesuffix('.edgec')}.docker"))
    text = (folder / "Dockerfile").read_text(encoding="utf-8")
    said = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#   docker")]
    return {"context": str(folder), "dockerfile": str(folder / "Dockerfile"), "say": [str(folder), *said]}


def _wheels(bundle: Any, output: Path | None) -> dict[str, Any]:
    from edgec.packaging.wheel import write_wheels

    folder = output or Path()
    folder.mkdir(parents=True, exist_ok=True)
    paths = [str(path) for path in write_wheels(bundle, folder)]
    return {"wheels": paths, "say": [*paths, "pip install " + " ".join(paths)]}


def _cpp(bundle: Any, output: Path | None) -> dict[str, Any]:
    from edgec.packaging.cpp_sources import write_sources

    folder = output or Path(f"{bundle.path.name.removesuffix('.edgec')}.cpp")
    commands = write_sources(bundle, folder)
    return {"sources": str(folder), "commands": commands, "say": [str(folder), *commands]}
