"""The target x86: ONNX Runtime and OpenVINO behind one contract."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from edgec.core.errors import JobError, MissingExtraError, UnsupportedError
from edgec.core.graph import Arrays, Graph
from edgec.runtime.engine import Engine, LayerTime
from edgec.runtime.engines import open_engine
from edgec.targets.base import Candidate
from edgec.targets.x86.accepts import ENGINES, obstacles
from edgec.targets.x86.cpu import require_bf16
from edgec.targets.x86.forms import EXPORTED, exported, forms, lowered

_PACKAGES = {"ort": "onnxruntime", "openvino": "openvino"}

_LATER = {"fp16": "x86 processors compute fp16 in fp32", "int8": "quantisation is not built yet"}


class X86:
    """This machine's processor.

    Args:
        engine: `ort` or `openvino` for that one only; None for whichever is faster.
    """

    runs_here = True

    def __init__(self, engine: str | None = None) -> None:
        self.name = "x86"
        self._engines = (engine,) if engine else tuple(ENGINES)
        self._asked = engine

    def candidates(self, graph: Graph, precision: str) -> list[Candidate]:
        """Engines by lowering forms, in the precision asked for; `auto` is fp32.

        Raises:
            UnsupportedError: no engine takes the graph; lists all reasons of each.
            MissingExtraError: the only engine for the precision is not installed.
            JobError: the precision is not available here.
        """
        wanted = "fp32" if precision == "auto" else precision
        if wanted in _LATER:
            raise JobError(
                f"--precision {wanted} is not available on x86: {_LATER[wanted]}",
                fix="use --precision fp32, or bf16 with OpenVINO",
            )
        able = [name for name in self._engines if wanted in ENGINES[name].precisions]
        if not able:
            raise JobError(
                f"{self._asked} does not compute in {wanted} on a CPU", fix="use --target x86:openvino"
            )
        if wanted == "bf16":
            require_bf16()
        installed = [name for name in able if importlib.util.find_spec(_PACKAGES[name]) is not None]
        if not installed:
            raise MissingExtraError(_PACKAGES[able[0]], able[0])
        reasons: list[str] = []
        found: list[Candidate] = []
        for name in installed:
            against = obstacles(graph.model, ENGINES[name])
            if against:
                reasons += [f"{name}: {line}" for line in against]
                continue
            found += [
                Candidate(name, wanted, form)
                for form in forms(graph, name, wanted, alone=installed == [name])
            ]
        if not found:
            raise UnsupportedError(
                "x86", reasons, fix="rewrite these layers in ops that an engine has, or give it as a plugin"
            )
        return found

    def lower(self, graph: Graph, candidate: Candidate) -> Graph:
        """The graph in the candidate's dialect; the given graph is left as it is."""
        if candidate.form == EXPORTED:
            return exported(graph)
        return lowered(graph, candidate)

    def build(self, graph: Graph, candidate: Candidate, folder: Path) -> None:
        """Write the engine of a lowered graph into an empty folder, with its `engine.json`.

        Raises:
            JobError: the engine does not take the graph after all.
        """
        if candidate.engine == "ort":
            from edgec.targets.x86.build_ort import build
        else:
            from edgec.targets.x86.build_openvino import build
        build(graph, candidate, folder)

    def open(self, folder: Path) -> Engine:
        """Open what `build` wrote."""
        return open_engine(folder)

    def profile(self, engine: Engine, feeds: Arrays) -> list[LayerTime]:
        """Per-layer times, under the user's layer names."""
        return engine.profile(feeds)
