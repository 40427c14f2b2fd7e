"""The image of an x86 bundle as an OCI archive, written without a container engine and without root.

    base's layers → packages (runtime, engine, server) → bundle

Podman, containerd and Kubernetes load it (`podman load -i F.tar`), and `skopeo copy oci-archive:F.tar docker://…`
pushes it. What `docker build` makes of the context of `--docker` does the same.
"""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from edgec.core.bundle import Bundle, check_writable_file, copy_bundle
from edgec.core.errors import JobError
from edgec.packaging import wheel
from edgec.packaging.docker import x86_requirements
from edgec.packaging.oci_layout import CONFIG, LAYER, MANIFEST, Base, Blobs, Descriptor

_SITE = "opt/edgec/site"
_BUNDLE = "opt/edgec/bundle"
_USER = "10001"
_PORT = 8000
_SECOND = 1_000_000_000
"""In nanoseconds, as a health check counts."""

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def write_image(bundle: Bundle, base: Path, target: Path) -> str:
    """Write the archive.

    Args:
        bundle: a bundle for x86.
        base: an image with Python, as an OCI archive or a folder with an OCI layout.
        target: the archive.

    Returns:
        the image's tag.

    Raises:
        RequestError: the base is none, or the target cannot be written.
        JobError: the bundle is for a device of another kind, or its packages cannot be had.
    """
    wheel.check_runs_here(bundle)
    check_writable_file(target)
    machine = str(bundle.manifest.get("device", {}).get("architecture", "x86_64"))
    tag = f"{wheel.package_name(bundle)}:latest"
    with tempfile.TemporaryDirectory(prefix="edgec-oci-") as scratch:
        folder = Path(scratch)
        (folder / "base").mkdir()
        under = Base(base, folder / "base", _ARCHITECTURES.get(machine, machine))
        _install(bundle, folder / "packages" / _SITE, machine, _python_of(under.config))
        copy_bundle(bundle, folder / "bundle" / _BUNDLE)
        blobs = Blobs()
        layers = [{**layer, **blobs.add(layer["mediaType"], path)} for layer, path in under.layers]
        diffs = []
        for name in ("packages", "bundle"):
            layer, diff = _layer(blobs, folder / name, folder / f"{name}.tar")
            layers.append(layer)
            diffs.append(diff)
        config = blobs.add_json(CONFIG, _config(under.config, diffs))
        fields = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
        blobs.write(target, blobs.add_json(MANIFEST, fields), tag)
    return tag


def _python_of(config: dict[str, Any]) -> str:
    """The base's Python, which the official images name in their environment; else the one that runs this."""
    for text in config.get("config", {}).get("Env") or ():
        if found := re.fullmatch(r"PYTHON_VERSION=(3\.\d+)\..*", text):
            return found.group(1)
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _install(bundle: Bundle, folder: Path, machine: str, python: str) -> None:
    with tempfile.TemporaryDirectory(prefix="edgec-wheel-") as scratch:
        runtime = wheel.write_runtime_wheel(Path(scratch))
        command = [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", str(folder)),
            *("--only-binary=:all:", "--python-version", python, "--implementation", "cp"),
            *(word for glibc in ("2_28", "2_27", "2_17", "2014") for word in _platform(glibc, machine)),
            *(str(runtime), *x86_requirements(bundle)),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [
            done.stderr.strip()
        ]
        raise JobError(
            f"pip cannot get the image's packages ({lines[-1].removeprefix('ERROR: ')})",
            where=str(bundle.path),
            fix="check that this machine reaches a package index, or build the context of --docker",
        )
    # Commands for the Python that ran pip, not for the image's.
    shutil.rmtree(folder / "bin", ignore_errors=True)


def _platform(glibc: str, machine: str) -> tuple[str, str]:
    return "--platform", f"manylinux{'' if glibc == '2014' else '_'}{glibc}_{machine}"


def _layer(blobs: Blobs, root: Path, scratch: Path) -> tuple[Descriptor, str]:
    """A folder as a layer; its descriptor, and the digest of what it unpacks to."""
    with tarfile.open(scratch, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(root.rglob("*")):
            entry = archive.gettarinfo(path, path.relative_to(root).as_posix())
            # The same bytes whoever writes it and when.
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            entry.mtime = 0
            entry.mode = 0o755 if path.is_dir() or entry.mode & 0o100 else 0o644
            if path.is_file():
                with path.open("rb") as file:
                    archive.addfile(entry, file)
            else:
                archive.addfile(entry)
    diff = Blobs().add(LAYER, scratch)["digest"]
    packed = scratch.with_name(scratch.name + ".gz")
    with (
        scratch.open("rb") as plain,
        packed.open("wb") as zipped,
        gzip.GzipFile(filename="", mode="wb", fileobj=zipped, mtime=0, compresslevel=6) as stream,
    ):
        shutil.copyfileobj(plain, stream, 1 << 20)
    scratch.unlink()
    return blobs.add(f"{LAYER}+gzip", packed), diff


def _config(base: dict[str, Any], diffs: list[str]) -> dict[str, Any]:
    """The base's configuration, changed to one that serves the bundle."""
    command = ["python3", "-B", "-m", "edgec_runtime"]
    settings = dict(base.get("config") or {})
    settings["Env"] = [
        *(text for text in settings.get("Env") or () if not text.startswith("PYTHONPATH=")),
        f"PYTHONPATH=/{_SITE}",
    ]
    settings |= {
        "User": _USER,
        "WorkingDir": "/",
        "ExposedPorts": {f"{_PORT}/tcp": {}},
        "Entrypoint": [*command, "serve", f"/{_BUNDLE}", "--host", "0.0.0.0", "--port", str(_PORT)],
        "Cmd": [],
        # Docker's and Podman's; the specification lets others leave it aside.
        "Healthcheck": {
            "Test": ["CMD", *command, "health", f"/{_BUNDLE}"],
            "Interval": 30 * _SECOND,
            "Timeout": 5 * _SECOND,
            "StartPeriod": 60 * _SECOND,
            "Retries": 3,
        },
    }
    history = [
        *(base.get("history") or ()),
        *({"created_by": f"edgec {name}"} for name in ("packages", "bundle")),
    ]
    rootfs = {"type": "layers", "diff_ids": [*base["rootfs"]["diff_ids"], *diffs]}
    return {**base, "config": settings, "rootfs": rootfs, "history": history}
