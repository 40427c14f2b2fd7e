"""The target x86: ONNX Runtime and OpenVINO behind one contract."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

from edgec.core.decoder import ENCODER
from edgec.core.errors import JobError, MissingExtraError, RequestError, UnsupportedError
from edgec.core.graph import Arrays, Graph
from edgec.runtime.engine import Engine, LayerTime
from edgec.runtime.engines import open_engine
from edgec.targets.base import Candidate, Fallback, Offer
from edgec.targets.x86 import decoders, keep
from edgec.targets.x86.accepts import ENGINES, obstacles
from edgec.targets.x86.cpu import lacking, require_bf16, sums_in_16_bits
from edgec.targets.x86.forms import BY_KERNELS, EXPORTED, exported, forms, kernel_ops, lowered
from edgec.targets.x86.kernels import Kernels, find_kernels
from edgec.targets.x86.order import WEIGHTS_ALONE, missing_plain, tried
from edgec.targets.x86.quantize_ort import GIVEN

_PACKAGES = {"ort": "onnxruntime", "openvino": "openvino"}


class X86:
    """This machine's processor.

    Args:
        engine: `ort` or `openvino` for that one only; None for whichever is faster.
    """

    runs_here = True
    decodes = True

    def __init__(self, engine: str | None = None) -> None:
        self.name = "x86"
        self._engines = (engine,) if engine else tuple(ENGINES)
        self._asked = engine

    @functools.cached_property
    def _kernels(self) -> Kernels:
        """Looked for when a graph needs them: compiling them takes some seconds."""
        return find_kernels()

    def candidates(self, graph: Graph, precision: str) -> list[Candidate]:
        """Engines by lowering forms, in the precision asked for; `auto` is fp32.

        Raises:
            UnsupportedError: no engine takes the graph; lists all reasons of each.
            MissingExtraError: the only engine for the precision is not installed.
            JobError: the precision is not available here.
        """
        if graph.decoder is not None:
            return decoders.candidates(graph, precision, self._asked)
        wanted = "fp32" if precision == "auto" else precision
        if wanted == "fp16":
            raise JobError(
                "--precision fp16 is not available on x86: its processors compute fp16 in fp32",
                fix="use --precision fp32, or bf16 with OpenVINO",
            )
        if wanted == "int4":
            raise JobError(
                "--precision int4 is for Core ML packages; x86 computes with int8",
                fix="use --precision int8, which also tries weights of 4 bits",
            )
        if wanted == "int8":
            raise RequestError(
                "--precision int8 needs inputs to see the ranges on, and to measure what it costs",
                fix="give --calib F.npz with inputs as the model will meet them",
            )
        able = [name for name in self._engines if wanted in ENGINES[name].precisions]
        if not able:
            raise JobError(
                f"{self._asked} does not compute in {wanted} on a CPU", fix="use --target x86:openvino"
            )
        if wanted == "bf16":
            require_bf16()
        return [
            Candidate(name, wanted, form, plain=form == EXPORTED)
            for name in self._engines_for(graph, able)
            for form in forms(graph, name, wanted)
            if not self._lacking_kernels(form)
        ]

    def lossy_candidates(self, graph: Graph, precision: str) -> list[Offer]:
        """Every form exactly, which gates the rest of it, then bf16 and int8, the most promising first.

        Raises:
            UnsupportedError: no engine takes the graph; lists all reasons of each.
            MissingExtraError: the only engine asked for is not installed.
            JobError: `int8` is asked for and this processor has no such products.
        """
        if precision == "int8" and all(reasons := [lacking(name, "int8") for name in self._engines]):
            raise JobError(f"--precision {reasons[0]}", fix="use --precision fp32")
        engines = self._engines_for(graph, list(self._engines))
        offers = [
            Offer(candidate, _refusal(candidate) or self._lacking_kernels(candidate.form))
            for candidate in tried(graph, engines, precision)
        ]
        return offers + [
            Offer(Candidate(name, "fp32", EXPORTED, plain=True), f"it cannot ship: {why}")
            for name in engines
            if (why := missing_plain(graph, name))
        ]

    def fallbacks(self, graph: Graph, chosen: Candidate, measured: str) -> list[Fallback]:
        """The kernels and the form that a compile did without, for want of a C++ compiler that works."""
        if importlib.util.find_spec(_PACKAGES["openvino"]) is None or "openvino" not in self._engines:
            return []
        found = []
        ops = kernel_ops(graph.model)
        if ops and self._kernels.why:
            ships = chosen.engine == "openvino"
            found.append(
                Fallback(
                    f"edgec's OpenVINO kernels of {', '.join(ops)}",
                    self._kernels.why,
                    "their definitions in standard ops, in the same engine"
                    if ships
                    else f"{chosen.engine} ships, which runs them by their definitions anyway; OpenVINO "
                    "competed with the definitions too",
                    "; ".join(filter(None, (measured, "what the kernels would take is not known here"))),
                )
            )
        possible = forms(graph, "openvino", "fp32")
        found += [
            Fallback(
                f"OpenVINO's form {form!r}",
                self._kernels.why,
                instead,
                "not known: the form cannot be measured without its kernels",
            )
            for form, instead in BY_KERNELS.items()
            if form in possible and self._kernels.why
        ]
        return found

    def _lacking_kernels(self, form: str) -> str:
        """Why a form whose only point are kernels cannot be had; empty where it can."""
        return self._kernels.why if form in BY_KERNELS else ""

    def open_keeping(self, folder: Path, layers: frozenset[str]) -> Engine:
        """Open a quantised or bf16 engine with some source layers unquantised, or in fp32."""
        return keep.open_keeping(folder, layers)

    def rounded_layers(self, folder: Path) -> tuple[str, ...]:
        """The source layers that the engine rounds, in execution order."""
        return keep.rounded_layers(folder)

    def _engines_for(self, graph: Graph, able: list[str]) -> list[str]:
        """The installed ones among these engines that take the graph."""
        installed = [name for name in able if importlib.util.find_spec(_PACKAGES[name]) is not None]
        if not installed:
            raise MissingExtraError(_PACKAGES[able[0]], able[0])
        reasons = {name: obstacles(graph.model, ENGINES[name]) for name in installed}
        taking = [name for name in installed if not reasons[name]]
        if not taking:
            raise UnsupportedError(
                "x86",
                [f"{name}: {line}" for name in installed for line in reasons[name]],
                fix="rewrite these layers in ops that an engine has, or give it as a plugin",
            )
        return taking

    def lower(self, graph: Graph, candidate: Candidate) -> Graph:
        """The graph in the candidate's dialect; the given graph is left as it is."""
        if candidate.form == EXPORTED:
            return exported(graph)
        return lowered(graph, candidate, self._ops(graph, candidate))

    def build(self, graph: Graph, candidate: Candidate, folder: Path) -> None:
        """Write the engine of a lowered graph into an empty folder, with its `engine.json`.

        Raises:
            JobError: the engine does not take the graph after all.
        """
        if candidate.engine == "ort":
            from edgec.targets.x86.build_ort import build

            build(graph, candidate, folder)
        else:
            from edgec.targets.x86.build_openvino import build as build_openvino

            library = self._kernels.library if kernel_ops(graph.model) else None
            build_openvino(graph, candidate, folder, library)
            if graph.decoder is not None and graph.decoder.encoder is not None:
                encoder = decoders.encoder_of(candidate)
                inside = folder / ENCODER
                inside.mkdir()
                self.build(self.lower(graph.decoder.encoder, encoder), encoder, inside)

    def _ops(self, graph: Graph, candidate: Candidate) -> frozenset[str]:
        """The ops of `ai.edgec` that stay as they are for the candidate's engine."""
        if candidate.engine != "openvino":
            return frozenset()
        needed = candidate.form in BY_KERNELS or kernel_ops(graph.model)
        return self._kernels.ops if needed else frozenset()

    def open(self, folder: Path) -> Engine:
        """Open what `build` wrote."""
        return open_engine(folder)

    def profile(self, engine: Engine, feeds: Arrays) -> list[LayerTime]:
        """Per-layer times, under the user's layer names."""
        return engine.profile(feeds)


def _refusal(candidate: Candidate) -> str:
    """Why this processor cannot run a candidate; empty where it can."""
    if (candidate.engine, candidate.scheme) in WEIGHTS_ALONE:
        return ""  # the products are fp32
    if candidate.scheme == GIVEN and sums_in_16_bits():
        return (
            "the file's weights take 8 bits, and this processor sums pairs of products in 16: they saturate"
        )
    precisions = filter(None, (candidate.precision, candidate.rest))
    return next(filter(None, (lacking(candidate.engine, one) for one in precisions)), "")
