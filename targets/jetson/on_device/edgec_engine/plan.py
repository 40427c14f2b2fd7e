"""The bundle as the device sees it: `engine/plan.json`, the model, the samples, and where the engine goes."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Mapping

import numpy as np
from edgec_engine import npz
from edgec_engine.errors import DeviceError
from edgec_engine.numerics import Expected
from edgec_engine.ties import Ties

SCHEMA = 1
STATE_VARIABLE = "EDGEC_STATE"

LARGEST_SAMPLE = 1 << 31
"""Bytes of all arrays of an npz file that is read."""


class Plan:
    """How the bundle's engine is to be built.

    Attributes:
        bundle: the bundle's folder.
        state: the folder that takes whatever is made on the device; the bundle itself is never written to.
        fields: `plan.json`.
        engine: the engine, once it is built.
    """

    def __init__(
        self, bundle: Path, state: Path, fields: dict[str, Any], engine: str = "model.engine"
    ) -> None:
        self.bundle = bundle
        self.state = state
        self.fields = fields
        self.engine = state / engine

    def of(self, variant: Mapping[str, Any], engine: str) -> Plan:
        """The plan of one of `variants`, whose engine has a file name of its own.

        `model_sha256` stays: it is what an engine is known by, and the plan's own digest covers the rest.
        """
        own = {key: variant[key] for key in ("model", "flags", "layer_precisions")}
        return Plan(self.bundle, self.state, {**self.fields, **own, "variant": variant["name"]}, engine)

    @property
    def variants(self) -> list[dict[str, Any]]:
        """The ways to build the engine, the plan's own first; empty where there is one only."""
        return self.fields.get("variants") or []

    @classmethod
    def read(cls, bundle: str, state: str | None = None) -> Plan:
        """Read and check the plan of a bundle.

        Args:
            bundle: the bundle's folder.
            state: where the engine goes; else `EDGEC_STATE`, else `BUNDLE.device` beside the bundle.

        Raises:
            DeviceError: there is no plan, or it is of a newer schema or lacks a field.
        """
        folder = Path(bundle).resolve()
        path = folder / "engine" / "plan.json"
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            schema = fields["schema"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DeviceError(
                f"{folder}: this is not a Jetson bundle ({error})",
                "name the folder that edgec compile --target jetson wrote",
                2,
            ) from error
        if schema > SCHEMA:
            raise DeviceError(
                f"{path}: the plan has schema {schema}, this builder reads up to {SCHEMA}",
                "run the edgec_engine in the bundle's own device folder",
                2,
            )
        missing = [key for key in _NEEDED if key not in fields]
        if missing:
            raise DeviceError(
                "{}: the plan lacks {}".format(path, ", ".join(missing)), "compile the model again", 2
            )
        names = [(key, fields.get(key)) for key in ("model", "timing_cache")]
        names += [("model", variant.get("model")) for variant in fields.get("variants") or []]
        for key, name in names:
            if not isinstance(name, str) or name in (".", "..") or "/" in name or "\0" in name:
                raise DeviceError(
                    f"{path}: {key} {name!r} is not a file of the bundle", "do not trust this bundle", 2
                )
        chosen = state or os.environ.get(STATE_VARIABLE) or f"{folder}.device"
        return cls(folder, Path(chosen).resolve(), fields)

    @property
    def model(self) -> Path:
        """The ONNX model."""
        return self.bundle / "engine" / str(self.fields["model"])

    @property
    def timing_cache(self) -> Path:
        """What the builder measured so far; a second build with it is much shorter."""
        return self.state / str(self.fields["timing_cache"])

    @property
    def profiles(self) -> list[dict[str, dict[str, list[int]]]]:
        """For each profile, input name → `min`, `opt` and `max` shape."""
        return [profile["inputs"] for profile in self.fields["profiles"]]

    def fixed_shapes(self) -> dict[str, dict[str, list[int]]]:
        """The inputs whose shape the model fixes, written as a profile."""
        return {
            entry["name"]: dict.fromkeys(("min", "opt", "max"), entry["shape"])
            for entry in self.fields["inputs"]
            if all(size >= 0 for size in entry["shape"])
        }

    @property
    def sources(self) -> Mapping[str, str]:
        """ONNX node → the layer of the source that it came from."""
        return self.fields.get("sources", {})

    def command(self, name: str) -> str:
        """The command line that runs a subcommand on this bundle, for messages."""
        return "PYTHONPATH={} python3 -B -m edgec_engine {} {} --state {}".format(
            self.bundle / "device", name, self.bundle, self.state
        )

    def check_files(self) -> None:
        """Compare the bundle's files with their recorded sha256.

        Raises:
            DeviceError: names the first file that is missing or changed.
        """
        manifest = self.bundle / "manifest.json"
        try:
            recorded = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        except (OSError, ValueError, KeyError) as error:
            raise DeviceError(f"{manifest}: cannot be read ({error})", "copy the bundle again") from error
        for name in sorted(recorded):
            path = self.bundle / name
            if not path.is_file():
                raise DeviceError(f"{path}: is missing from the bundle", "copy the bundle again")
            if sha256(path) != recorded[name]:
                raise DeviceError(f"{path}: changed after it was written", "copy the bundle again")

    def sample_count(self) -> int:
        """How many samples came with the bundle."""
        return len(list((self.bundle / "samples").glob("*.inputs.npz")))

    def samples(self, count: int) -> tuple[list[dict[str, np.ndarray]], Expected]:
        """The first samples' inputs, and what the source computed on them."""
        feeds, references, exact, ties, moves = [], [], [], [], []
        for index in range(count):
            feeds.append(self._arrays(index, "inputs"))
            outputs = self._arrays(index, "outputs")
            references.append(outputs)
            if self._sample_file(index, "rounding").is_file():
                lost = self._arrays(index, "rounding")
                exact.append({name: outputs[name].astype(np.float64) - lost[name] for name in lost})
            if self._sample_file(index, "moves").is_file():
                moves.append(self._arrays(index, "moves"))
            if self._sample_file(index, "ties").is_file():
                ties.append(Ties.from_arrays(self._arrays(index, "ties")))
        return feeds, Expected(references, exact, ties, moves)

    def _sample_file(self, index: int, role: str) -> Path:
        return self.bundle / "samples" / f"{index}.{role}.npz"

    def _arrays(self, index: int, role: str) -> dict[str, np.ndarray]:
        path = self._sample_file(index, role)
        try:
            return npz.read(str(path), LARGEST_SAMPLE)
        except npz.NpzError as error:
            raise DeviceError(f"{path}: cannot be read ({error})", "copy the bundle again") from error


def sha256(path: Path) -> str:
    """The file's sha256, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with scratch.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        raise DeviceError(
            f"{path}: cannot be written ({error.strerror or error})",
            "free some space, or name another folder with --state",
        ) from error
    finally:
        if scratch.exists():
            scratch.unlink()


_NEEDED = (
    "tensorrt",
    "compute_capability",
    "device",
    "model",
    "model_sha256",
    "strongly_typed",
    "flags",
    "layer_precisions",
    "profiles",
    "workspace_bytes",
    "timing_cache",
    "plugins",
    "needs",
    "inputs",
    "outputs",
    "gate",
)
