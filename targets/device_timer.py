"""Timing small networks on a Jetson that is connected: each is deployed as a bundle of its own."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TypeVar

from edgec.core import bundle as bundles
from edgec.core.bundle import Bundle, InputsOutputs
from edgec.core.evaluation import Evaluator
from edgec.core.graph import Graph
from edgec.core.numerics import Expected
from edgec.core.progress import Progress
from edgec.devices.connections.base import Connection
from edgec.devices.deployment import deploy
from edgec.devices.latency_tables import Device, Kind
from edgec.targets.base import Candidate
from edgec.targets.jetson.target import Jetson

Name = TypeVar("Name", bound=Hashable)

_BUNDLE = "latency-segment.jetson.edgec"
"""One name for all: each takes the earlier one's place on the device, and goes on with its timing cache."""


@dataclasses.dataclass(frozen=True)
class DeviceTimer:
    """Measures on a connected Jetson.

    A network takes as long to build there as any engine does, some seconds to a minute; a whole table, which
    is made once, up to an hour.

    Attributes:
        target: the target, of the connected device's profile.
        candidate: the engine.
        connection: the device.
        progress: told each step.
    """

    target: Jetson
    candidate: Candidate
    connection: Connection
    progress: Progress
    kind: Kind = "measured"

    @property
    def device(self) -> Device:
        """The connected device: another of the same profile may have other clocks."""
        profile = self.target.device
        version = f"TensorRT {profile.tensorrt}"
        identity = f"{profile.name} at {self.connection.name}"
        return Device(f"{profile.title} ({self.connection.name})", identity, self.candidate.name, version)

    def times(self, networks: Mapping[Name, Graph]) -> dict[Name, tuple[float, float]]:
        """As `Timer.times` says; one after the other, for nothing else runs there."""
        found: dict[Name, tuple[float, float]] = {}
        for index, (name, graph) in enumerate(networks.items()):
            self.progress.step(f"{self.connection.name}: network {index + 1} of {len(networks)}")
            with tempfile.TemporaryDirectory(prefix="edgec-segments-") as scratch:
                bundle = self._bundle(graph, Path(scratch) / _BUNDLE)
                # A segment is one engine: the time is for measuring many, not for variants of each.
                latency = deploy(bundle, self.connection, self.progress, build_time=0).measured["latency"]
            blocks = latency["blocks"]
            found[name] = (min(blocks), (max(blocks) - min(blocks)) / latency["p50"])
        return found

    def _bundle(self, graph: Graph, folder: Path) -> Bundle:
        """A bundle with what deploying needs and nothing to read."""
        engine = folder / bundles.ENGINE
        engine.mkdir(parents=True)
        lowered = self.target.lower(graph, self.candidate)
        self.target.build(lowered, self.candidate, engine)
        with Evaluator(graph.model) as evaluator:
            reference = evaluator.run(graph.examples[0])
        bundles.write_samples(folder, graph.examples[:1], Expected([reference]))
        io = InputsOutputs(graph.inputs, graph.outputs, {}, ())
        bundles.write_json(folder / bundles.IO, io.to_json())
        bundles.write_json(folder / "report.json", {"schema": 1, "model": {"name": "segment"}})
        self.target.ship(folder)
        manifest = {
            "samples": 1,
            "target": self.target.name,
            "engine": self.candidate.engine,
            "precision": self.candidate.precision,
            "device": {},
            "model": {"name": "segment"},
            "latency": {"measured": False, "device": "", "entries": [], "predicted": []},
        }
        bundles.seal(folder, manifest)
        return Bundle.open(folder)
