"""The contract of a target: four methods, and what it accepts as data."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from edgec.core.graph import Arrays, Graph
from edgec.runtime.engine import Engine, LayerTime


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way to build an engine: what the choice by measurement chooses among.

    Attributes:
        engine: the engine's kind, `ort` or `openvino`.
        precision: `fp32`, `bf16`, …
        form: the lowering form, one of the target's own names for how attention and norms are written.
        rest: of a quantised engine, what it computes in where nothing is quantised; of a bf16 engine that
            keeps layers, `fp32`; else empty.
        scheme: of a quantised engine, how it was quantised, one of the target's own names; else empty.
        kept: the source layers that are computed in `rest` instead, for the budget's sake.
        plain: whether it is what a user would have without edgec: the exporter's own file, by the engine's
            own tool. Such a one is tried whatever the search has seen. It says nothing of what is computed,
            so candidates are compared without it.
    """

    engine: str
    precision: str
    form: str
    rest: str = ""
    scheme: str = ""
    kept: tuple[str, ...] = ()
    plain: bool = dataclasses.field(default=False, compare=False)

    @property
    def name(self) -> str:
        """`openvino fp32 (sdpa)`, `openvino int8+bf16 (static, decomposed, 2 layers kept)`."""
        precision = f"{self.precision}+{self.rest}" if self.rest else self.precision
        kept = f"{len(self.kept)} {'layer' if len(self.kept) == 1 else 'layers'} kept" if self.kept else ""
        return f"{self.engine} {precision} ({', '.join(filter(None, (self.scheme, self.form, kept)))})"

    @property
    def is_lossy(self) -> bool:
        """Whether a budget judges it, not a gate: quantisation loses more than rounding does."""
        return bool(self.scheme)

    @property
    def rounds(self) -> bool:
        """Whether layers can be kept of it: it computes in less than `rest` could, or than fp32."""
        return self.is_lossy or self.precision == "bf16"

    def keeping(self, layers: tuple[str, ...]) -> Candidate:
        """The same engine with these source layers computed in `rest`, or in fp32."""
        return dataclasses.replace(self, kept=layers, rest=self.rest or "fp32", plain=False)

    @property
    def exact(self) -> Candidate:
        """The same engine and form in fp32: what a gate at fp32's tolerance judges."""
        return Candidate(self.engine, "fp32", self.form)


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


@dataclasses.dataclass(frozen=True)
class Offer:
    """A candidate that a search may try.

    Attributes:
        candidate: the candidate.
        refused: why this machine cannot run it; empty where it can.
    """

    candidate: Candidate
    refused: str = ""


@dataclasses.dataclass(frozen=True)
class Fallback:
    """Something that did not run the way it was meant to.

    Attributes:
        what: what was not used.
        why: what stood in the way, and what cures it.
        instead: what ran instead.
        cost: what that cost, as far as it is known here.
    """

    what: str
    why: str
    instead: str
    cost: str


@runtime_checkable
class FallsBack(Protocol):
    """A target that has a second way to run something, and says when it took it."""

    def fallbacks(self, graph: Graph, chosen: Candidate, measured: str) -> list[Fallback]:
        """What a compile had to do without.

        Args:
            graph: the graph that ships, before it was lowered.
            chosen: the engine that ships.
            measured: what was measured of the ops that reduce tokens; empty where nothing was.
        """


@runtime_checkable
class Quantising(Protocol):
    """What a target has besides where it quantises: candidates that only a budget allows."""

    def lossy_candidates(self, graph: Graph, precision: str) -> list[Offer]:
        """What a budget's search tries, in this order: cheap and promising first.

        Exact ones are among them: they gate the forms, and for `auto` they may win.

        Args:
            graph: the neutral graph.
            precision: `auto` or `int8`.

        Raises:
            UnsupportedError: no engine of the target takes the graph; lists all reasons.
            JobError: `int8` is asked for and this machine cannot run any.
        """

    def rounded_layers(self, folder: Path) -> tuple[str, ...]:
        """The source layers that a quantised or bf16 engine rounds, in execution order."""

    def open_keeping(self, folder: Path, layers: frozenset[str]) -> Engine:
        """Open a quantised or bf16 engine with some source layers unquantised, or in fp32."""


@runtime_checkable
class Compressing(Target, Protocol):
    """A target that can store the weights of its engine in fewer bits, judged by a budget."""

    def compressed_candidates(self, graph: Graph, precision: str) -> list[Candidate]:
        """The forms to try, smallest first; all of them for `auto`.

        Raises:
            JobError: there is no form of the precision here.
        """

    def compress(self, exact: Path, candidate: Candidate, folder: Path) -> None:
        """Write an engine with the weights of the exact one compressed into an empty folder."""

    def size(self, folder: Path) -> int:
        """What an engine takes on the device, in bytes."""


@runtime_checkable
class Ships(Protocol):
    """A target whose bundles hold more than an engine: what the device builds or runs it with."""

    def ship(self, bundle: Path) -> None:
        """Add it to a bundle that has its engine, before the bundle is sealed."""


@runtime_checkable
class Annotates(Protocol):
    """A target that knows more of its engine than numerics and times."""

    def annotate(self, report: dict[str, Any], bundle: Path) -> None:
        """Add to the report of a bundle that has its engine, before it is written."""


@runtime_checkable
class LeavesOut(Protocol):
    """A target whose engines get some pass of the pipeline wrong.

    Attributes:
        without_passes: names of the passes that are left out, unless the user puts them in.
    """

    without_passes: tuple[str, ...]


@runtime_checkable
class PreparesGraphs(Protocol):
    """A target whose engines take other examples than the source brings: pictures, sizes, steps."""

    def prepared(self, graph: Graph) -> Graph:
        """The loaded graph with examples that the target's engines can take, and the source's own outputs
        on them; before any pass runs.
        """


@runtime_checkable
class Decodes(Protocol):
    """A target whose engines of a decoder's step keep the caches themselves, and run whole generations.

    Attributes:
        decodes: whether they do.
    """

    decodes: bool
