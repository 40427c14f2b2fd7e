"""The contract of an engine: opened from a folder, fed with arrays, profiled by layer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgec.core.decoder import Decoding
from edgec.core.errors import IntegrityError, RequestError
from edgec.core.graph import Arrays
from edgec.core.json_file import read_object
from edgec.core.plain_files import is_inside

DESCRIPTION = "engine.json"

_MOST_THREADS = 4096


@dataclasses.dataclass(frozen=True)
class EngineDescription:
    """`engine.json`: all that is needed to open an engine's folder.

    Attributes:
        kind: `ort` or `openvino`.
        model: the model file's name inside the folder.
        precision: `fp32`, `fp16`, `bf16` or `int8`.
        threads: worker threads; 0 leaves it to the engine.
        form: the lowering form that the graph is in.
        layers: engine node name → the user's layer name.
        extensions: shared libraries to load first, relative to the engine's folder.
        inputs: names of the model's inputs, in its own order; empty where the model file tells them.
        outputs: names of the model's outputs, likewise.
        rest: of an int8 engine, what it computes in where nothing is quantised; else empty.
        settings: the engine's own configuration entries, by their own names.
        decoder: of a decoder that keeps its caches itself, what `Decoding.to_json` gives; else empty.
    """

    kind: str
    model: str
    precision: str
    threads: int
    form: str
    layers: dict[str, str]
    extensions: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    rest: str = ""
    settings: dict[str, str] = dataclasses.field(default_factory=dict)
    decoder: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def decoding(self) -> Decoding | None:
        """What may be generated; None where the engine is no decoder."""
        return Decoding.from_json(self.decoder) if self.decoder else None

    def write(self, folder: Path) -> None:
        """Write `engine.json` into the folder."""
        text = json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True)
        (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> EngineDescription:
        """Read `engine.json` from the folder.

        Raises:
            IntegrityError: it is missing or malformed.
        """
        path = folder / DESCRIPTION
        try:
            fields = read_object(path)
            lists = {name: tuple(fields.get(name, ())) for name in ("extensions", "inputs", "outputs")}
            description = cls(**{**fields, **lists})
        except (OSError, ValueError, TypeError) as error:
            raise IntegrityError(
                f"the engine's description cannot be read ({error})",
                where=str(path),
                fix="compile the model again",
            ) from error
        description._check(path)
        return description

    def _check(self, path: Path) -> None:
        """See that the fields are of their kinds, and that what it names lies in its folder.

        Raises:
            IntegrityError: names what does not.
        """
        texts = (self.kind, self.model, self.precision, self.form, self.rest, *self.inputs, *self.outputs)
        layers = self.layers.items() if isinstance(self.layers, dict) else ((None, None),)
        texts = (*texts, *(text for pair in layers for text in pair))
        try:
            _ = self.decoding
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(
                f"the engine's description is malformed ({error})",
                where=str(path),
                fix="compile the model again",
            ) from error
        is_count = type(self.threads) is int and 0 <= self.threads <= _MOST_THREADS
        if not is_count or not all(isinstance(text, str) for text in texts):
            raise IntegrityError(
                "the engine's description is malformed", where=str(path), fix="compile the model again"
            )
        if self.kind == "openvino" and not self.model.endswith(".xml"):
            # OpenVINO reads other formats too, some of which name files of their own.
            raise IntegrityError(
                f"it names {self.model!r}, which is no OpenVINO IR",
                where=str(path),
                fix="compile the model again",
            )
        for name in (self.model, *self.extensions):
            if not is_inside(name):
                raise IntegrityError(
                    f"it names {name!r}, which is not a file of its own folder",
                    where=str(path),
                    fix="do not run this bundle; compile the model again",
                )


@dataclasses.dataclass(frozen=True)
class LayerTime:
    """Time of one engine layer.

    Attributes:
        layer: the engine's own name of it.
        source: the user's layer name.
        op: the engine's kernel or op type.
        microseconds: median time of one run.
    """

    layer: str
    source: str
    op: str
    microseconds: float


class Engine(Protocol):
    """A model ready to run in the process that opened it, from any number of threads.

    Inputs and outputs keep the source's names and dtypes whatever the precision inside. Runs that are under
    way at once do not see each other; an engine with states keeps one of its own for every thread.
    """

    description: EngineDescription

    def run(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run once. Feeds are not checked here; `Session.run` does that.

        Raises:
            RequestError: the engine is closed.
        """

    def profile(self, feeds: Mapping[str, np.ndarray], runs: int = 20) -> list[LayerTime]:
        """Run with the engine's own per-layer timers; in execution order."""

    def close(self) -> None:
        """Free the engine and its threads; runs that are under way end first, later ones are refused."""


def closed() -> RequestError:
    """What a run of a closed engine says."""
    return RequestError("the session is closed", fix="load the bundle again")
