"""The contract of a target: four methods, and what it accepts as data."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Protocol

from edgec.core.graph import Arrays, Graph
from edgec.runtime.engine import Engine, LayerTime


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way to build an engine: what the choice by measurement chooses among.

    Attributes:
        engine: the engine's kind, `ort` or `openvino`.
        precision: `fp32`, `bf16`, …
        form: the lowering form, one of the target's own names for how attention and norms are written.
    """

    engine: str
    precision: str
    form: str

    @property
    def name(self) -> str:
        """`openvino fp32 (sdpa)`."""
        return f"{self.engine} {self.precision} ({self.form})"


class Target(Protocol):
    """Turns a neutral graph into an engine of one kind of device.

    Attributes:
        name: the target's name.
        runs_here: whether its engines run on this machine. Where they do not, `open` gives an
            interpreter that says what they compute, and nothing about them is measured.
    """

    name: str
    runs_here: bool

    def candidates(self, graph: Graph, precision: str) -> list[Candidate]:
        """The candidates worth building here, most promising first.

        Raises:
            UnsupportedError: no engine of the target takes the graph; lists all reasons.
            MissingExtraError: the only engine for the precision is not installed.
        """

    def lower(self, graph: Graph, candidate: Candidate) -> Graph:
        """The graph in the candidate's dialect; the given graph is left as it is."""

    def build(self, graph: Graph, candidate: Candidate, folder: Path) -> None:
        """Write the engine of a lowered graph into an empty folder, with its `engine.json`."""

    def open(self, folder: Path) -> Engine:
        """Open what `build` wrote."""

    def profile(self, engine: Engine, feeds: Arrays) -> list[LayerTime]:
        """Per-layer times, under the user's layer names."""
