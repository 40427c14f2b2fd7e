"""OCI image layouts as archives: content-addressed blobs, an index, and nothing that runs.

F.tar
oci-layout  index.json  blobs/sha256/…

Source: github.com/opencontainers/image-spec, image-layout.md, manifest.md and descriptor.md, version 1.1.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgec.core.bundle import writing_file
from edgec.core.errors import RequestError

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
REFERENCE = "org.opencontainers.image.ref.name"

MAKE_BASE = "make one with skopeo copy docker://python:3.11-slim oci-archive:F.tar"

Descriptor = dict[str, Any]


class Blobs:
    """Blobs by their digest, each in memory or in a file."""

    def __init__(self) -> None:
        self._held: dict[str, bytes | Path] = {}

    def add(self, media_type: str, content: bytes | Path) -> Descriptor:
        """Add a blob; returns its descriptor."""
        if isinstance(content, Path):
            with content.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = content.stat().st_size
        else:
            digest, size = hashlib.sha256(content).hexdigest(), len(content)
        self._held[digest] = content
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}

    def add_json(self, media_type: str, fields: Mapping[str, Any]) -> Descriptor:
        """Add a JSON document; returns its descriptor."""
        return self.add(media_type, json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())

    def write(self, target: Path, manifest: Descriptor, tag: str) -> None:
        """Write an archive with one manifest under a tag; the same bytes for the same blobs."""
        entry = {**manifest, "annotations": {REFERENCE: tag}}
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}
        with (
            writing_file(target) as scratch,
            tarfile.open(scratch, "w", format=tarfile.PAX_FORMAT) as archive,
        ):
            _put(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            _put(archive, "index.json", json.dumps(index, sort_keys=True, separators=(",", ":")).encode())
            for digest, content in sorted(self._held.items()):
                _put(archive, f"blobs/sha256/{digest}", content)


def _put(archive: tarfile.TarFile, name: str, content: bytes | Path) -> None:
    entry = tarfile.TarInfo(name)  # of root, without a date: the same bytes each time
    if isinstance(content, Path):
        entry.size = content.stat().st_size
        with content.open("rb") as file:
            archive.addfile(entry, file)
    else:
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))


class Base:
    """An image that another is made on, in an OCI archive or a folder with an OCI layout.

    Args:
        path: the archive, which is unpacked into `scratch`, or the folder.
        scratch: an empty folder.
        architecture: as Go calls it: amd64, arm64.

    Attributes:
        config: the image's configuration.
        layers: its layers' descriptors, each with its file.

    Raises:
        RequestError: it is none, is damaged, or has no image of that architecture.
    """

    def __init__(self, path: Path, scratch: Path, architecture: str) -> None:
        self._where = str(path)
        self._folder = path if path.is_dir() else _unpacked(path, scratch)
        try:
            self._read(architecture)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise self._refused(f"is no OCI layout ({error})") from error

    def _read(self, architecture: str) -> None:
        index = json.loads((self._folder / "index.json").read_bytes())
        descriptors = index["manifests"]
        while True:
            fitting = [
                each
                for each in descriptors
                if each.get("platform", {}).get("architecture", architecture) == architecture
            ]
            if not fitting:
                raise self._refused(f"has no image for {architecture}")
            fields = json.loads(self._blob(fitting[0]).read_bytes())
            if "manifests" not in fields:
                break
            descriptors = fields["manifests"]
        self.config: dict[str, Any] = json.loads(self._blob(fields["config"]).read_bytes())
        if self.config["architecture"] != architecture:
            raise self._refused(f"is for {self.config['architecture']}, and the bundle for {architecture}")
        self.layers = [(layer, self._blob(layer)) for layer in fields["layers"]]

    def _blob(self, descriptor: Mapping[str, Any]) -> Path:
        algorithm, _, digest = str(descriptor["digest"]).partition(":")
        if algorithm != "sha256" or len(digest) != 64 or not digest.isalnum():
            raise ValueError(f"{descriptor['digest']!r} is no sha256")
        path = self._folder / "blobs" / "sha256" / digest
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise self._refused(f"its blob {digest[:12]}… is damaged")
        return path

    def _refused(self, what: str) -> RequestError:
        return RequestError(
            what,
            where=self._where,
            fix=MAKE_BASE,
        )


def _unpacked(path: Path, scratch: Path) -> Path:
    try:
        with tarfile.open(path) as archive:
            archive.extractall(scratch, filter="data")
    except (OSError, tarfile.TarError) as error:
        raise RequestError(
            f"is no archive of an image ({error})",
            where=str(path),
            fix=MAKE_BASE,
        ) from error
    return scratch
