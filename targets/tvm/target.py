"""The target TVM: one shared library for this machine's x86, or compiled across for a board with ARM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgec.core.bundle import ENGINE
from edgec.core.errors import JobError, UnsupportedError
from edgec.core.graph import Arrays, Graph
from edgec.runtime.engine import Engine, EngineDescription, LayerTime
from edgec.targets.base import Candidate
from edgec.targets.tvm.machines import ANY_X86, Core, core_named
from edgec.targets.tvm.runtime_files import version

X86_ENGINE = "tvm"
ARM_ENGINE = "tvm-arm"


class Tvm:
    """A processor, through a library that TVM compiles.

    Args:
        name: the target's name, `x86` or `arm`.
        core: what is compiled for.
    """

    def __init__(self, name: str, core: Core) -> None:
        self.name = name
        self.core = core
        self.runs_here = core.is_here
        self._kind = X86_ENGINE if core is ANY_X86 else ARM_ENGINE

    @classmethod
    def x86(cls) -> Tvm:
        """This machine's processor."""
        return cls("x86", ANY_X86)

    @classmethod
    def arm(cls, core: str | None) -> Tvm:
        """A board with ARM, of a core or of any.

        Raises:
            RequestError: the core is not known.
        """
        return cls("arm", core_named(core))

    def candidates(self, graph: Graph, precision: str) -> list[Candidate]:
        """One library in fp32.

        Raises:
            UnsupportedError: something in the graph cannot be imported; lists all of it.
            MissingExtraError: TVM is not installed.
            JobError: the precision is not available, or there is no compiler.
        """
        from edgec.targets.tvm.lowering import FORM, obstacles

        if precision not in ("auto", "fp32"):
            raise JobError(
                f"--precision {precision} is not available through TVM", fix="use --precision fp32"
            )
        found = version()
        self.core.compiler()
        reasons = obstacles(graph.model)
        if reasons:
            raise UnsupportedError(f"{self.name} through TVM", reasons, fix="use --target x86, or other ops")
        core = f", {self.core.name}" if self.core.name else ""
        return [Candidate(self._kind, "fp32", f"{FORM}, TVM {found}{core}")]

    def lower(self, graph: Graph, candidate: Candidate) -> Graph:  # noqa: ARG002
        """The graph in the target's dialect; the given graph is left as it is."""
        from edgec.targets.tvm.lowering import lowered

        return lowered(graph)

    def build(self, graph: Graph, candidate: Candidate, folder: Path) -> None:
        """Write the engine of a lowered graph into an empty folder, with its `engine.json`.

        Raises:
            JobError: TVM does not take the graph after all, or a compiler failed.
        """
        from edgec.targets.tvm.build import build

        build(graph, candidate, self.core, self._kind, folder)

    def ship(self, bundle: Path) -> None:
        """Add the C++ example, which runs the engine without Python."""
        from edgec.targets.tvm.shipping import ship_example

        ship_example(bundle)

    def annotate(self, report: dict[str, Any], bundle: Path) -> None:
        """Add what is predicted of a board that nothing was measured on."""
        from edgec.targets.tvm.prediction import least_latency

        if not self.runs_here:
            macs = int(EngineDescription.read(bundle / ENGINE).settings["macs"])
            report["latency"]["predicted"] = least_latency(self.core.name, macs)

    def open(self, folder: Path) -> Engine:
        """Open what `build` wrote; under an emulator where this machine has another processor.

        Raises:
            JobError: there is no emulator.
        """
        if self.runs_here:
            from edgec.runtime.engine_tvm import TvmEngine

            return TvmEngine(folder)
        from edgec.targets.tvm.emulated import EmulatedLibrary

        return EmulatedLibrary(folder)

    def profile(self, engine: Engine, feeds: Arrays) -> list[LayerTime]:
        """Times of the kernels, under the user's layer names; none under an emulator."""
        return engine.profile(feeds)
