"""Timing small networks on a target's engine, so that they can be compared with one another."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import tempfile
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import onnx_ir as ir

from edgec.core.errors import RequestError
from edgec.core.graph import Arrays, Graph, Source, tensor_spec
from edgec.core.timing import measure
from edgec.devices.host import host_profile
from edgec.devices.latency_tables import Device, Kind
from edgec.runtime.engine import Engine
from edgec.targets.base import Candidate, Target

Name = TypeVar("Name", bound=Hashable)

_ABREAST = 8
"""Engines that are open at a time, beside the one that all are compared with."""

_BLOCKS = 5
_BLOCK_SECONDS = 0.04
"""Short and many: what disturbs the machine for a moment spoils a block, not the median."""

_PACKAGES = {"ort": "onnxruntime", "openvino": "openvino"}
"""The package whose version decides how fast an engine of this machine is."""


class Timer(Protocol):
    """Times networks on one device, with one engine."""

    @property
    def kind(self) -> Kind:
        """Whether it measures or predicts."""

    @property
    def device(self) -> Device:
        """What its times belong to."""

    def times(self, networks: Mapping[Name, Graph]) -> dict[Name, tuple[float, float]]:
        """Milliseconds of a run of each network, and the range of its blocks over their median.

        The fastest block counts: what the device does when nothing else runs on it.

        Args:
            networks: networks by name, of fixed shapes. All others run beside the first: what drifts
                meanwhile drifts for both.

        Raises:
            EdgecError: the engine does not take one.
        """


@dataclasses.dataclass(frozen=True)
class HostTimer:
    """Measures on this machine.

    Attributes:
        target: a target whose engines run here.
        candidate: the engine.
    """

    target: Target
    candidate: Candidate
    kind: Kind = "measured"

    @property
    def device(self) -> Device:
        """This machine and the engine."""
        host = host_profile()
        package = _PACKAGES.get(self.candidate.engine, "")
        version = importlib.metadata.version(package) if package else ""
        identity = json.dumps(dataclasses.asdict(host.processor), sort_keys=True)
        return Device(host.name, identity, self.candidate.name, f"{self.candidate.engine} {version}".strip())

    def times(self, networks: Mapping[Name, Graph]) -> dict[Name, tuple[float, float]]:
        """As the protocol says; in alternating blocks, some engines at a time."""
        found: dict[Name, tuple[float, float]] = {}
        reference, *others = networks
        with tempfile.TemporaryDirectory(prefix="edgec-segments-") as scratch:
            standard, run = self._opened(networks[reference], Path(scratch) / "reference")
            try:
                for start in range(0, max(len(others), 1), _ABREAST):
                    self._group(networks, reference, run, others[start : start + _ABREAST], scratch, found)
            finally:
                standard.close()
        return found

    def _group(
        self,
        networks: Mapping[Name, Graph],
        reference: Name,
        run: Callable[[], object],
        names: list[Name],
        scratch: str,
        found: dict[Name, tuple[float, float]],
    ) -> None:
        """Time some networks beside the reference."""
        engines: list[Engine] = []
        calls: dict[Name, Callable[[], object]] = {reference: run}
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            try:
                for index, name in enumerate(names):
                    engine, calls[name] = self._opened(networks[name], Path(folder) / str(index))
                    engines.append(engine)
                latencies = measure(calls, blocks=_BLOCKS, block_seconds=_BLOCK_SECONDS)
            finally:
                for engine in engines:
                    engine.close()
        beside = latencies[reference]
        found.setdefault(reference, (min(beside.blocks), beside.spread))
        # The reference ran beside every group: on its clock, groups can be compared.
        clock = found[reference][0] / min(beside.blocks)
        for name in names:
            found[name] = (min(latencies[name].blocks) * clock, latencies[name].spread)

    def _opened(self, graph: Graph, folder: Path) -> tuple[Engine, Callable[[], object]]:
        folder.mkdir()
        self.target.build(self.target.lower(graph, self.candidate), self.candidate, folder)
        engine = self.target.open(folder)
        return engine, functools.partial(engine.run, graph.examples[0])


def graph_of(model: ir.Model) -> Graph:
    """A network of fixed shapes as a graph with drawn inputs, to be built and timed, not judged.

    Raises:
        RequestError: one of its inputs has an open dimension or no known type.
    """
    try:
        inputs = tuple(tensor_spec(value) for value in model.graph.inputs)
    except ValueError as error:
        raise RequestError(f"a segment cannot be timed: {error}") from error
    for spec in inputs:
        if not spec.is_fixed:
            raise RequestError(
                f"the shape of `{spec.name}` is open, so the time of what follows has no one value",
                fix="fix the shapes with --input or --batch",
            )
    rng = np.random.default_rng(0)
    feeds: Arrays = {
        spec.name: _drawn(tuple(map(int, spec.shape)), np.dtype(spec.dtype), rng) for spec in inputs
    }
    return Graph(
        model,
        Source("segment", "onnx", "segment", ""),
        inputs,
        [feeds],
        [{}],
        calibration=(feeds,) * 4,
    )


def _drawn(shape: tuple[int, ...], dtype: np.dtype, rng: np.random.Generator) -> np.ndarray:
    """Numbers as activations have them; every mask open, every index the first."""
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return np.ones(shape, dtype) if dtype.kind == "b" else np.zeros(shape, dtype)
