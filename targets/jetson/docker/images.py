"""Base images by TensorRT version, as data with sources."""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from pathlib import Path

from edgec.core.errors import JobError

FOLDER = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Images:
    """The base images for one TensorRT.

    Attributes:
        jetpack: JetPack's major version.
        tensorrt: major.minor of the TensorRT inside.
        build: the image that compiles.
        run: the image that runs.
        confirmed: what shows that they exist and carry it.
        sources: addresses of the documents that list them.
    """

    jetpack: str
    tensorrt: str
    build: str
    run: str
    confirmed: str
    sources: tuple[str, ...]


@functools.cache
def known() -> tuple[Images, ...]:
    """All base images, oldest TensorRT first."""
    fields = tomllib.loads((FOLDER / "images.toml").read_text(encoding="utf-8"))
    urls = {key: source["url"] for key, source in fields["sources"].items()}
    return tuple(
        Images(**{**entry, "sources": tuple(urls[key] for key in entry["sources"])})
        for entry in fields["images"]
    )


def images_for(tensorrt: str) -> Images:
    """The base images that carry a plan's TensorRT.

    Args:
        tensorrt: `10.3` or longer.

    Raises:
        JobError: no image with it is known; says which are.
    """
    wanted = ".".join(tensorrt.split(".")[:2])
    for images in known():
        if images.tensorrt == wanted:
            return images
    listed = ", ".join(f"{images.tensorrt} (JetPack {images.jetpack})" for images in known())
    raise JobError(
        f"no base image with TensorRT {wanted} is known, those with {listed} are",
        fix="deploy it with edgec deploy, or compile for a JetPack that is listed",
    )
