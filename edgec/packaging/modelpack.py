"""A bundle as an artifact of the CNCF's ModelPack format, which registries keep beside images.

Every file is a layer of its own under its own name, so `oras pull` gives the bundle back as it was, and a
file that did not change is not sent twice.

Source: github.com/modelpack/model-spec, docs/spec.md and docs/config.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgec.core.bundle import ENGINE, IO, MANIFEST, SAMPLES, Bundle, check_writable_file, recorded_files
from edgec.packaging import oci_layout
from edgec.packaging.oci_layout import Blobs

_ARTIFACT = "application/vnd.cncf.model.manifest.v1+json"
_CONFIG = "application/vnd.cncf.model.config.v1+json"
_PATH = "org.cncf.model.filepath"
_TITLE = "org.opencontainers.image.title"
"""What `oras pull` calls the file."""

TAG = "latest"

_SCALES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))


def write_modelpack(bundle: Bundle, target: Path) -> None:
    """Write the artifact as an OCI archive, under the tag `TAG`.

    Raises:
        RequestError: the target cannot be written.
        IntegrityError: a file of the bundle changed meanwhile.
    """
    check_writable_file(target)
    blobs, layers = Blobs(), []
    for name, digest in recorded_files(bundle).items():
        layer = blobs.add(_media_type(name), bundle.path / name)
        if layer["digest"] != f"sha256:{digest}":
            Bundle.open(bundle.path)  # says which file changed
        layers.append({**layer, "annotations": {_PATH: name, _TITLE: name}})
    config = blobs.add_json(_CONFIG, _config(bundle, [layer["digest"] for layer in layers]))
    manifest = {
        "schemaVersion": 2,
        "mediaType": oci_layout.MANIFEST,
        "artifactType": _ARTIFACT,
        "config": config,
        "layers": layers,
    }
    blobs.write(target, blobs.add_json(oci_layout.MANIFEST, manifest), TAG)


def _media_type(name: str) -> str:
    """A file that is neither archived nor compressed, by what it is to the model."""
    room = name.partition("/")[0]
    if name in (MANIFEST, IO) or name.endswith("/engine.json"):
        kind = "weight.config"
    elif room == ENGINE:
        kind = "weight"
    elif room == SAMPLES:
        kind = "dataset"
    elif "/" in name:
        kind = "code"
    else:
        kind = "doc"
    return f"application/vnd.cncf.model.{kind}.v1.raw"


def _config(bundle: Bundle, digests: list[str]) -> dict[str, Any]:
    manifest = bundle.manifest
    config = {"format": str(manifest["engine"]), "precision": str(manifest["precision"])}
    parameters = manifest["model"].get("parameters")
    if isinstance(parameters, int):
        scale, letter = next(((size, unit) for size, unit in _SCALES if parameters >= size), (1.0, ""))
        if letter:
            config["paramSize"] = f"{parameters / scale:.1f}{letter}"
    return {
        "descriptor": {"name": str(manifest["model"]["name"]), "title": bundle.path.name},
        "config": config,
        # Of files that are not archives, the bytes themselves.
        "modelfs": {"type": "layers", "diffIds": digests},
    }
