"""The bundle: one folder that ships, whole or not there at all, and that proves its own integrity.

MODEL.TARGET.edgec/
    manifest.json   what was built from what, with the sha256 of every other file and of itself
    model.sig       where the bundle is signed, the signature of all other files
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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgec.core import appearing, archive, npz, signature
from edgec.core.errors import IntegrityError, JobError, RequestError
from edgec.core.graph import Arrays, TensorSpec
from edgec.core.json_file import Record, read_object, to_bytes
from edgec.core.limits import limit
from edgec.core.numerics import Expected, rounding_of
from edgec.core.plain_files import plain_files, read_plain
from edgec.core.ties import Ties

SCHEMA = 1
MANIFEST = "manifest.json"
SIGNATURE = "model.sig"
IO = "io.json"
REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
ENGINE = "engine"
PLUGINS = "plugins"
SAMPLES = "samples"

ALMOST_NOTHING = 64 * 1024
"""Free bytes under which no engine could have been written."""

RECOMPILE = "compile the model again"

_KINDS: dict[str, type] = {
    **dict.fromkeys(("model", "device", "tools", "files", "numerics", "latency"), dict),
    **dict.fromkeys(("edgec", "target", "engine", "precision", "form"), str),
    **dict.fromkeys(("samples", "seed"), int),
}
"""What the manifest's fields are, as far as they are read."""

_SHOWN = 200
"""Letters of a path in a message."""


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
        """From what `to_json` returned.

        Raises:
            KeyError, TypeError, ValueError: it returned nothing like that.
        """
        labels = fields["labels"]
        if not all(isinstance(label, str) for label in labels):
            raise ValueError("a label is no text")
        return cls(
            tuple(map(_spec, fields["inputs"])),
            tuple(map(_spec, fields["outputs"])),
            {name: dict(steps) for name, steps in fields["preprocessing"].items()},
            tuple(labels),
        )


def _spec(fields: Mapping[str, Any]) -> TensorSpec:
    spec = TensorSpec(**{**fields, "shape": tuple(fields["shape"])})
    sizes_fit = all(isinstance(size, str) or (type(size) is int and size >= 0) for size in spec.shape)
    if not isinstance(spec.name, str) or not isinstance(spec.dtype, str) or not sizes_fit:
        raise ValueError("an input or output has no name, shape and dtype")
    np.dtype(spec.dtype)
    return spec


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
    def open(cls, path: str | Path, *, check: bool = True, key: str | Path | None = None) -> Bundle:
        """Open a bundle's folder, or its zip file, which is unpacked for as long as the bundle lives.

        Args:
            path: the folder or the zip file.
            check: compare every file with its recorded sha256.
            key: a public key in PEM, by whose owner the bundle must be signed; every file is compared then.

        Raises:
            RequestError: there is no bundle at the path, its schema is newer than this edgec, or the key is
                none.
            IntegrityError: a file is missing, was added or differs from its record, or from what was signed.
        """
        path = Path(path)
        unpacked = None
        _check_there(path)
        if path.is_file() and zipfile.is_zipfile(path):
            unpacked = tempfile.TemporaryDirectory(prefix="edgec-bundle-")
            path = archive.unpack(path, Path(unpacked.name))
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
        if check or key is not None:
            check_integrity(path, manifest)
        if key is not None:
            signature.check(path / SIGNATURE, signed_files(path, manifest), Path(key))
        _check_manifest(manifest)
        try:
            description = InputsOutputs.from_json(_read_json(path / IO))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise IntegrityError(f"malformed ({error})", where=str(path / IO), fix=RECOMPILE) from error
        return cls(path, manifest, description, unpacked)

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
        """The sample inputs and what the source computed on them, in the same order.

        Raises:
            IntegrityError: there are none, or more than are allowed.
            RequestError: one cannot be read.
        """
        folder = self.path / SAMPLES
        feeds, references, exact, ties, moves = [], [], [], [], []
        count = self.manifest["samples"]
        if not 1 <= count <= limit("samples"):
            raise IntegrityError(
                f"it says that there are {count} samples, and there are from 1 to {limit('samples')}",
                where=str(self.path / MANIFEST),
                fix=RECOMPILE,
            )
        for index in range(count):
            feeds.append(read_arrays(folder / f"{index}.inputs.npz"))
            outputs = read_arrays(folder / f"{index}.outputs.npz")
            references.append(outputs)
            try:
                if (rounding := folder / f"{index}.rounding.npz").is_file():
                    lost = read_arrays(rounding)
                    exact.append(
                        {name: outputs[name].astype(np.float64) - array for name, array in lost.items()}
                    )
                if (moved := folder / f"{index}.moves.npz").is_file():
                    moves.append(read_arrays(moved))
                if (decided := folder / f"{index}.ties.npz").is_file():
                    ties.append(Ties.from_arrays(read_arrays(decided)))
            except (TypeError, ValueError, LookupError) as error:
                raise IntegrityError(
                    "does not fit the sample's outputs", where=str(rounding), fix=RECOMPILE
                ) from error
        return feeds, Expected(references, exact, ties, moves)


@contextlib.contextmanager
def writing(target: Path, *, needed: int = 0, note: Callable[[str], None] | None = None) -> Iterator[Path]:
    """A scratch folder beside `target` that becomes `target` when the block ends without an error.

    A bundle that was there before stays until the new one is whole; anything else is left alone.

    Args:
        target: the bundle's folder.
        needed: about how many bytes will be written at the most.
        note: told where another process wrote a bundle at `target` meanwhile, which this one replaces.

    Raises:
        RequestError: something that is not a bundle is at `target`, or its parent cannot be written.
        JobError: the disk is full.
    """
    check_writable(target)
    target = target.resolve() if target.is_symlink() else target
    parent = target.parent
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise JobError(
            f"the disk is full: about {needed / 1e6:.0f} MB are needed, {free / 1e6:.1f} MB are free",
            where=str(parent),
            fix="free some space or choose another -o",
        )

    def replaced() -> None:
        if note is not None:
            note(f"{target}: replaced the bundle that another process wrote there meanwhile")

    try:
        with appearing.folder(target, replaced=replaced) as scratch:
            yield scratch
    except Exception as error:
        if _is_full(parent, error):
            raise JobError(
                "the disk is full", where=str(parent), fix="free some space or choose another -o"
            ) from error
        raise


@contextlib.contextmanager
def writing_file(path: Path) -> Iterator[Path]:
    """A path to write a file at that becomes `path` when the block ends without an error.

    Raises:
        RequestError: the file cannot be written there.
        JobError: the disk is full; what was at `path` is as it was.
    """
    check_writable_file(path)
    path = path.resolve() if path.is_symlink() else path
    if path.exists() and not path.is_file():  # a device, as /dev/stdout: nothing takes its place
        yield path
        return
    try:
        with appearing.file(path) as scratch:
            yield scratch
    except OSError as error:
        if _is_full(path.parent, error):
            raise JobError("the disk is full", where=str(path.parent), fix="free some space") from error
        raise


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
    check_writable_folder(target, MANIFEST, "bundle")


def _is_something(target: Path) -> bool:
    """Whether anything is at the path, a link to nothing included.

    Raises:
        RequestError: nothing can be there: the name is too long, or links go round.
    """
    try:
        target.lstat()
        target.stat()
    except (FileNotFoundError, NotADirectoryError):
        if target.is_symlink():
            raise RequestError(
                "is a link to nothing", where=str(target), fix="remove it, or choose another path with -o"
            ) from None
        return False
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else str(error)
        raise RequestError(
            f"no file can be there ({what})", where=_short(target), fix="choose another path with -o"
        ) from error
    return True


def check_writable_folder(target: Path, mark: str, what: str) -> None:
    """See early that a folder may be written at `target`, over one that holds a file `mark`.

    Raises:
        RequestError: something else is there, or the parent is missing, a file or read-only.
    """
    if _is_something(target) and not (target / mark).is_file():
        raise RequestError(
            f"exists and is not a {what}, so it is not overwritten",
            where=_short(target),
            fix="choose another path with -o",
        )
    _check_parent(target, f"the {what}")


def check_writable_file(path: Path) -> None:
    """See early that a file may be written at `path`, over one that is there.

    Raises:
        RequestError: a folder is there, or the parent is missing, a file or read-only.
    """
    is_there = _is_something(path)
    if path.is_dir():
        raise RequestError("is a folder, and a file is to be written", where=str(path), fix="name a file")
    _check_parent(path, "the file")
    if is_there and not os.access(path, os.W_OK):
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
    # A signature holds for the files as they were.
    (folder / SIGNATURE).unlink(missing_ok=True)
    files = {name: file_sha256(folder / name) for name in plain_files(folder) if name != MANIFEST}
    sealed = {**manifest, "schema": SCHEMA, "files": files}
    sealed["sha256"] = _manifest_sha256(sealed)
    write_json(folder / MANIFEST, sealed)
    return sealed


def check_integrity(path: Path, manifest: Mapping[str, Any]) -> None:
    """Compare a bundle's files with its manifest, and the manifest with its own hash.

    Raises:
        IntegrityError: names the first file that is missing, was added, is none or differs.
    """
    present = set(plain_files(path)) - {MANIFEST, SIGNATURE}
    if manifest.get("sha256") != _manifest_sha256(manifest):
        raise IntegrityError("changed after it was written", where=str(path / MANIFEST), fix=RECOMPILE)
    recorded = manifest["files"]
    if not isinstance(recorded, dict):
        raise IntegrityError("does not list its files", where=str(path / MANIFEST), fix=RECOMPILE)
    for name, digest in recorded.items():
        if name not in present:
            raise IntegrityError("is missing from the bundle", where=str(path / name), fix=RECOMPILE)
        read_plain(path, name, digest, lambda _: None)
    for name in sorted(present - set(recorded)):
        raise IntegrityError("is not part of the bundle", where=str(path / name), fix="remove it")


def _check_manifest(manifest: Record) -> None:
    """See that what the manifest says is of the kinds that are read from it.

    Raises:
        IntegrityError: names the field.
    """
    for name, kind in _KINDS.items():
        if name in manifest and not isinstance(manifest[name], kind):
            raise IntegrityError(
                f"its field {name!r} is no {kind.__name__}", where=manifest.where, fix=RECOMPILE
            )
    for name, value in manifest.items():
        if isinstance(value, dict) and name in _KINDS:
            manifest[name] = Record(value)
            manifest[name].where = manifest.where


def recorded_files(bundle: Bundle) -> dict[str, str]:
    """Every file of a bundle with the sha256 that it was opened with, the manifest among them, in order."""
    signed = bundle.path / SIGNATURE
    more = {SIGNATURE: file_sha256(signed)} if signed.is_file() else {}
    return {**signed_files(bundle.path, bundle.manifest), **more}


def signed_files(path: Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    """What a signature is of: every file of a bundle but the signature itself, with its sha256, in order."""
    return {MANIFEST: file_sha256(path / MANIFEST), **dict(sorted(manifest["files"].items()))}


def sign(bundle: Bundle, key: Path, password: bytes | None = None) -> Path:
    """Sign a bundle's files as they are, over a signature that was there; returns the signature's path.

    Args:
        bundle: a bundle in a folder, opened with its files compared.
        key: a private key in PEM, of the curve P-256, P-384 or P-521.
        password: what the key is encrypted with.

    Raises:
        RequestError: the key is none, or the bundle is in a zip file.
    """
    if bundle.is_unpacked:
        raise RequestError(
            "a bundle in a zip file is not signed in place",
            where=str(bundle.path),
            fix="unpack it, sign the folder, and pack that",
        )
    name = bundle.path.resolve().name
    content = signature.sign(signed_files(bundle.path, bundle.manifest), name, key, password)
    path = bundle.path / SIGNATURE
    with writing_file(path) as scratch:
        scratch.write_bytes(content)
    return path


def copy_bundle(bundle: Bundle, folder: Path) -> None:
    """Copy a bundle's files, those in its manifest and no others, to a folder that is made.

    Raises:
        IntegrityError: a file is not what was recorded any more.
    """
    for name, digest in recorded_files(bundle).items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("xb") as copy:
            read_plain(bundle.path, name, digest, copy.write)


def pack(bundle: Path) -> Path:
    """Pack a bundle's folder into `FOLDER.zip`, the same bytes for the same files; returns its path.

    Raises:
        IntegrityError: a file is not what was recorded any more.
    """
    target = bundle.with_name(bundle.name + ".zip")
    archive.pack(bundle, recorded_files(Bundle.open(bundle, check=False)), target)
    return target


def write_samples(folder: Path, feeds: list[Arrays], expected: Expected) -> None:
    """Write sample inputs and what the source computed on them under `samples/`.

    `K.inputs.npz` and `K.outputs.npz` are the source's own; `K.rounding.npz` is what its outputs differ from
    its float64, `K.moves.npz` what they move by where its inputs are rounded, and `K.ties.npz` what its
    decisions rest on, where these are known.
    """
    samples = folder / SAMPLES
    samples.mkdir()
    for index, (feed, reference) in enumerate(zip(feeds, expected.references, strict=True)):
        write_arrays(samples / f"{index}.inputs.npz", feed)
        write_arrays(samples / f"{index}.outputs.npz", reference)
        if expected.exact:
            lost = rounding_of(reference, expected.exact[index])
            write_arrays(samples / f"{index}.rounding.npz", lost)
        if expected.moves:
            write_arrays(samples / f"{index}.moves.npz", expected.moves[index])
        if any(expected.ties):
            write_arrays(samples / f"{index}.ties.npz", expected.ties[index].to_arrays())


def read_arrays(path: Path) -> Arrays:
    """Read an npz file without ever unpickling.

    Raises:
        RequestError: there is no such file, or it is not an npz of plain arrays.
    """
    if not os.path.isfile(path):  # noqa: PTH113 (also where the name is too long or has a NUL)
        raise RequestError("no such file", where=_short(path), fix="name an .npz file")
    try:
        return npz.read(str(path), limit("array_bytes"))
    except npz.NpzError as error:
        raise RequestError(
            f"not an .npz file of named arrays ({error})", where=str(path), fix="write it with numpy.savez"
        ) from error


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an npz file, the same bytes for the same arrays."""
    npz.write(str(path), arrays)


def write_json(path: Path, fields: object) -> None:
    """Write JSON that a person can read and that is the same bytes for the same fields."""
    text = json.dumps(fields, indent=1, sort_keys=True, allow_nan=True, ensure_ascii=False)
    path.write_bytes(to_bytes(text + "\n"))


def file_sha256(path: Path) -> str:
    """The file's sha256, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manifest_sha256(manifest: Mapping[str, Any]) -> str:
    fields = {key: value for key, value in manifest.items() if key != "sha256"}
    text = json.dumps(fields, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(to_bytes(text)).hexdigest()


def _read_json(path: Path) -> Record:
    try:
        fields = Record(read_object(path))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"cannot be read ({error})", where=str(path), fix=RECOMPILE) from error
    fields.where = str(path)
    return fields


def _check_there(path: Path) -> None:
    try:
        path.stat()
    except (OSError, ValueError) as error:
        # Not there, a name too long, links that go round, a NUL.
        raise RequestError(
            "no such bundle", where=_short(path), fix="name the folder that compile wrote"
        ) from error


def _short(path: Path) -> str:
    """A path to show, however long it is."""
    text = str(path)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
