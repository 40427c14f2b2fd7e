"""The bundle: one folder that ships, whole or not there at all, and that proves its own integrity.

MODEL.TARGET.edgec/
    manifest.json   what was built from what, with the sha256 of every other file and of itself
    io.json         inputs and outputs: names, shapes, dtypes, semantics, pre-processing, labels
    engine/         the engine and its engine.json
    plugins/        what the engine loads besides
    swift/          of a Core ML bundle, a Swift package around the engine
    samples/        inputs with the source's own outputs
    report.json     the measurements behind report.html
    report.html
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgec.core.errors import IntegrityError, JobError, RequestError
from edgec.core.graph import Arrays, TensorSpec
from edgec.core.numerics import Expected, rounding_of
from edgec.core.ties import Ties

SCHEMA = 1
MANIFEST = "manifest.json"
IO = "io.json"
REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
ENGINE = "engine"
PLUGINS = "plugins"
SAMPLES = "samples"

ALMOST_NOTHING = 64 * 1024
"""Free bytes under which no engine could have been written."""

RECOMPILE = "compile the model again"


@dataclasses.dataclass(frozen=True)
class InputsOutputs:
    """`io.json`: what goes in and what comes out.

    Attributes:
        inputs: the inputs, in the engine's order.
        outputs: the outputs, in the engine's order.
        preprocessing: per input name, how raw data becomes the input.
        labels: class names, empty where unknown.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: dict[str, dict[str, object]]
    labels: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> InputsOutputs:
        """From what `to_json` returned."""
        return cls(
            tuple(TensorSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in fields["inputs"]),
            tuple(TensorSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in fields["outputs"]),
            dict(fields["preprocessing"]),
            tuple(fields["labels"]),
        )


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A finished bundle on disk.

    Attributes:
        path: its folder.
        manifest: `manifest.json`.
        io: `io.json`.
    """

    path: Path
    manifest: dict[str, Any]
    io: InputsOutputs
    _unpacked: tempfile.TemporaryDirectory[str] | None = dataclasses.field(default=None, repr=False)

    @classmethod
    def open(cls, path: str | Path, *, check: bool = True) -> Bundle:
        """Open a bundle's folder, or its zip file, which is unpacked for as long as the bundle lives.

        Args:
            path: the folder or the zip file.
            check: compare every file with its recorded sha256.

        Raises:
            RequestError: there is no bundle at the path, or its schema is newer than this edgec.
            IntegrityError: a file is missing, was added or differs from its record.
        """
        path = Path(path)
        unpacked = None
        if path.is_file() and zipfile.is_zipfile(path):
            unpacked = tempfile.TemporaryDirectory(prefix="edgec-bundle-")
            path = _unpack(path, Path(unpacked.name))
        if not path.exists():
            raise RequestError("no such bundle", where=str(path), fix="name the folder that compile wrote")
        if not (path / MANIFEST).is_file():
            raise RequestError(
                f"this is not a bundle: it has no {MANIFEST}",
                where=str(path),
                fix="name the folder that compile wrote",
            )
        manifest = _read_json(path / MANIFEST)
        schema = manifest.get("schema")
        if isinstance(schema, int) and schema > SCHEMA:
            raise RequestError(
                f"the bundle has schema {schema}, this edgec reads up to {SCHEMA}",
                where=str(path),
                fix="update edgec",
            )
        if check:
            check_integrity(path, manifest)
        try:
            io = InputsOutputs.from_json(_read_json(path / IO))
        except (KeyError, TypeError) as error:
            raise IntegrityError(f"malformed ({error})", where=str(path / IO), fix=RECOMPILE) from error
        return cls(path, manifest, io, unpacked)

    @property
    def is_unpacked(self) -> bool:
        """Whether its folder is a zip file's contents, which go with this object."""
        return self._unpacked is not None

    @property
    def engine_folder(self) -> Path:
        """The engine's folder."""
        return self.path / ENGINE

    def report(self) -> dict[str, Any]:
        """`report.json`."""
        return _read_json(self.path / REPORT_JSON)

    def samples(self) -> tuple[list[Arrays], Expected]:
        """The sample inputs and what the source computed on them, in the same order."""
        folder = self.path / SAMPLES
        feeds, references, exact, ties = [], [], [], []
        for index in range(self.manifest["samples"]):
            feeds.append(read_arrays(folder / f"{index}.inputs.npz"))
            outputs = read_arrays(folder / f"{index}.outputs.npz")
            references.append(outputs)
            if (rounding := folder / f"{index}.rounding.npz").is_file():
                lost = read_arrays(rounding)
                exact.append({name: outputs[name].astype(np.float64) - array for name, array in lost.items()})
            if (decided := folder / f"{index}.ties.npz").is_file():
                ties.append(Ties.from_arrays(read_arrays(decided)))
        return feeds, Expected(references, exact, ties)


@contextlib.contextmanager
def writing(target: Path, *, needed: int = 0) -> Iterator[Path]:
    """A scratch folder beside `target` that becomes `target` when the block ends without an error.

    A bundle that was there before stays until the new one is whole; anything else is left alone.

    Args:
        target: the bundle's folder.
        needed: about how many bytes will be written at the most.

    Raises:
        RequestError: something that is not a bundle is at `target`, or its parent cannot be written.
        JobError: the disk is full.
    """
    check_writable(target)
    parent = target.parent
    _remove_abandoned(parent, target.name)
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise JobError(
            f"the disk is full: about {needed / 1e6:.0f} MB are needed, {free / 1e6:.1f} MB are free",
            where=str(parent),
            fix="free some space or choose another -o",
        )
    scratch = parent / f".{target.name}.partial-{os.getpid()}"
    replaced = parent / f".{target.name}.old-{os.getpid()}"
    try:
        scratch.mkdir()
        yield scratch
        if target.exists():
            target.rename(replaced)
        scratch.rename(target)
    except Exception as error:
        if _is_full(parent, error):
            raise JobError(
                "the disk is full", where=str(parent), fix="free some space or choose another -o"
            ) from error
        raise
    finally:
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        shutil.rmtree(replaced, ignore_errors=True)
        shutil.rmtree(scratch, ignore_errors=True)


def _is_full(folder: Path, error: Exception) -> bool:
    """Whether a full disk explains the error: writers of engines and arrays say so in words of their own."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return shutil.disk_usage(folder).free < ALMOST_NOTHING


def check_writable(target: Path) -> None:
    """See early that a bundle may be written at `target`.

    Raises:
        RequestError: something that is not a bundle is there, or the parent is missing, a file
            or read-only.
    """
    if target.exists() and not (target / MANIFEST).is_file():
        raise RequestError(
            "exists and is not a bundle, so it is not overwritten",
            where=str(target),
            fix="choose another path with -o",
        )
    _check_parent(target, "the bundle")


def check_writable_file(path: Path) -> None:
    """See early that a file may be written at `path`, over one that is there.

    Raises:
        RequestError: a folder is there, or the parent is missing, a file or read-only.
    """
    if path.is_dir():
        raise RequestError("is a folder, and a file is to be written", where=str(path), fix="name a file")
    _check_parent(path, "the file")
    if path.exists() and not os.access(path, os.W_OK):
        raise RequestError("no permission to write here", where=str(path), fix="choose another path")


def _check_parent(target: Path, what: str) -> None:
    parent = target.parent
    # A part of the path that is a file: what lies below it cannot be made.
    file = next((folder for folder in (parent, *parent.parents) if folder.is_file()), None)
    if file is not None:
        raise RequestError(
            f"is a file, and {what} is to be written in it as a folder",
            where=str(file),
            fix="choose another path with -o or --output",
        )
    if not parent.is_dir():
        raise RequestError(f"no such folder to write {what} in", where=str(parent), fix="make it first")
    if not os.access(parent, os.W_OK):
        raise RequestError("no permission to write here", where=str(parent), fix="choose another path")


def seal(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Write `manifest.json` over the folder's files, with their hashes and its own."""
    files = {name: file_sha256(folder / name) for name in _files_of(folder)}
    sealed = {**manifest, "schema": SCHEMA, "files": files}
    sealed["sha256"] = _manifest_sha256(sealed)
    write_json(folder / MANIFEST, sealed)
    return sealed


def check_integrity(path: Path, manifest: Mapping[str, Any]) -> None:
    """Compare a bundle's files with its manifest, and the manifest with its own hash.

    Raises:
        IntegrityError: names the first file that is missing, was added or differs.
    """
    if manifest.get("sha256") != _manifest_sha256(manifest):
        raise IntegrityError("changed after it was written", where=str(path / MANIFEST), fix=RECOMPILE)
    recorded = manifest["files"]
    present = set(_files_of(path))
    for name, digest in recorded.items():
        if name not in present:
            raise IntegrityError("is missing from the bundle", where=str(path / name), fix=RECOMPILE)
        if file_sha256(path / name) != digest:
            raise IntegrityError("changed after it was written", where=str(path / name), fix=RECOMPILE)
    for name in sorted(present - set(recorded)):
        raise IntegrityError("is not part of the bundle", where=str(path / name), fix="remove it")


def pack(bundle: Path) -> Path:
    """Pack a bundle's folder into `FOLDER.zip`, the same bytes for the same files; returns its path."""
    target = bundle.with_name(bundle.name + ".zip")
    scratch = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        with zipfile.ZipFile(scratch, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in [MANIFEST, *_files_of(bundle)]:
                entry = zipfile.ZipInfo(f"{bundle.name}/{name}")
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                with (bundle / name).open("rb") as source, archive.open(entry, "w", force_zip64=True) as copy:
                    shutil.copyfileobj(source, copy)
        scratch.rename(target)
    finally:
        scratch.unlink(missing_ok=True)
    return target


def write_samples(folder: Path, feeds: list[Arrays], expected: Expected) -> None:
    """Write sample inputs and what the source computed on them under `samples/`.

    `K.inputs.npz` and `K.outputs.npz` are the source's own; `K.rounding.npz` is what its outputs differ from
    its float64, and `K.ties.npz` what its decisions rest on, where these are known.
    """
    samples = folder / SAMPLES
    samples.mkdir()
    for index, (feed, reference) in enumerate(zip(feeds, expected.references, strict=True)):
        write_arrays(samples / f"{index}.inputs.npz", feed)
        write_arrays(samples / f"{index}.outputs.npz", reference)
        if expected.exact:
            lost = rounding_of(reference, expected.exact[index])
            write_arrays(samples / f"{index}.rounding.npz", lost)
        if any(expected.ties):
            write_arrays(samples / f"{index}.ties.npz", expected.ties[index].to_arrays())


def read_arrays(path: Path) -> Arrays:
    """Read an npz file without ever unpickling.

    Raises:
        RequestError: there is no such file, or it is not an npz of plain arrays.
    """
    if not path.is_file():
        raise RequestError("no such file", where=str(path), fix="name an .npz file")
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it holds one array without a name")
        with archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise RequestError(
            f"not an .npz file of named arrays ({error})", where=str(path), fix="write it with numpy.savez"
        ) from error


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an npz file, the same bytes for the same arrays.

    `numpy.savez` is not used: it takes the arrays' names as its own keyword arguments.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)


def write_json(path: Path, fields: object) -> None:
    """Write JSON that a person can read and that is the same bytes for the same fields."""
    text = json.dumps(fields, indent=1, sort_keys=True, allow_nan=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def file_sha256(path: Path) -> str:
    """The file's sha256, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manifest_sha256(manifest: Mapping[str, Any]) -> str:
    fields = {key: value for key, value in manifest.items() if key != "sha256"}
    text = json.dumps(fields, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _files_of(folder: Path) -> list[str]:
    names = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return sorted(name for name in names if name != MANIFEST)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"cannot be read ({error})", where=str(path), fix=RECOMPILE) from error
    if not isinstance(fields, dict):
        raise IntegrityError("is not a JSON object", where=str(path), fix=RECOMPILE)
    return fields


def _remove_abandoned(parent: Path, name: str) -> None:
    """Remove what a killed compile of the same bundle left, and nothing of one that still runs."""
    for marker in ("partial", "old"):
        for left in parent.glob(f".{name}.{marker}-*"):
            process = left.name.rpartition("-")[2]
            if process.isdigit() and not _is_running(int(process)):
                shutil.rmtree(left, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _unpack(archive_path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive_path) as archive:
        archive.extractall(folder)
    inside = [entry for entry in folder.iterdir() if entry.is_dir()]
    if len(inside) != 1:
        raise RequestError("this zip file is not a packed bundle", where=str(archive_path))
    return inside[0]
