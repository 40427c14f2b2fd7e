"""The target RTX: portable TensorRT-RTX engines, built here without a GPU."""

from __future__ import annotations

import difflib
from pathlib import Path

from edgec.core.errors import JobError, RequestError
from edgec.core.graph import Arrays, Graph
from edgec.runtime.engine import Engine, EngineDescription, LayerTime
from edgec.targets.base import Candidate
from edgec.targets.jetson import lowering, writing
from edgec.targets.jetson.engine import CheckedGraph
from edgec.targets.jetson.plan import MODEL
from edgec.targets.jetson.precise import int8_candidates, kept_nodes, lowered
from edgec.targets.jetson.preview import CAPABILITIES, preview, rtx_version
from edgec.targets.jetson.shapes import shape_profiles
from edgec.targets.jetson.versions import Dialect, dialects

ENGINE = "tensorrt-rtx"
FILE = "model.engine"
PRECISIONS = ("fp32", "fp16", "int8")

DEFAULT = (80, 86, 89, 120)
"""Ampere to Blackwell: what one engine serves where no capability is named. Turing (`sm75`) has no fp32
products in TensorRT-RTX, so it is for those who ask for it."""

_DIALECT = "11.0"
"""TensorRT-RTX has the parser of TensorRT 11."""


class Rtx:
    """NVIDIA's RTX GPUs, through TensorRT-RTX.

    Args:
        capability: `sm86` and the like for one compute capability; None for all of `DEFAULT`.
    """

    runs_here = False
    """A machine that compiles may have no GPU: the graph is checked here, and nothing is measured."""

    def __init__(self, capability: str | None = None) -> None:
        self.name = "rtx"
        self.capabilities = DEFAULT if capability is None else (_capability(capability),)
        self._shipped: str | None = None

    @property
    def dialect(self) -> Dialect:
        """What its parser takes."""
        return dialects()[_DIALECT]

    def candidates(self, graph: Graph, precision: str) -> list[Candidate]:
        """One engine in the precision asked for; `auto` is fp16.

        Raises:
            UnsupportedError: something in the graph has no form in TensorRT-RTX; lists all of it.
            RequestError: a dimension is open and has no bounds.
            JobError: the precision is not available.
            MissingExtraError: tensorrt-rtx is not installed.
        """
        wanted = "fp16" if precision == "auto" else precision
        if wanted not in PRECISIONS:
            raise JobError(
                f"--precision {wanted} is not available on RTX", fix=f"use {' or '.join(PRECISIONS)}"
            )
        version = rtx_version()
        shape_profiles(graph)
        model = lowering.lower(graph.model, self.dialect, native_attention=wanted != "fp32")
        self._shipped = wanted
        listed = ", ".join(f"sm{one}" for one in self.capabilities)
        form = f"TensorRT-RTX {version}, {listed}"
        if wanted != "int8":
            return [Candidate(ENGINE, wanted, form)]
        return int8_candidates(ENGINE, form, model, graph)

    def lower(self, graph: Graph, candidate: Candidate) -> Graph:
        """The graph in TensorRT-RTX's dialect, with the candidate's precision written in."""
        model, _ = lowered(graph, candidate, self.dialect, min(self.capabilities))
        return graph.with_model(model)

    def build(self, graph: Graph, candidate: Candidate, folder: Path) -> None:
        """Write the engine, and the model it was built from, into an empty folder, with its `engine.json`.

        Raises:
            UnsupportedError: the parser or the builder refuses something.
        """
        writing.write_model(graph.model, folder)
        names = {node.name: node.metadata_props.get("edgec.source", node.name) for node in graph.model.graph}
        description = EngineDescription(
            ENGINE,
            MODEL,
            candidate.precision,
            0,
            candidate.form,
            {str(key): str(value) for key, value in names.items()},
        )
        if candidate.precision == self._shipped:
            built = preview(graph.model, self.capabilities, shape_profiles(graph), target="rtx")
            (folder / FILE).write_bytes(built.engine)
            writing.write_preview(
                {
                    "tool": built.tool,
                    "compute_capabilities": [f"{one // 10}.{one % 10}" for one in self.capabilities],
                    "engine": FILE,
                    "layers": built.layers,
                    "attention": writing.attention_summary(graph.model, min(self.capabilities)),
                    "kept_in_fp32": len(kept_nodes(graph.model)),
                },
                folder,
            )
        description.write(folder)

    def open(self, folder: Path) -> Engine:
        """Open the model that the engine was built from, for checking."""
        return CheckedGraph(folder)

    def profile(self, engine: Engine, feeds: Arrays) -> list[LayerTime]:
        """No times: only an RTX GPU can measure them."""
        return engine.profile(feeds)


def _capability(name: str) -> int:
    known = {f"sm{one}": one for one in CAPABILITIES}
    if name.lower() not in known:
        near = difflib.get_close_matches(name.lower(), known, n=2)
        raise RequestError(
            f"TensorRT-RTX builds for no compute capability {name!r}",
            fix=f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(known)}",
        )
    return known[name.lower()]


__all__ = ["DEFAULT", "ENGINE", "Rtx"]
