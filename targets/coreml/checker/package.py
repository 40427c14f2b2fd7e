"""An .mlpackage read back from disk."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from edgec.core.errors import IntegrityError, MissingExtraError
from edgec.core.json_file import read_object
from edgec.core.plain_files import is_inside
from edgec.targets.coreml.checker.blobs import Blobs

MODEL_PREFIX = "@model_path/"


@dataclasses.dataclass
class Package:
    """What a package holds.

    Attributes:
        path: its folder.
        model: the parsed `Model` message.
        root: the folder that `@model_path` stands for.
    """

    path: Path
    model: Any
    root: Path
    _blobs: dict[str, Blobs] = dataclasses.field(default_factory=dict)

    def blobs(self, name: str) -> Blobs:
        """A weight file by the name that the model gives it.

        Raises:
            IntegrityError: the name leads out of the package, or the file is not sound.
        """
        if name not in self._blobs:
            relative = name.removeprefix(MODEL_PREFIX)
            file = (self.root / relative).resolve()
            if not name.startswith(MODEL_PREFIX) or not file.is_relative_to(self.root.resolve()):
                raise _broken(self.path, f"names a weight file outside of it ({name})")
            self._blobs[name] = Blobs(file)
        return self._blobs[name]

    @property
    def functions(self) -> dict[str, Any]:
        """The program's functions by name."""
        return dict(self.model.mlProgram.functions)

    @property
    def specification(self) -> int:
        """The version of the model format."""
        return int(self.model.specificationVersion)


def read(path: Path) -> Package:
    """Read a package.

    Raises:
        IntegrityError: a part is missing or malformed.
    """
    try:
        manifest = read_object(path / "Manifest.json")
        entries = manifest["itemInfoEntries"]
        root_entry = entries[manifest["rootModelIdentifier"]]["path"]
        outside = [entry["path"] for entry in entries.values() if not is_inside(entry["path"])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(path, f"has no sound Manifest.json ({type(error).__name__}: {error})") from error
    if outside:
        raise _broken(path, f"names {outside[0]!r}, which is not a file of its own")
    for entry in entries.values():
        if not (path / "Data" / entry["path"]).exists():
            raise _broken(path, f"lacks {entry['path']}, which its Manifest names")
    file = path / "Data" / root_entry
    message = _model_message()
    try:
        message.ParseFromString(file.read_bytes())
    except Exception as error:  # protobuf's DecodeError differs between its implementations
        raise _broken(path, f"has a {file.name} that is no Core ML model ({error})") from error
    if message.WhichOneof("Type") != "mlProgram":
        raise _broken(path, f"holds a {message.WhichOneof('Type')}, not an ML program")
    return Package(path, message, file.parent)


def _model_message() -> Any:
    try:
        from coremltools.proto import Model_pb2
    except ImportError as error:
        raise MissingExtraError("coremltools", "coreml") from error
    return Model_pb2.Model()


def _broken(path: Path, what: str) -> IntegrityError:
    return IntegrityError(f"the package {what}", where=str(path), fix="compile the model again")
